"""Group normalisation with the SiLU that follows it, and a backward pass of two readings.

Autodiff of the same formula reads the activations once more, for a mean that is zero, and keeps
what lies between norm and SiLU. Here nothing is kept but the input and the moments of its groups.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NUM_GROUPS = 32


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def group_norm(
    x: Float[Array, "*batch h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    eps: float,
    axes: tuple[int, ...],
    silu: bool,
) -> Float[Array, "*batch h w c"]:
    """Normalises over the channels of each of 32 groups and `axes`; float32 inside.

    The variance is taken around the mean (two passes), because E[x²]-E[x]² loses digits in float32.
    Reducing each channel first and then the channels of a group reads the activations in their own
    layout; the usual reshape to groups does not vectorise.

    Args:
      silu: whether x · sigmoid(x) of the result is what is wanted.
    """
    return _forward(x, scale, bias, eps, axes, silu)[0]


def _forward(
    x: Array, scale: Array, bias: Array, eps: float, axes: tuple[int, ...], silu: bool
) -> tuple[Array, Any]:
    x32 = x.astype(jnp.float32)
    mean = _group_mean(jnp.mean(x32, axes, keepdims=True))
    variance = _group_mean(jnp.mean(jnp.square(x32 - mean), axes, keepdims=True))
    inverse_std = jax.lax.rsqrt(variance + eps)
    y = (x32 - mean) * (inverse_std * scale.astype(jnp.float32)) + bias.astype(jnp.float32)
    y = jax.nn.silu(y) if silu else y
    return y.astype(x.dtype), (x, scale, bias, mean, inverse_std)


def _backward(
    eps: float, axes: tuple[int, ...], silu: bool, saved: Any, gradient: Array
) -> tuple[Array, Array, Array]:
    x, scale, bias, mean, inverse_std = saved
    standard = (x.astype(jnp.float32) - mean) * inverse_std
    d_y, scale32 = gradient.astype(jnp.float32), scale.astype(jnp.float32)
    if silu:
        y = standard * scale32 + bias.astype(jnp.float32)
        chance = jax.nn.sigmoid(y)
        d_y *= chance * (1.0 + y * (1.0 - chance))
    sum_bias = jnp.sum(d_y, axes, keepdims=True)
    sum_scale = jnp.sum(d_y * standard, axes, keepdims=True)
    size = standard.size // sum_bias.size
    along = _group_mean(sum_scale * scale32) / size
    d_x = inverse_std * (d_y * scale32 - _group_mean(sum_bias * scale32) / size - standard * along)
    others = tuple(range(x.ndim - 1))
    d_scale, d_bias = (jnp.sum(each, others) for each in (sum_scale, sum_bias))
    return d_x.astype(x.dtype), d_scale.astype(scale.dtype), d_bias.astype(bias.dtype)


group_norm.defvjp(_forward, _backward)


def _group_mean(per_channel: Float[Array, "*axes c"]) -> Float[Array, "*axes c"]:
    """Of every channel's group."""
    grouped = per_channel.reshape(*per_channel.shape[:-1], NUM_GROUPS, -1)
    mean = jnp.mean(grouped, axis=-1, keepdims=True)
    return jnp.broadcast_to(mean, grouped.shape).reshape(per_channel.shape)
