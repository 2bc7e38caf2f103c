"""Densities and grids against the numbers of the official code and of SVD's scheduler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax.diffusion import noise
from posetraj_jax.diffusion.noise import NoiseOptions

COSINE = NoiseOptions("cosine", sigma_min=0.002, sigma_max=700.0, p_mean=0.7, p_std=1.6)
LOGNORMAL = dataclasses.replace(COSINE, sigma_density="lognormal")


def test_cosine_quantiles_of_the_official_code():
    expected = {0.01: 58.1, 0.05: 12.1, 0.1: 5.85, 0.25: 2.03, 0.5: 0.708, 0.75: 0.248}
    expected |= {0.9: 0.0867, 0.95: 0.0426, 0.99: 0.0099}
    got = noise.sigma_quantile(jnp.array(list(expected)), COSINE)
    np.testing.assert_allclose(got, list(expected.values()), rtol=5e-3)


def test_cosine_ends_are_the_limits():
    np.testing.assert_allclose(
        noise.sigma_quantile(jnp.array([0.0, 1.0]), COSINE), [700.0, 0.002], rtol=1e-4
    )


def test_cosine_moments_of_the_official_code():
    u = (jnp.arange(100_000) + 0.5) / 100_000
    log_sigma = jnp.log(noise.sigma_quantile(u, COSINE))
    assert abs(float(log_sigma.mean()) - -0.34) < 0.01
    assert abs(float(log_sigma.std()) - 1.71) < 0.01


def test_lognormal_median_and_one_deviation():
    u = jnp.array([0.5, 0.8413447])
    np.testing.assert_allclose(
        jnp.log(noise.sigma_quantile(u, LOGNORMAL)), [0.7, 0.7 + 1.6], atol=1e-4
    )


@pytest.mark.parametrize("options", [COSINE, LOGNORMAL])
def test_draws_are_stratified_and_finite(options):
    sigma = noise.draw_sigma(jax.random.key(0), 64, options)
    assert sigma.shape == (64,)
    assert bool(jnp.isfinite(sigma).all())
    ordered = jnp.sort(sigma)
    edges = jnp.sort(noise.sigma_quantile(jnp.arange(1, 64) / 64, options))
    assert bool((ordered[:-1] <= edges * 1.0001).all())
    assert bool((ordered[1:] >= edges * 0.9999).all())


def test_karras_grid_of_svd_for_25_steps():
    expected = [700, 545.7, 421.6, 322.5, 244.0, 182.5, 134.9, 98.3, 70.5, 49.8, 34.5, 23.5, 15.6]
    expected += [10.1, 6.35, 3.87, 2.27, 1.27, 0.678, 0.339, 0.157, 0.0664, 0.0248, 0.00788]
    expected += [0.002, 0.0]
    got = noise.karras_sigmas(25, 0.002, 700.0)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=5e-3)
