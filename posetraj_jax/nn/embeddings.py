"""Sinusoids of numbers, and the small networks that turn them into features."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.layers import Make

MAX_PERIOD = 10_000.0


def sinusoid(values: Float[Array, "*axes"], d: int) -> Float[Array, "*axes d"]:
    """Cosines, then sines, of `values` at d/2 frequencies falling from 1 towards 1/10000; float32.

    Source: exp(-ln(10⁴) k / (d/2)), order [cos | sin], as in every embedding of SVD.
    """
    frequencies = jnp.exp(-math.log(MAX_PERIOD) * jnp.arange(d // 2, dtype=jnp.float32) / (d // 2))
    angles = values.astype(jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class EmbeddingMLP(nnx.Module):
    """Linear, SiLU, linear: from a sinusoid to features."""

    def __init__(self, d_in: int, d_hidden: int, d_out: int, make: Make):
        self.linear_1 = make.linear(d_in, d_hidden)
        self.linear_2 = make.linear(d_hidden, d_out)

    def __call__(self, x: Float[Array, "*axes d_in"]) -> Float[Array, "*axes d_out"]:
        """Features of `x`."""
        return self.linear_2(jax.nn.silu(self.linear_1(x)))
