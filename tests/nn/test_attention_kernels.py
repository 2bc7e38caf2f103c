"""Splash attention, interpreted, against the plain products; and what padding must never do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import sharding
from posetraj_jax.nn.attention_kernels import attend, attend_splash, tile_of
from tests.meshes import mesh_of


def draw(*shape: int) -> list[jax.Array]:
    return [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 4)]


def splash(q, k, v):
    return attend_splash(q, k, v, interpret=True)


@pytest.mark.parametrize("tokens", [720, 2880, 512])
def test_splash_equals_the_plain_products_forward_and_backward(tokens):
    q, k, v, gradient = draw(1, 1, tokens, 1, 64)
    with jax.default_matmul_precision("highest"):
        made, back = jax.vjp(jax.jit(splash), q, k, v)
        expected, expected_back = jax.vjp(jax.jit(attend), q, k, v)
        pairs = zip((made, *back(gradient)), (expected, *expected_back(gradient)), strict=True)
        for got, wanted in pairs:
            np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_clips_frames_and_heads_do_not_see_each_other():
    q, k, v, _ = draw(2, 3, 130, 2, 64)
    made = jax.jit(splash)(q, k, v)
    np.testing.assert_allclose(made, attend(q, k, v), atol=1e-4)


def test_what_pads_a_sequence_is_never_seen():
    """Every real key has a score far below zero, which is what a key of padding would have."""
    q, k, v, _ = draw(1, 1, 100, 1, 64)
    q, k = jnp.abs(q) + 1.0, -jnp.abs(k) - 1.0
    np.testing.assert_allclose(splash(q, k, v), attend(q, k, v), atol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "tile"), [(2880, (1024, 3072)), (720, (768, 768)), (9216, (1024, 9216))]
)
def test_the_tile_pads_as_little_as_any(tokens, tile):
    assert tile_of(tokens) == tile


@pytest.mark.parametrize("shape", [(2, 2, 128, 1, 64), (1, 3, 128, 1, 64)])
def test_every_device_attends_to_its_own_part(shape):
    """By frames, and, where these do not divide, by queries with all keys."""
    q, k, v, _ = draw(*shape)
    mesh = mesh_of(1, 2, 2, devices=jax.devices()[:4])
    placed = jax.device_put((q, k, v), sharding.replicated(mesh))
    made = sharding.jit(splash, mesh)(*placed)
    np.testing.assert_allclose(made, attend(q, k, v), atol=1e-4)


def test_few_tokens_take_the_plain_products():
    """On a device without the kernel, so that calling it would fail."""
    q, k, v, _ = draw(1, 1, 64, 1, 8)
    np.testing.assert_array_equal(attend(q, k, v, "splash"), attend(q, k, v, "xla"))
    with pytest.raises(ValueError, match=r"interpret|CPU"):
        attend(*(jnp.tile(each, (1, 1, 8, 1, 1)) for each in (q, k, v)), "splash")
