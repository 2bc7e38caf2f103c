"""Self-attention within each frame, by the kernel that suits the device."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float

from posetraj_jax.sharding import attention_specs, current_mesh

Attention = Literal["xla", "blocked", "cudnn", "splash"]
"""xla: plain products, everywhere. blocked: the same in parts that fit a CPU's cache. cudnn: flash
attention of NVIDIA GPUs. splash: that of TPUs, and what else is fast there."""

BLOCK_SCORES = 2**20
"""Scores of a block at most: with their exponentials 8 MB in float32, so that they stay in cache
from one product to the next."""
BLOCKED_LEAST = 2**19
"""Heads with fewer scores than this are not worth a loop."""

LANES = 128
"""Of a TPU: what one of its registers holds of an array's last axis."""
SPLASH_LEAST = 512
"""Below so many tokens the plain products are faster: the scores of a frame are small."""
SPLASH_BLOCKS = (1024, 768, 512, 384)
"""Sizes of a kernel's tile, best first among those that pad equally little."""
BACKWARD_KEYS = 3072
"""Keys that one tile of the backward kernel takes at most. The gradient of the queries is written
once per such tile, and summed afterwards."""
BACKWARD_SCORES = (256, 384)
"""Queries and keys whose scores the backward kernel holds at once, at most: what is left of the
16 MB that a TPU v5e gives a kernel."""


def attend(
    q: Float[Array, "*batch n k e"],
    k: Float[Array, "*batch n k e"],
    v: Float[Array, "*batch n k e"],
    kernel: Attention = "xla",
    *,
    num_tokens: int | None = None,
) -> Float[Array, "*batch n k e"]:
    """softmax(q k^T / sqrt(e)) v of every frame and head; softmax in float32.

    "splash" takes clips and frames as its two batch axes.

    Args:
      num_tokens: how many of the `n` are real, where `pad_tokens` has added others; None: all.
    """
    if kernel == "splash" and q.shape[-3] >= SPLASH_LEAST:
        return attend_splash(q, k, v, num_tokens=num_tokens)
    is_large = q.shape[-3] * k.shape[-3] >= BLOCKED_LEAST
    if kernel == "blocked" and current_mesh() is None and is_large:
        return attend_blocked(q, k, v)
    # The library takes one batch axis: frames attend separately, so they join the clips.
    merged = (part.reshape(-1, *part.shape[-3:]) for part in (q, k, v))
    implementation = "cudnn" if kernel == "cudnn" else None
    attended = jax.nn.dot_product_attention(*merged, implementation=implementation)
    return attended.reshape(q.shape)


def attend_blocked(
    q: Float[Array, "*batch n k e"],
    k: Float[Array, "*batch m k e"],
    v: Float[Array, "*batch m k e"],
) -> Float[Array, "*batch n k e"]:
    """The same for a single CPU: one head and some of its queries after the other.

    The scores of all frames and heads go through memory several times, and take longer there than
    their products. No scores are kept for the backward pass either, which makes them again.
    """
    rows = max(n for n in range(1, q.shape[-3] + 1) if _fits(n, q, k))

    def heads_first(x: Array) -> Float[Array, "heads tokens e"]:
        x = jnp.moveaxis(x, -2, -3)
        return x.reshape(-1, *x.shape[-2:])

    def of_head(q: Array, k: Array, v: Array) -> Array:
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def of_rows(q: Array) -> Array:
            scores = jnp.matmul(q, k.T, preferred_element_type=jnp.float32)
            return jax.nn.softmax(scores * q.shape[-1] ** -0.5).astype(v.dtype) @ v

        return jax.lax.map(of_rows, q.reshape(-1, rows, q.shape[-1])).reshape(q.shape)

    attended = jax.lax.map(lambda head: of_head(*head), tuple(map(heads_first, (q, k, v))))
    *batch, n, heads, e = q.shape
    return jnp.moveaxis(attended.reshape(*batch, heads, n, e), -3, -2)


