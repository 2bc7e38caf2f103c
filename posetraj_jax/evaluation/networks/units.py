"""What both Inception networks are made of: a convolution, a fixed batch norm and a ReLU."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.layers import Make

EPSILON = 1e-3
"""Of every batch norm, in both published networks."""


class BatchNorm(nnx.Module):
    """Batch normalisation by the statistics of the training set, which are parameters here."""

    def __init__(self, c: int):
        self.scale, self.bias = nnx.Param(jnp.ones((c,))), nnx.Param(jnp.zeros((c,)))
        self.mean, self.var = nnx.Param(jnp.zeros((c,))), nnx.Param(jnp.ones((c,)))

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        """Every channel by itself, whatever else is in the batch."""
        factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + EPSILON)
        return x * factor + (self.bias[...] - self.mean[...] * factor)


class Unit(nnx.Module):
    """Convolution without bias, batch norm, ReLU, over any number of spatial axes."""

    def __init__(
        self,
        make: Make,
        c_in: int,
        c_out: int,
        kernel: tuple[int, ...],
        *,
        strides: int = 1,
        padding: Any = "SAME",
    ):
        strides = (strides,) * len(kernel)
        options = {"strides": strides, "padding": padding, "use_bias": False}
        self.conv = make.conv(c_in, c_out, kernel, **options)
        self.bn = BatchNorm(c_out)

    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space2 d"]:
        """Features of the same or a smaller grid, never negative."""
        return jax.nn.relu(self.bn(self.conv(x)))


def max_pool(
    x: Float[Array, "b *space c"], window: Sequence[int], strides: Sequence[int], padding: str
) -> Float[Array, "b *space2 c"]:
    """The largest value of each window; padding counts as minus infinity."""
    reach, steps = (1, *window, 1), (1, *strides, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, reach, steps, padding)


def mean_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The mean of the 3 × 3 neighbours that are in the image, as TensorFlow takes it."""

    def total(values: Array) -> Array:
        return jax.lax.reduce_window(values, 0.0, jax.lax.add, (1, 3, 3, 1), (1,) * 4, "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))
