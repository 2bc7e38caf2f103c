"""The kernel of attention between frames, interpreted, against the plain products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import sharding
from posetraj_jax.nn.attention_kernels import LANES
from posetraj_jax.nn.frame_attention import MOST_FRAMES, attend_frames, attend_frames_on_tpu
from tests.meshes import mesh_of


def draw(*shape: int) -> list[jax.Array]:
    return [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 4)]


def on_tpu(q, k, v):
    return attend_frames_on_tpu(q, k, v, interpret=True)


@pytest.mark.parametrize(
    "shape",
    [
        (2, 14, 2 * LANES + 44, 2, 64),  # a block that is not full
        (1, 25, LANES + 45, 1, 64),
        (1, 3, 45, 1, 16),  # fewer positions than a block has
        (1, 3, 4 * LANES, 3, 16),
        (1, 1, 5, 1, 8),
    ],
    ids=str,
)
def test_values_and_all_gradients_are_those_of_the_plain_products(shape):
    q, k, v, gradient = draw(*shape)
    with jax.default_matmul_precision("highest"):
        made, back = jax.vjp(jax.jit(on_tpu), q, k, v)
        expected, expected_back = jax.vjp(jax.jit(attend_frames), q, k, v)
        made, expected = (made, *back(gradient)), (expected, *expected_back(gradient))
    for got, wanted in zip(made, expected, strict=True):
        largest = max(np.abs(wanted).max(), 1e-3)
        np.testing.assert_allclose(got, wanted, atol=1e-5 * largest)


def test_in_bfloat16_only_the_results_are_rounded():
    q, k, v = (part.astype(jnp.bfloat16) for part in draw(1, 14, 40, 2, 64)[:3])
    made = on_tpu(q, k, v)
    exact = attend_frames(*(part.astype(jnp.float32) for part in (q, k, v)))
    assert made.dtype == jnp.bfloat16
    np.testing.assert_allclose(made.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


def test_huge_scores_do_not_overflow():
    q, k, v, _ = draw(1, 4, 8, 1, 16)
    made = on_tpu(100.0 * q, 100.0 * k, v)
    np.testing.assert_allclose(made, attend_frames(100.0 * q, 100.0 * k, v), atol=1e-4)


@pytest.mark.parametrize("positions", [6, 5], ids=["split", "whole"])
def test_every_device_attends_at_its_own_positions(positions):
    q, k, v, gradient = draw(2, 3, positions, 1, 16)
    mesh = mesh_of(1, 2, 2, devices=jax.devices()[:4])

    def both(q, k, v, gradient):
        made, back = jax.vjp(on_tpu, q, k, v)
        return made, *back(gradient)

    placed = jax.device_put((q, k, v, gradient), sharding.replicated(mesh))
    made = sharding.jit(both, mesh)(*placed)
    expected, back = jax.vjp(attend_frames, q, k, v)
    for got, wanted in zip(made, (expected, *back(gradient)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_long_clips_take_the_plain_products():
    """On a device without the kernel, so that calling it would fail."""
    q, k, v, _ = draw(1, MOST_FRAMES + 1, 4, 1, 8)
    np.testing.assert_array_equal(attend_frames(q, k, v, "splash"), attend_frames(q, k, v))
    with pytest.raises(ValueError, match=r"interpret|CPU"):
        attend_frames(q[:, 1:], k[:, 1:], v[:, 1:], "splash")
