"""Convolutions by parity against the plain ones that they stand for, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import flops, sharding
from posetraj_jax.nn.convolutions import (
    IMAGE_AXES,
    convolve_doubled,
    convolve_frames,
    convolve_halving,
)
from tests.meshes import mesh_of

SIDES = ((1, 1), (1, 1))
VOLUME = ((1, 1, 1), ((1, 1), (0, 0), (0, 0)))
VOLUME_OPTIONS = {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC"), "precision": "highest"}


def plain(x, kernel, strides, padding=SIDES):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=IMAGE_AXES, precision="highest"
    )


def plain_doubled(x, kernel):
    return plain(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel, (1, 1))


def doubled(x, kernel):
    return convolve_doubled(x, kernel, precision="highest")


def halved(x, kernel):
    options = {"dimension_numbers": IMAGE_AXES, "precision": "highest"}
    return convolve_halving(x, kernel, (2, 2), SIDES, **options)


def plain_halved(x, kernel):
    return plain(x, kernel, (2, 2))


@pytest.mark.parametrize(
    ("ours", "theirs"), [(doubled, plain_doubled), (halved, plain_halved)], ids=["up", "down"]
)
@pytest.mark.parametrize("size", [(2, 2), (6, 8), (10, 18)])
def test_values_and_both_gradients_are_those_of_the_plain_form(ours, theirs, size):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *size, 5))
    kernel = jax.random.normal(keys[1], (3, 3, 5, 7))
    made, back = jax.vjp(ours, x, kernel)
    expected, expected_back = jax.vjp(theirs, x, kernel)
    np.testing.assert_allclose(made, expected, atol=1e-5 * np.abs(expected).max())
    gradient = jax.random.normal(keys[2], made.shape)
    for got, wanted in zip(back(gradient), expected_back(gradient), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_no_zero_and_no_copy_is_multiplied():
    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 4, 4))
    per_tap = 2 * 4 * 4 * 64  # a tap at every position of x
    assert flops.count(doubled, x, kernel) == 16 * per_tap
    assert flops.count(plain_doubled, x, kernel) == 36 * per_tap

    def of_x(function):
        return lambda x, gradient: jax.vjp(lambda x: function(x, kernel), x)[1](gradient)

    gradient = jnp.zeros((1, 4, 4, 4))
    assert flops.count(of_x(halved), x, gradient) == 9 * per_tap // 4
    assert flops.count(of_x(plain_halved), x, gradient) == 36 * per_tap // 4


@pytest.mark.parametrize("shape", [(1, 7, 8, 3), (1, 8, 9, 3)])
def test_an_odd_side_takes_the_plain_form(shape):
    x, kernel = jnp.ones(shape), jnp.ones((3, 3, 3, 2))
    np.testing.assert_array_equal(halved(x, kernel), plain_halved(x, kernel))
    padded = ((0, 1), (0, 1))
    options = {"dimension_numbers": IMAGE_AXES, "precision": "highest"}
    other = convolve_halving(x, kernel, (2, 2), padded, **options)
    np.testing.assert_array_equal(other, plain(x, kernel, (2, 2), padded))


def over_frames(x, kernel):
    return convolve_frames(x, kernel, *VOLUME, **VOLUME_OPTIONS)


def plain_over_frames(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, *VOLUME, **VOLUME_OPTIONS)


def with_gradients(function):
    def run(x, kernel, gradient):
        made, back = jax.vjp(function, x, kernel)
        return made, *back(gradient)

    return run


@pytest.mark.parametrize("devices", [None, (4, 1, 1), (2, 2, 1), (2, 1, 2), (1, 1, 4)], ids=str)
def test_over_frames_a_clip_is_convolved_as_a_volume_is(devices):
    keys = jax.random.split(jax.random.key(0), 3)
    x, gradient = (jax.random.normal(key, (4, 8, 6, 5, 8)) for key in keys[:2])
    kernel = jax.random.normal(keys[2], (3, 1, 1, 8, 8))
    run, placed = jax.jit(with_gradients(over_frames)), (x, kernel, gradient)
    if devices:
        mesh = mesh_of(*devices, devices=jax.devices()[:4])

        def constrained(x, kernel):
            return sharding.constrain(over_frames(sharding.constrain(x), kernel))

        run = sharding.jit(with_gradients(constrained), mesh)
        placed = jax.device_put(placed, sharding.replicated(mesh))
    for got, wanted in zip(
        run(*placed), with_gradients(plain_over_frames)(x, kernel, gradient), strict=True
    ):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_stride_over_frames_takes_the_plain_form():
    x, kernel = jnp.ones((1, 4, 6, 5, 8)), jnp.ones((3, 1, 1, 8, 8))
    strided = (2, 1, 1), VOLUME[1]
    np.testing.assert_array_equal(
        convolve_frames(x, kernel, *strided, **VOLUME_OPTIONS),
        jax.lax.conv_general_dilated(x, kernel, *strided, **VOLUME_OPTIONS),
    )


def test_over_frames_positions_are_the_batch():
    """So that no batch of one shares a TPU's tile with the features."""
    x, kernel = jnp.zeros((1, 4, 6, 5, 8)), jnp.zeros((3, 1, 1, 8, 8))
    equations = jax.make_jaxpr(over_frames)(x, kernel).eqns
    (made,) = (each.invars[0].aval for each in equations if "conv" in each.primitive.name)
    assert made.shape == (4, 30, 8)
    assert flops.count(over_frames, x, kernel) == flops.count(plain_over_frames, x, kernel)
