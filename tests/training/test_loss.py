"""The loss on denoisers whose error is known."""

import jax
import jax.numpy as jnp
import numpy as np

from posetraj_jax.diffusion import edm
from posetraj_jax.training import loss
from tests.training.conftest import FRAMES, make_batch

SIGMA = jnp.array([0.5, 2.0])


def pair():
    return jax.random.normal(jax.random.key(0), (2, 2, 3, 4, 4, 4))


def test_the_truth_has_no_loss():
    latents, noise = pair()
    losses = loss.diffusion_loss(lambda x, s: latents, latents, noise, SIGMA)
    np.testing.assert_array_equal(losses.loss, [0.0, 0.0])


def test_loss_is_the_mean_square_of_the_v_target():
    latents, noise = pair()
    wide = edm.expand(SIGMA, 5)
    target = (noise - wide * latents) / jnp.sqrt(1 + wide**2)
    losses = loss.diffusion_loss(lambda x, s: x / (1 + wide**2), latents, noise, SIGMA)
    expected = jnp.mean(target**2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(losses.loss, expected, rtol=1e-5)
    np.testing.assert_allclose(losses.zero, expected, rtol=1e-5)


def test_noise_belongs_to_the_clip_and_not_to_its_place():
    keys = jax.random.split(jax.random.key(3), 3)
    all_three = loss.draw_clip_noise(keys, make_batch(3), 4)
    last = loss.draw_clip_noise(keys[2:], make_batch(1), 4)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:], b), all_three, last)
    assert all_three.diffusion.shape == (3, FRAMES, 8, 8, 4)
    for kind in (all_three.posterior, all_three.diffusion):
        assert float(jnp.abs(kind[0] - kind[1]).mean()) > 0.5
    assert float(jnp.abs(all_three.posterior - all_three.diffusion).mean()) > 0.5
