"""The Euler sampler on problems whose answer is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from posetraj_jax.diffusion import sampler
from posetraj_jax.diffusion.noise import karras_sigmas


def sample(denoise, latents, steps):
    step = jax.jit(lambda *args: sampler.euler_step(denoise, *args), donate_argnums=0)
    return list(sampler.steps(step, latents, karras_sigmas(steps, 0.002, 700.0)))


def test_a_perfect_denoiser_is_reached_in_one_step():
    target = jnp.full((1, 2, 4, 4, 4), 0.3)
    (last,) = sample(lambda x, sigma: target, jnp.ones((1, 2, 4, 4, 4)), 1)
    np.testing.assert_allclose(last, target, atol=1e-6)


def test_gaussian_data_follow_the_exact_flow():
    """For data N(0, 1), D(x) = x / (1 + sigma^2); the flow divides x by sqrt(1 + sigma^2)."""

    def denoise(x, sigma):
        return x / (1 + sigma[:, None, None, None, None] ** 2)

    start = jax.random.normal(jax.random.key(0), (1, 2, 4, 4, 4)) * (700.0**2 + 1) ** 0.5
    expected = np.asarray(start) / (700.0**2 + 1) ** 0.5
    last = sample(denoise, start, 400)[-1]
    np.testing.assert_allclose(last, expected, rtol=0.02)


def test_every_step_is_one_call_of_one_compiled_function():
    compiled = jax.jit(lambda x, sigma, sigma_next: x * (sigma_next / sigma))
    latents = jnp.ones((1, 1, 1, 1, 4))
    for _ in sampler.steps(compiled, latents, karras_sigmas(3, 0.002, 700.0)):
        pass
    again = list(sampler.steps(compiled, latents, karras_sigmas(7, 0.002, 700.0)))
    assert len(again) == 7
    assert compiled._cache_size() == 1


def test_guidance_per_frame():
    scales = sampler.guidance_scales(3, 1.0, 3.0)
    np.testing.assert_array_equal(scales, [1.0, 2.0, 3.0])

    def denoise(x, sigma):
        """Unconditional half answers 1, conditional half 2."""
        assert x.shape[0] == 4
        assert sigma.shape == (4,)
        halves = jnp.repeat(jnp.array([1.0, 2.0]), 2)
        return jnp.broadcast_to(halves[:, None, None, None, None], x.shape)

    guided = sampler.guided(denoise, jnp.asarray(scales))
    out = guided(jnp.zeros((2, 3, 2, 2, 4)), jnp.ones(2))
    np.testing.assert_allclose(out[1, :, 0, 0, 0], [2.0, 3.0, 4.0])


def test_initial_latents_have_the_deviation_of_svd():
    noise = jax.random.normal(jax.random.key(0), (1, 14, 16, 24, 4))
    latents = sampler.initial_latents(noise, 700.0)
    assert abs(float(latents.std()) / (700.0**2 + 1) ** 0.5 - 1) < 0.02
