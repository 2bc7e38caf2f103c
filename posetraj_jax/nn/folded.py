"""Convolutions over images whose pixels are folded into channels, two rows by two columns.

A TPU moves and multiplies 128 numbers of the last axis at a time, so that 16 channels at the
resolution of pixels leave seven eighths of it idle: an image of 320 x 576 x 16 takes the room of
320 x 576 x 128. Folded it is 160 x 288 x 64. The kernel is laid out for that, with zeros where a
tap does not reach: more products, for a fraction of the memory and of the time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.convolutions import IMAGE_AXES
from posetraj_jax.nn.shared_kernels import use_whole


def convolve_folding(
    x: Float[Array, "*batch h w c"], conv: nnx.Conv
) -> Float[Array, "*batch h2 w2 d4"]:
    """What a 3 x 3 convolution with one zero around the image makes of it, folded.

    Every 2 x 2 pixels are one, their features side by side, row by row. The image itself is not
    folded first: to turn three channels takes longer than the convolution.
    """
    return _convolve(x, conv, _spread, 4, 2, (1, 1))


def convolve_folded(
    x: Float[Array, "*batch h w c4"], conv: nnx.Conv
) -> Float[Array, "*batch h w d"]:
    """The same of a folded image: folded again, or plain where the convolution halves it.

    `d` is four times the convolution's features in the first case.
    """

    def first(kernel: Array) -> Array:
        return _fold_taps(jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))))

    def around(kernel: Array) -> Array:
        return _fold_taps(jnp.pad(_spread(kernel), ((1, 1), (1, 1), (0, 0), (0, 0))))

    if conv.strides == 2:
        return _convolve(x, conv, first, 1, 1, (1, 0))
    return _convolve(x, conv, around, 4, 1, (1, 1))


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
    x: Float[Array, "*batch h w c"],
    conv: nnx.Conv,
    laid_out: Callable[[Array], Array],
    pixels: int,
    stride: int,
    sides: tuple[int, int],
) -> Float[Array, "*batch h2 w2 d"]:
    """With the kernel as `laid_out` makes it, for so many pixels at a time."""

    def product(kernel: Array, x: Array) -> Array:
        images, strides, padding = x.reshape(-1, *x.shape[-3:]), (stride, stride), (sides, sides)
        return jax.lax.conv_general_dilated(
            images, laid_out(kernel), strides, padding, dimension_numbers=IMAGE_AXES
        )

    convolved = use_whole(product, jnp.asarray(conv.kernel[...]), x.dtype, x)
    bias = jnp.tile(jnp.asarray(conv.bias[...], x.dtype), pixels)
    return convolved.reshape(*x.shape[:-3], *convolved.shape[1:]) + bias
