"""The feed-forward layers of a transformer: a projection with a gate (GEGLU), and one back."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.layers import Make

EXPANSION = 4


class FeedForward(nnx.Module):
    """GEGLU: half of the first projection is the value, the other half its gate (exact GELU)."""

    def __init__(self, d: int, make: Make):
        self.proj_in = make.linear(d, 2 * EXPANSION * d)
        self.proj_out = make.linear(EXPANSION * d, d)

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """The update, without the residual."""
        return self.proj_out(geglu(*self.proj_in.halves(x)))


@jax.custom_vjp
def geglu(value: Float[Array, "*axes"], gate: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """value · GELU(gate), in float32 inside.

    Keeps nothing but its operands for the backward pass, which computes the error function again.
    Autodiff would keep four more arrays of this size, the largest of a transformer.
    """
    value32, gate32 = value.astype(jnp.float32), gate.astype(jnp.float32)
    return (value32 * gate32 * _normal_cdf(gate32)).astype(value.dtype)


def _forward(value: Array, gate: Array) -> tuple[Array, tuple[Array, Array]]:
    return geglu(value, gate), (value, gate)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    value, gate, d_out = (x.astype(jnp.float32) for x in (*saved, gradient))
    cdf, density = _normal_cdf(gate), jnp.exp(-0.5 * gate * gate) * (2 * jnp.pi) ** -0.5
    d_value, d_gate = d_out * gate * cdf, d_out * value * (cdf + gate * density)
    return d_value.astype(saved[0].dtype), d_gate.astype(saved[1].dtype)


geglu.defvjp(_forward, _backward)


def _normal_cdf(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    return 0.5 * (1.0 + jax.lax.erf(x * 2**-0.5))
