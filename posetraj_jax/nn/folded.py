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


def convolve_folding(
    x: Float[Array, "*batch h w c"], conv: nnx.Conv
) -> Float[Array, "*batch h2 w2 d4"]:
    """What a 3 x 3 convolution with one zero around the image makes of it, folded.

    Every 2 x 2 pixels are one, their features side by side, row by row. The image itself is not
    folded first: to turn three channels takes longer than the convolution.
    """
    return _convolve(x, _spread(_kernel(conv, x)), jnp.tile(_bias(conv, x), 4), 2, (1, 1))


def convolve_folded(
    x: Float[Array, "*batch h w c4"], conv: nnx.Conv
) -> Float[Array, "*batch h w d"]:
    """The same of a folded image: folded again, or plain where the convolution halves it.

    `d` is four times the convolution's features in the first case.
    """
    kernel, bias = _kernel(conv, x), _bias(conv, x)
    if conv.strides == 2:
        first = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
        return _convolve(x, _fold_taps(first), bias, 1, (1, 0))
    around = jnp.pad(_spread(kernel), ((1, 1), (1, 1), (0, 0), (0, 0)))
    return _convolve(x, _fold_taps(around), jnp.tile(bias, 4), 1, (1, 1))


def _spread(kernel: Float[Array, "3 3 c d"]) -> Float[Array, "4 4 c d4"]:
    """For four pixels at a time, each of which has the taps elsewhere."""
    wide = kernel.astype(jnp.float32)  # so that gradients of the four are summed in float32
    placed = [
        jnp.pad(wide, ((row, 1 - row), (column, 1 - column), (0, 0), (0, 0)))
        for row in (0, 1)
        for column in (0, 1)
    ]
    return jnp.concatenate(placed, axis=-1).astype(kernel.dtype)


def _fold_taps(kernel: Float[Array, "h w c d"]) -> Float[Array, "h2 w2 c4 d"]:
    """For an image whose every 2 x 2 pixels are one."""
    h, w, c, d = kernel.shape
    taps = kernel.reshape(h // 2, 2, w // 2, 2, c, d)
    return jnp.moveaxis(taps, 1, 2).reshape(h // 2, w // 2, 4 * c, d)


def _convolve(
    x: Float[Array, "*batch h w c"], kernel: Array, bias: Array, stride: int, sides: tuple[int, int]
) -> Float[Array, "*batch h2 w2 d"]:
    convolved = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-3:]),
        kernel,
        (stride, stride),
        (sides, sides),
        dimension_numbers=IMAGE_AXES,
    )
    return convolved.reshape(*x.shape[:-3], *convolved.shape[1:]) + bias


def _kernel(conv: nnx.Conv, x: Array) -> Array:
    return whole(jnp.asarray(conv.kernel[...]), x.dtype)


def _bias(conv: nnx.Conv, x: Array) -> Array:
    return jnp.asarray(conv.bias[...], x.dtype)
