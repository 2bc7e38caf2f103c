"""Preconditioning against hand-computed numbers and against the identities that define it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax.diffusion import edm

SIGMAS = jnp.array([0.002, 0.5, 1.0, 3.0, 700.0])


def test_scalings_at_sigma_one():
    s = edm.scalings(jnp.array([1.0]))
    np.testing.assert_allclose(s.c_skip, [0.5], rtol=1e-6)
    np.testing.assert_allclose(s.c_out, [-(0.5**0.5)], rtol=1e-6)
    np.testing.assert_allclose(s.c_in, [0.5**0.5], rtol=1e-6)
    np.testing.assert_allclose(s.c_noise, [0.0], atol=1e-7)


def test_c_noise_is_a_quarter_of_the_logarithm():
    np.testing.assert_allclose(edm.scalings(jnp.array([np.e**2])).c_noise, [0.5], rtol=1e-6)


def test_scalings_are_float32_for_bfloat16_sigmas():
    assert all(s.dtype == jnp.float32 for s in edm.scalings(jnp.ones(2, jnp.bfloat16)))


def test_perfect_network_denoises_perfectly():
    """With F = (noise - sigma x0) / sqrt(1 + sigma^2) the denoiser returns x0."""
    latents, noise = jax.random.normal(jax.random.key(0), (2, 5, 1, 2, 2, 4))
    noisy = edm.add_noise(latents, noise, SIGMAS)
    s = edm.scalings(SIGMAS)
    sigma = edm.expand(SIGMAS, 5)
    target = (noise - sigma * latents) / jnp.sqrt(1 + sigma**2)
    denoised = edm.expand(s.c_skip, 5) * noisy + edm.expand(s.c_out, 5) * target
    np.testing.assert_allclose(denoised, latents, atol=2e-4)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_network_input_has_unit_variance_for_unit_latents(sigma):
    latents, noise = jax.random.normal(jax.random.key(1), (2, 1, 4, 32, 32, 4))
    sigmas = jnp.array([sigma])
    noisy = edm.add_noise(latents, noise, sigmas)
    assert abs(float(jnp.std(noisy * edm.scalings(sigmas).c_in[0])) - 1) < 0.02


def test_weight_makes_the_loss_a_mean_square_of_the_network():
    """weight x c_out^2 = 1 for every noise level."""
    np.testing.assert_allclose(
        edm.loss_weight(SIGMAS) * edm.scalings(SIGMAS).c_out ** 2, np.ones(5), rtol=1e-5
    )
