"""Convolutions over images whose pixels are folded into channels, two rows by two columns.

A TPU moves and multiplies 128 numbers of the last axis at a time, so that 16 channels at the
resolution of pixels leave seven eighths of it idle: an image of 320 x 576 x 16 takes the room of
320 x 576 x 128. Folded it is 160 x 288 x 64. The kernel is laid out for that, with zeros where a
tap does not reach: more products, for a fraction of the memory and of the time.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.convolutions import IMAGE_AXES
from posetraj_jax.sharding import whole


def fold(x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 c4"]:
    """Every 2 x 2 pixels as one with their channels side by side, row by row."""
    *batch, h, w, c = x.shape
    x = x.reshape(*batch, h // 2, 2, w // 2, 2, c)
    return jnp.moveaxis(x, -4, -3).reshape(*batch, h // 2, w // 2, 4 * c)


def convolve_folded(
    x: Float[Array, "*batch h w c4"], conv: nnx.Conv
) -> Float[Array, "*batch h w d"]:
    """What a 3 x 3 convolution with one zero around the image makes of a folded image.

    Folded again if it keeps the resolution (`d` is four times its features); plain if it halves it.
    """
    kernel = whole(jnp.asarray(conv.kernel[...]), x.dtype)
    bias = jnp.asarray(conv.bias[...], x.dtype)
    if conv.strides == 2:
        kernel, sides = _halving(kernel), (1, 0)
    else:
        kernel, bias, sides = _keeping(kernel), jnp.tile(bias, 4), (1, 1)
    convolved = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-3:]),
        kernel,
        (1, 1),
        (sides, sides),
        dimension_numbers=IMAGE_AXES,
        precision=conv.precision,
    )
    return convolved.reshape(*x.shape[:-1], -1) + bias


def _keeping(kernel: Float[Array, "3 3 c d"]) -> Float[Array, "3 3 c4 d4"]:
    """From a folded image to a folded one: each of the four pixels has the taps elsewhere."""
    wide = kernel.astype(jnp.float32)  # so that gradients of the four are summed in float32
    placed = [
        _fold_taps(jnp.pad(wide, ((1 + row, 2 - row), (1 + column, 2 - column), (0, 0), (0, 0))))
        for row in (0, 1)
        for column in (0, 1)
    ]
    return jnp.concatenate(placed, axis=-1).astype(kernel.dtype)


def _halving(kernel: Float[Array, "3 3 c d"]) -> Float[Array, "2 2 c4 d"]:
    """From a folded image to the plain one of half the resolution."""
    return _fold_taps(jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))))


def _fold_taps(kernel: Float[Array, "h w c d"]) -> Float[Array, "h2 w2 c4 d"]:
    return jnp.moveaxis(fold(jnp.moveaxis(kernel, -1, 0)), 0, -1)