def attend_splash(
    q: Float[Array, "b f n k e"],
    k: Float[Array, "b f n k e"],
    v: Float[Array, "b f n k e"],
    *,
    num_tokens: int | None = None,
    interpret: bool = False,
) -> Float[Array, "b f n k e"]:
    """The same by JAX's splash kernel for TPUs, each device on its own clips and frames.

    Sequences are padded to whole tiles; the padding attends to nothing else, and nothing to it.

    Args:
      num_tokens: as for `attend`.
      interpret: runs the kernel as plain JAX, on any device: slow, for tests.
    """
    n = q.shape[2]
    spare = n - (n if num_tokens is None else num_tokens)
    local = functools.partial(_splash, spare=spare, interpret=interpret)
    if current_mesh() is None:
        return local(q, k, v)
    of_queries, of_keys = attention_specs(q.shape)
    specs = {"in_specs": (of_queries, of_keys, of_keys), "out_specs": of_queries}
    # Kernels do not say how their results vary over devices, so JAX cannot check it.
    return jax.shard_map(local, **specs, check_vma=False)(q, k, v)


def pad_tokens(x: Float[Array, "*batch n d"], kernel: Attention) -> Float[Array, "*batch m d"]:
    """The tokens that `kernel` will attend among, with the zeros that it would add to them later.

    To pad the input of three projections once is cheaper than to pad what they give. Tokens that
    are split over devices stay as they are: each device pads its own.
    """
    n = x.shape[-2]
    if kernel != "splash" or n < SPLASH_LEAST or _splits_tokens(x.shape):
        return x
    return jnp.pad(x, ((0, 0),) * (x.ndim - 2) + ((0, tile_of(n)[1] - n), (0, 0)))


def _fits(rows: int, q: Array, k: Array) -> bool:
    """Whether a head's queries are whole blocks of so many rows, and a block not too large."""
    return q.shape[-3] % rows == 0 and (rows * k.shape[-3] <= BLOCK_SCORES or rows == 1)


def _splits_tokens(shape: tuple[int, ...]) -> bool:
    of_queries = attention_specs(shape)[0] if current_mesh() is not None else ()
    return any(axis is not None for axis in of_queries[2:])


def tile_of(n: int) -> tuple[int, int]:
    """The tile for a sequence, and its length when padded to whole tiles."""
    padded = {block: -(-n // block) * block for block in SPLASH_BLOCKS}
    block = min(SPLASH_BLOCKS, key=lambda block: padded[block])
    return block, padded[block]


def _splash(q: Array, k: Array, v: Array, spare: int, interpret: bool) -> Array:
    """The last `spare` queries and keys are padding."""
    (queries, heads, e), keys = q.shape[2:], k.shape[2]
    kernel, padded_queries, padded_keys = _kernel(heads, queries, keys, interpret)

    def tokens_first(x: Array, length: int) -> Array:
        x = jnp.moveaxis(x, 3, 2).reshape(-1, heads, x.shape[2], e)
        return jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0)))

    segments = splash.SegmentIds(
        (jnp.arange(padded_queries) >= queries - spare).astype(jnp.int32),
        (jnp.arange(padded_keys) >= keys - spare).astype(jnp.int32),
    )
    attended = jax.vmap(kernel, in_axes=(0, 0, 0, None))(
        tokens_first(q * jnp.asarray(e**-0.5, q.dtype), padded_queries),
        tokens_first(k, padded_keys),
        tokens_first(v, padded_keys),
        segments,
    )
    attended = attended[:, :, :queries].reshape(*q.shape[:2], heads, queries, e)
    return jnp.moveaxis(attended, 2, 3)


def _kernel(heads: int, queries: int, keys: int, interpret: bool) -> tuple[Any, int, int]:
    """The kernel for these sizes, and the padded numbers of queries and keys."""
    (block_q, padded_q), (block_kv, padded_kv) = tile_of(queries), tile_of(keys)
    mask = masks.MultiHeadMask([masks.FullMask((padded_q, padded_kv))] * heads)
    tiles, most = padded_kv // block_kv, max(BACKWARD_KEYS // block_kv, 1)
    together = max(n for n in range(1, most + 1) if tiles % n == 0)
    blocks = splash.BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_q_dkv=_part(block_q, BACKWARD_SCORES[0]),
        block_kv_dkv=together * block_kv,
        block_kv_dkv_compute=_part(block_kv, BACKWARD_SCORES[1]),
        use_fused_bwd_kernel=True,
    )
    made = splash.make_splash_mha_single_device(mask, block_sizes=blocks, interpret=interpret)
    return made, padded_q, padded_kv


def _part(tile: int, most: int) -> int:
    """The largest equal part of a tile that is whole lanes."""
    return max(n for n in range(LANES, most + 1, LANES) if tile % n == 0)
