"""GEGLU's gated product, which keeps nothing but its operands for the backward pass."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def geglu(value: Float[Array, "*axes"], gate: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """value · GELU(gate), exact and in float32 inside.

    The backward pass computes the error function again. Autodiff would keep four more arrays of
    this size, the largest of a transformer.
    """
    return gated(value.astype(jnp.float32), gate.astype(jnp.float32)).astype(value.dtype)


def _forward(value: Array, gate: Array) -> tuple[Array, tuple[Array, Array]]:
    return geglu(value, gate), (value, gate)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    value, gate, d_out = (x.astype(jnp.float32) for x in (*saved, gradient))
    d_value, d_gate = gated_back(value, gate, d_out)
    return d_value.astype(saved[0].dtype), d_gate.astype(saved[1].dtype)


geglu.defvjp(_forward, _backward)


def gated(value: Float[Array, "*axes"], gate: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The product itself, float32."""
    return value * gate * _normal_cdf(gate)


def gated_back(
    value: Float[Array, "*axes"], gate: Float[Array, "*axes"], d_out: Float[Array, "*axes"]
) -> tuple[Float[Array, "*axes"], Float[Array, "*axes"]]:
    """The gradients of value and gate, float32."""
    cdf, density = _normal_cdf(gate), jnp.exp(-0.5 * gate * gate) * (2 * jnp.pi) ** -0.5
    return d_out * gate * cdf, d_out * value * (cdf + gate * density)


def _normal_cdf(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    return 0.5 * (1.0 + jax.lax.erf(x * 2**-0.5))
