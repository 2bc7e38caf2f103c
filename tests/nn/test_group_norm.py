"""Group normalisation's own backward pass against autodiff of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax.nn.group_norm import NUM_GROUPS, group_norm
from posetraj_jax.nn.layers import OVER_CLIP, OVER_FRAME
from tests.parity import draw

EPS = 1e-5
SHAPE = (2, 3, 4, 5, 64)


def by_definition(x, scale, bias, axes, silu):
    grouped = x.reshape(*x.shape[:-1], NUM_GROUPS, -1)
    over = (*(axis - 1 for axis in axes), -1)
    centred = grouped - grouped.mean(over, keepdims=True)
    standard = centred / jnp.sqrt(jnp.square(centred).mean(over, keepdims=True) + EPS)
    y = standard.reshape(x.shape) * scale + bias
    return y * jax.nn.sigmoid(y) if silu else y


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("axes", [OVER_FRAME, OVER_CLIP])
def test_values_and_all_gradients_are_those_of_the_definition(axes, silu):
    x, gradient, scale, bias = (
        jnp.asarray(draw(seed, *shape))
        for seed, shape in enumerate((SHAPE, SHAPE, SHAPE[-1:], SHAPE[-1:]))
    )
    x += 2.0
    made, back = jax.vjp(lambda *args: group_norm(*args, EPS, axes, silu), x, scale, bias)
    expected, expected_back = jax.vjp(
        lambda *args: by_definition(*args, axes, silu), x, scale, bias
    )
    pairs = zip((made, *back(gradient)), (expected, *expected_back(gradient)), strict=True)
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, atol=2e-6 * np.abs(wanted).max())


def test_nothing_of_the_inputs_size_is_kept_but_the_input():
    x = jnp.zeros(SHAPE, jnp.bfloat16)
    ones = jnp.ones((SHAPE[-1],))
    _, back = jax.vjp(lambda x: group_norm(x, ones, ones, EPS, OVER_FRAME, True), x)
    kept = [leaf for leaf in jax.tree.leaves(back) if getattr(leaf, "size", 0) >= x.size]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]
