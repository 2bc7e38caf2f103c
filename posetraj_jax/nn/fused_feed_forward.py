"""Norm, feed-forward layer and residual of a transformer as one kernel for TPUs.

Between its two products the layer is eight times as wide as its tokens. Product by product, that is
written and read again, and at 320 channels a matrix unit waits two thirds of the time. The kernels
here take a tile of tokens and a block of hidden features at a time and keep the rest on the chip.
The backward one computes them again, so that nothing but the tokens is kept for it.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from posetraj_jax.nn.attention_kernels import LANES
from posetraj_jax.nn.geglu import gated, gated_back
from posetraj_jax.sharding import current_mesh, video_spec

MOST_TOKENS = 480
"""What a kernel takes at once, at most. It divides the tokens of 14 x 320 x 576 at two levels."""
BLOCK = 512 * 640
"""Numbers in a block of a layer's kernel, at most."""
KERNEL_MEMORY = 15 * 2**20
"""Bytes on the chip: of the 16 MB that a TPU gives a kernel unasked, the compiler takes some."""
EPS = 1e-5
"""Of the norm."""
ROWS = 16
"""A tile of tokens is a multiple of this many."""


class Cost(NamedTuple):
    """Of a kernel."""

    products: int
    """As large as the second layer's; those that are made again too."""
    arrays: int
    """On the chip for every feature and hidden feature of a tile, of the activations' type: at
    least what libtpu 0.0.42.1 counts, with all results."""


FORWARD, BACKWARD = Cost(3, 9), Cost(5, 17)


