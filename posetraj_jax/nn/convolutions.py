"""Convolutions in the form that is cheapest: those that change the resolution, and over frames.

The first are taken apart so that no zero and no copy is multiplied. Output positions of one parity
see the same taps of the kernel. A convolution for each of the four parities of (row, column),
interleaved, does what one convolution over an enlarged image does: repeating pixels and convolving
needs 16 products a pixel for 36, and the gradient of a halving convolution 9 for the 36 of one over
an image that is three quarters zeros.

All have the signature of `jax.lax.conv_general_dilated`, so that `nnx.Conv` can be given them;
images are [n h w c], kernels [3 3 c_in c_out], unless they say otherwise.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from posetraj_jax.sharding import CONTEXT, current_mesh

Taps = Sequence[tuple[int, tuple[int, ...]]]
"""Of one parity: (offset of the input position, taps of the kernel that meet it), ascending."""

DOUBLED: tuple[Taps, Taps] = (((-1, (0,)), (0, (1, 2))), ((0, (0, 1)), (1, (2,))))
"""Even outputs of a doubled axis see tap 0 one before and taps 1 and 2 here; odd ones mirrored."""

HALVED_BACK: tuple[Taps, Taps] = (((0, (1,)),), ((0, (2,)), (1, (0,))))
"""Inputs of a halving convolution that pads one before: an even one went into one output through
tap 1, an odd one into two, through taps 2 and 0."""

IMAGE_AXES = ("NHWC", "HWIO", "NHWC")
SERIES_AXES = ("WNC", "WIO", "WNC")


def convolve_doubled(
    x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c d"], *_: Any, **options: Any
) -> Float[Array, "n 2*h 2*w d"]:
    """The image with every pixel repeated twice by twice, convolved with one zero around it."""
    precision = options.get("precision")
    return _by_parity(x, kernel, DOUBLED, precision)


def convolve_halving(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "3 3 c d"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "n h2 w2 d"]:
    """A convolution of stride 2 over an even number of rows and columns, one zero around them."""
    padding = tuple(tuple(sides) for sides in padding)
    if tuple(strides) != (2, 2) or padding != ((1, 1), (1, 1)) or x.shape[1] % 2 or x.shape[2] % 2:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    return _halve(x, kernel, options.get("precision"))


def convolve_frames(
    x: Float[Array, "b f h w c"],
    kernel: Float[Array, "3 1 1 c d"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "b f2 h2 w2 d"]:
    """A convolution over frames, one zero before and after them, as a TPU wants it.

    As a volume, a clip by itself has a batch of one, and a TPU lays the batch beside the features:
    a tile of eight rows then holds one. Here every position is an entry of the batch. Clips that
    are split over devices stay volumes: a row of positions cannot be split within each clip. So do
    other strides and paddings than those of SVD.
    """
    mesh = current_mesh()
    is_split = mesh is not None and mesh.shape[CONTEXT] > 1
    moves = tuple(strides), tuple(map(tuple, padding))
    if is_split or moves != ((1, 1, 1), ((1, 1), (0, 0), (0, 0))):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    b, f, h, w, c = x.shape
    series = x.swapaxes(0, 1).reshape(f, b * h * w, c)
    convolved = jax.lax.conv_general_dilated(
        series,
        kernel[:, 0, 0],
        (1,),
        ((1, 1),),
        dimension_numbers=SERIES_AXES,
        precision=options.get("precision"),
    )
    return convolved.reshape(f, b, h, w, -1).swapaxes(0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _halve(x: Array, kernel: Array, precision: Any) -> Array:
    return _plain_halve(x, kernel, precision)


def _plain_halve(x: Array, kernel: Array, precision: Any) -> Array:
    sides = ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), sides, dimension_numbers=IMAGE_AXES, precision=precision
    )


def _halve_forward(x: Array, kernel: Array, precision: Any) -> tuple[Array, tuple[Array, Array]]:
    return _plain_halve(x, kernel, precision), (x, kernel)


def _halve_backward(
    precision: Any, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    of_x = _by_parity(gradient, kernel.swapaxes(2, 3), HALVED_BACK, precision)
    _, of_kernel = jax.vjp(lambda kernel: _plain_halve(x, kernel, precision), kernel)
    return of_x, *of_kernel(gradient)


_halve.defvjp(_halve_forward, _halve_backward)


def _by_parity(
    x: Float[Array, "n h w c"], kernel: Array, parities: tuple[Taps, Taps], precision: Any
) -> Float[Array, "n 2*h 2*w d"]:
    """Four small convolutions, and their outputs interleaved."""
    n, h, w, _ = x.shape
    rows = []
    for of_rows in parities:
        convolved = [
            _convolve(x, kernel, of_rows, of_columns, precision) for of_columns in parities
        ]
        rows.append(jnp.stack(convolved, axis=3))
    return jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, kernel.shape[3])


def _convolve(
    x: Array, kernel: Array, of_rows: Taps, of_columns: Taps, precision: Any
) -> Float[Array, "n h w d"]:
    """The convolution of one parity, with the sums of the taps that meet the same pixel."""
    wide = kernel.astype(jnp.float32)
    summed = _sums(_sums(wide, of_rows, 0), of_columns, 1).astype(kernel.dtype)
    sides = tuple((-taps[0][0], taps[-1][0]) for taps in (of_rows, of_columns))
    return jax.lax.conv_general_dilated(
        x, summed, (1, 1), sides, dimension_numbers=IMAGE_AXES, precision=precision
    )


def _sums(kernel: Array, taps: Taps, axis: int) -> Array:
    """The kernel with one tap for each offset along an axis."""
    parts = [
        sum(jax.lax.index_in_dim(kernel, tap, axis, keepdims=True) for tap in met)
        for _, met in taps
    ]
    return jnp.concatenate(parts, axis=axis)
