"""Attention between the frames of a clip, every position of the image by itself.

A clip has few frames, so the scores of a position are tiny. As batched matrix products they fill a
hundredth of a TPU's matrix unit, and operands are copied between layouts in which neither frames
nor features lie well. The kernel here keeps positions along the lanes of the vector unit, reads
queries, keys and values once, and keeps scores and weights on the chip.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from posetraj_jax.nn.attention_kernels import LANES, Attention
from posetraj_jax.sharding import current_mesh, position_spec

MOST_FRAMES = 32
"""Longer clips take the plain products: their keys and values do not fit into a kernel's 16 MB."""
FORWARD, BACKWARD = 2, 5
"""Products of a query and a key of every head."""


def attend_frames(
    q: Float[Array, "b f n k e"],
    k: Float[Array, "b f n k e"],
    v: Float[Array, "b f n k e"],
    kernel: Attention = "xla",
) -> Float[Array, "b f n k e"]:
    """softmax(q k^T / sqrt(e)) v along `f` for every position and head; softmax in float32."""
    if kernel == "splash" and q.shape[1] <= MOST_FRAMES:
        return attend_frames_on_tpu(q, k, v)
    scores = jnp.einsum("bfnke,bgnke->bnkfg", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1).astype(v.dtype)
    return jnp.einsum("bnkfg,bgnke->bfnke", weights, v)


def attend_frames_on_tpu(
    q: Float[Array, "b f n k e"],
    k: Float[Array, "b f n k e"],
    v: Float[Array, "b f n k e"],
    *,
    interpret: bool = False,
) -> Float[Array, "b f n k e"]:
    """The same by a kernel for TPUs, each device on its own clips and positions.

    Args:
      interpret: runs the kernel as plain JAX, on any device: slow, for tests.
    """
    local = functools.partial(_local, interpret=interpret)
    if current_mesh() is None:
        return local(q, k, v)
    spec = position_spec(q.shape)
    # Kernels do not say how their results vary over devices, so JAX cannot check it.
    return jax.shard_map(local, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False)(
        q, k, v
    )


def positions_at_once(frames: int) -> int:
    """What one call of the kernel takes: one or two rows of lanes, as memory allows."""
    return (1 if frames > MOST_FRAMES // 2 else 2) * LANES


def _local(q: Array, k: Array, v: Array, interpret: bool) -> Array:
    q, k, v = (jnp.moveaxis(part, 2, -1) for part in (q, k, v))  # positions last
    return jnp.moveaxis(_attend(q, k, v, interpret), -1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(q: Array, k: Array, v: Array, interpret: bool) -> Float[Array, "b f k e n"]:
    return _call(_forward_kernel, (q, k, v), 1, FORWARD, interpret)[0]


def _attend_forward(q: Array, k: Array, v: Array, interpret: bool) -> tuple[Array, Any]:
    return _attend(q, k, v, interpret), (q, k, v)


def _attend_backward(interpret: bool, saved: Any, gradient: Array) -> tuple[Array, ...]:
    return _call(_backward_kernel, (*saved, gradient), 3, BACKWARD, interpret)


_attend.defvjp(_attend_forward, _attend_backward)


def _call(
    kernel: Callable[..., None],
    operands: tuple[Float[Array, "b f k e n"], ...],
    num_results: int,
    products: int,
    interpret: bool,
) -> tuple[Float[Array, "b f k e n"], ...]:
    """Runs a kernel on every clip, head and block of positions."""
    b, f, heads, e, n = operands[0].shape
    positions = min(positions_at_once(f), n)
    block = pl.BlockSpec((1, f, 1, e, positions), lambda clip, head, at: (clip, 0, head, 0, at))
    result = jax.ShapeDtypeStruct(operands[0].shape, operands[0].dtype)
    moved = (len(operands) + num_results) * result.size * result.dtype.itemsize
    call = pl.pallas_call(
        kernel,
        grid=(b, heads, pl.cdiv(n, positions)),
        in_specs=[block] * len(operands),
        out_specs=[block] * num_results,
        out_shape=[result] * num_results,
        cost_estimate=pl.CostEstimate(
            flops=2 * products * result.size * f,
            bytes_accessed=moved,
            transcendentals=b * heads * n * f * f,
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3),
        interpret=interpret,
    )
    return tuple(call(*operands))


def _forward_kernel(q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any) -> None:
    keys, values = _float32(k_ref), _float32(v_ref)

    def attend(frame: Array, _: None) -> None:
        weights = _weights(_float32(q_ref, frame), keys)
        mixed = jnp.sum(weights[:, None] * values, axis=0)
        out_ref[0, frame, 0] = mixed.astype(out_ref.dtype)

    jax.lax.fori_loop(0, q_ref.shape[1], attend, None)


def _backward_kernel(
    q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any, dq_ref: Any, dk_ref: Any, dv_ref: Any
) -> None:
    """Source: the derivative of softmax(s) v, with s computed again; `out_ref` has d out."""
    keys, values = _float32(k_ref), _float32(v_ref)
    scale = keys.shape[1] ** -0.5

    def differentiate(frame: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        query, d_out = _float32(q_ref, frame), _float32(out_ref, frame)
        weights = _weights(query, keys)
        d_weights = jnp.sum(d_out * values, axis=1)
        d_scores = weights * (d_weights - jnp.sum(weights * d_weights, axis=0)) * scale
        dq_ref[0, frame, 0] = jnp.sum(d_scores[:, None] * keys, axis=0).astype(dq_ref.dtype)
        return sums[0] + d_scores[:, None] * query, sums[1] + weights[:, None] * d_out

    zeros = jnp.zeros_like(keys), jnp.zeros_like(values)
    d_keys, d_values = jax.lax.fori_loop(0, q_ref.shape[1], differentiate, zeros)
    dk_ref[0, :, 0] = d_keys.astype(dk_ref.dtype)
    dv_ref[0, :, 0] = d_values.astype(dv_ref.dtype)


def _weights(query: Float[Array, "e n"], keys: Float[Array, "f e n"]) -> Float[Array, "f n"]:
    scores = jnp.sum(query * keys, axis=1) * query.shape[0] ** -0.5
    exponentials = jnp.exp(scores - jnp.max(scores, axis=0))
    return exponentials / jnp.sum(exponentials, axis=0)


def _float32(ref: Any, frame: Any = slice(None)) -> Array:
    return ref[0, frame, 0].astype(jnp.float32)