class Weights(NamedTuple):
    """Of the norm and of both layers; the first layer makes all values, then all gates."""

    scale: Float[Array, "d"]
    shift: Float[Array, "d"]
    w_in: Float[Array, "d 2*h"]
    b_in: Float[Array, "2*h"]
    w_out: Float[Array, "h d"]
    b_out: Float[Array, "d"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Wanted:
    """What a backward pass is for."""

    weights: bool


class Made(NamedTuple):
    """What a kernel makes."""

    tokens: Float[Array, "b f n d"]
    """After the layer, or the gradient of those before it."""
    normed: tuple[Float[Array, "b f n d"], ...] = ()
    """For the weights' gradients, and so is all else: what the first layer is given."""
    hidden: tuple[Float[Array, "b f n h"], ...] = ()
    """The gradients of values and gates, and what the second layer is given."""
    sums: tuple[Float[Array, "_ _ _ _"], ...] = ()
    """Gradients of values' and gates' biases, of scale, shift and the second layer's bias; the axes
    before the last are the devices that split the tokens."""


def suits(x: Float[Array, "*batch d"], hidden: int) -> bool:
    """Whether the kernels take an input: whole lanes of hidden features, and tokens for a tile."""
    if x.ndim != 4 or hidden % LANES:
        return False
    mesh = current_mesh()
    on_device = x.shape
    if mesh is not None:
        on_device = NamedSharding(mesh, video_spec(x.shape)).shard_shape(x.shape)
    return math.prod(on_device[:-1]) >= MOST_TOKENS


def feed_forward_on_tpu(
    x: Float[Array, "b f n d"], weights: Weights, *, interpret: bool = False
) -> Float[Array, "b f n d"]:
    """x plus the layer's update of the normalised x, each device on its own tokens.

    Products take operands of the type of `x` and sum in float32; the rest is float32.

    Args:
      interpret: runs the kernels as plain JAX, on any device: slow, for tests.
    """
    return _feed_forward(x, weights, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _feed_forward(x: Array, weights: Weights, interpret: bool) -> Array:
    return _on_tokens(_forward_kernel, (x,), weights, interpret).tokens


def _forward(x: Any, weights: Any, interpret: bool) -> tuple[Array, Any]:
    wanted = Wanted(any(leaf.perturbed for leaf in weights))
    x, weights = x.value, Weights(*(leaf.value for leaf in weights))
    return _feed_forward(x, weights, interpret), (x, weights, wanted)


def _backward(interpret: bool, saved: Any, d_out: Array) -> tuple[Array, Weights | None]:
    x, weights, wanted = saved
    made = _on_tokens(_backward_kernel, (x, d_out), weights, interpret, wanted)
    if not wanted.weights:
        return made.tokens, None
    (normed,), (d_value, d_gate, hidden) = made.normed, made.hidden
    of_value, of_gate, scale, shift, b_out = (jnp.sum(each, (0, 1, 2)) for each in made.sums)

    def product(left: Array, right: Array) -> Array:
        return jnp.einsum("bfnc,bfnd->cd", left, right)

    gradients = Weights(
        scale,
        shift,
        jnp.concatenate([product(normed, d_value), product(normed, d_gate)], axis=-1),
        jnp.concatenate([of_value, of_gate]),
        product(hidden, d_out),
        b_out,
    )
    return made.tokens, jax.tree.map(lambda g, w: g.astype(w.dtype), gradients, weights)


_feed_forward.defvjp(_forward, _backward, symbolic_zeros=True)


def _on_tokens(
    kernel: Callable[..., None],
    tokens: tuple[Float[Array, "b f n d"], ...],
    weights: Weights,
    interpret: bool,
    wanted: Wanted = Wanted(weights=False),
) -> Made:
    """Runs a kernel on all tokens, each device on its own."""
    local = functools.partial(_local, kernel, interpret=interpret, wanted=wanted)
    if current_mesh() is None:
        return local(tokens, weights)
    spec = video_spec(tokens[0].shape)
    # Kernels do not say how their results vary over devices, so JAX cannot check it.
    options = {"in_specs": (spec, P()), "out_specs": spec, "check_vma": False}
    return jax.shard_map(local, **options)(tokens, weights)


def _local(
    kernel: Callable[..., None],
    tokens: tuple[Float[Array, "b f n d"], ...],
    weights: Weights,
    *,
    interpret: bool,
    wanted: Wanted,
) -> Made:
    (*axes, d), dtype = tokens[0].shape, tokens[0].dtype
    count, hidden = math.prod(axes), weights.w_out.shape[0]
    cost = FORWARD if kernel is _forward_kernel else BACKWARD
    part = hidden_at_once(hidden, d)
    tile = min(count, tokens_at_once(d, part, dtype.itemsize, cost))
    tiles, parts = pl.cdiv(count, tile), hidden // part

    def columns(rows: int, first: int) -> pl.BlockSpec:
        return pl.BlockSpec((rows, part), lambda at, now: (0, first + now))

    row = pl.BlockSpec((1, d), lambda at, now: (0, 0))
    back = pl.BlockSpec((part, d), lambda at, now: (now, 0))
    of_tokens = pl.BlockSpec((tile, d), lambda at, now: (at, 0))
    of_hidden = pl.BlockSpec((tile, part), lambda at, now: (at, now))
    of_sum = pl.BlockSpec((1, 1, d), lambda at, now: (at, 0, 0))
    of_hidden_sum = pl.BlockSpec((1, 1, part), lambda at, now: (at, 0, now))

    scale, shift, w_in, b_in, w_out, b_out = weights
    b_in = b_in[None]
    operands = (scale[None], shift[None], b_out[None], w_in, w_in, b_in, b_in, w_out)
    halves = [columns(rows, first) for rows in (d, 1) for first in (0, parts)]
    in_specs = [of_tokens] * len(tokens) + [row] * 3 + halves + [back]

    results = [(of_tokens, jax.ShapeDtypeStruct((count, d), dtype))]
    if wanted.weights:
        results *= 2
        results += [(of_hidden, jax.ShapeDtypeStruct((count, hidden), dtype))] * 3
        results += [(of_hidden_sum, jax.ShapeDtypeStruct((tiles, 1, hidden), jnp.float32))] * 2
        results += [(of_sum, jax.ShapeDtypeStruct((tiles, 1, d), jnp.float32))] * 3
    out_specs, out_shape = zip(*results, strict=True)

    moved = sum(each.size * each.dtype.itemsize for each in (*tokens, *out_shape))
    again = tiles * sum(each.size * each.dtype.itemsize for each in weights)
    call = pl.pallas_call(
        functools.partial(kernel, count),
        grid=(tiles, parts),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=[pltpu.VMEM((tile, d), dtype), pltpu.VMEM((tile, d), jnp.float32)],
        cost_estimate=pl.CostEstimate(
            flops=2 * cost.products * count * d * hidden,
            bytes_accessed=moved + again,
            transcendentals=count * hidden,
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
    )
    out, *more = call(*(each.reshape(count, d) for each in tokens), *operands)
    wide = [each.reshape(*axes, -1) for each in more[:4]]
    sums = tuple(jnp.sum(each, 0)[None, None] for each in more[4:])
    return Made(out.reshape(*axes, d), tuple(wide[:1]), tuple(wide[1:]), sums)


def hidden_at_once(hidden: int, d: int) -> int:
    """The largest equal part of the hidden features that is whole lanes and fits."""
    most = max(min(hidden, BLOCK // d), LANES)
    return max(n for n in range(LANES, most + 1, LANES) if hidden % n == 0)


def tokens_at_once(d: int, part: int, itemsize: int, cost: Cost) -> int:
    """As many as leave room for the blocks of three kernels, each read ahead."""
    room = KERNEL_MEMORY - 2 * 3 * itemsize * part * d
    fit = room // (cost.arrays * itemsize * (d + part))
    return min(MOST_TOKENS, fit // ROWS * ROWS)


def _forward_kernel(_: int, x_ref: Any, *refs: Any) -> None:
    scale_ref, shift_ref, b_out_ref, *first, w_out_ref, out_ref, normed_ref, sum_ref = refs

    @pl.when(pl.program_id(1) == 0)
    def start() -> None:
        x = _float32(x_ref)
        normed = _standardised(x)[0] * _float32(scale_ref) + _float32(shift_ref)
        normed_ref[...] = normed.astype(normed_ref.dtype)
        sum_ref[...] = x + _float32(b_out_ref)

    hidden = gated(*_value_and_gate(normed_ref[...], *first)).astype(normed_ref.dtype)
    sum_ref[...] += _product(hidden, w_out_ref[...])

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def finish() -> None:
        out_ref[...] = sum_ref[...].astype(out_ref.dtype)


def _backward_kernel(count: int, x_ref: Any, d_out_ref: Any, *refs: Any) -> None:
    """Source: the derivative of x + W2 geglu(W1 norm(x)), with the hidden features made again."""
    scale_ref, shift_ref, _, *first, w_out_ref, d_x_ref = refs[:9]
    *of_weights, normed_ref, sum_ref = refs[9:]
    dtype, tile = normed_ref.dtype, x_ref.shape[0]
    # The last tile may reach beyond the tokens, where anything can be.
    rows = pl.program_id(0) * tile + jax.lax.broadcasted_iota(jnp.int32, (tile, 1), 0)
    is_real = rows < count

    def row_sum(rows: Float[Array, "t c"]) -> Float[Array, "1 c"]:
        return jnp.sum(jnp.where(is_real, rows, 0.0), axis=0, keepdims=True)

    @pl.when(pl.program_id(1) == 0)
    def start() -> None:
        normed = _standardised(_float32(x_ref))[0] * _float32(scale_ref) + _float32(shift_ref)
        normed_ref[...] = normed.astype(dtype)
        sum_ref[...] = jnp.zeros_like(sum_ref)

    value, gate = _value_and_gate(normed_ref[...], *first)
    d_value, d_gate = gated_back(value, gate, _product_back(d_out_ref[...], w_out_ref[...]))
    sum_ref[...] += _product_back(d_value.astype(dtype), first[0][...])
    sum_ref[...] += _product_back(d_gate.astype(dtype), first[1][...])
    if of_weights:
        _, d_value_ref, d_gate_ref, hidden_ref, value_sum_ref, gate_sum_ref, *_ = of_weights
        d_value_ref[...], d_gate_ref[...] = d_value.astype(dtype), d_gate.astype(dtype)
        hidden_ref[...] = gated(value, gate).astype(dtype)
        value_sum_ref[0], gate_sum_ref[0] = row_sum(d_value), row_sum(d_gate)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def finish() -> None:
        (standard, inverse_std), d_normed = _standardised(_float32(x_ref)), sum_ref[...]
        scaled = d_normed * _float32(scale_ref)
        along = jnp.mean(scaled * standard, axis=-1, keepdims=True)
        d_x = inverse_std * (scaled - jnp.mean(scaled, axis=-1, keepdims=True) - standard * along)
        d_x_ref[...] = (d_x + _float32(d_out_ref)).astype(d_x_ref.dtype)
        if of_weights:
            given_ref, *_, scale_sum_ref, shift_sum_ref, b_out_sum_ref = of_weights
            given_ref[...] = normed_ref[...]
            scale_sum_ref[0], shift_sum_ref[0] = row_sum(d_normed * standard), row_sum(d_normed)
            b_out_sum_ref[0] = row_sum(_float32(d_out_ref))


def _standardised(x: Float[Array, "t d"]) -> tuple[Float[Array, "t d"], Float[Array, "t 1"]]:
    """Of zero mean and variance one, and the factor that made it so."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    inverse_std = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + EPS)
    return centred * inverse_std, inverse_std


def _value_and_gate(
    x: Float[Array, "t d"], w_value_ref: Any, w_gate_ref: Any, b_value_ref: Any, b_gate_ref: Any
) -> tuple[Float[Array, "t p"], Float[Array, "t p"]]:
    value = _product(x, w_value_ref[...]) + _float32(b_value_ref)
    return value, _product(x, w_gate_ref[...]) + _float32(b_gate_ref)


def _product(left: Float[Array, "t c"], right: Float[Array, "c p"]) -> Float[Array, "t p"]:
    return jnp.dot(left, right, preferred_element_type=jnp.float32)


def _product_back(left: Float[Array, "t p"], right: Float[Array, "c p"]) -> Float[Array, "t c"]:
    along = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(left, right, along, preferred_element_type=jnp.float32)


def _float32(ref: Any) -> Array:
    return ref[...].astype(jnp.float32)
