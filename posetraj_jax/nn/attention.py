"""Attention: between the tokens of one sequence, and to a context of a single token."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.attention_kernels import attend, pad_tokens
from posetraj_jax.nn.frame_attention import attend_frames
from posetraj_jax.nn.layers import Make
from posetraj_jax.sharding import constrain, constrain_positions

TemporalContext = Literal["batch_major", "interleaved"]


class SelfAttention(nnx.Module):
    """Multi-head attention of a sequence to itself; the output projection always has a bias."""

    def __init__(self, d: int, heads: int, make: Make, *, qkv_bias: bool = False):
        self.to_q = make.linear(d, d, bias=qkv_bias)
        self.to_k = make.linear(d, d, bias=qkv_bias)
        self.to_v = make.linear(d, d, bias=qkv_bias)
        self.to_out = make.linear(d, d)
        self.heads, self.kernel = heads, make.attention

    def __call__(self, x: Float[Array, "*batch n d"]) -> Float[Array, "*batch n d"]:
        """Attends along `n`; softmax in float32."""
        n = x.shape[-2]
        x = pad_tokens(x, self.kernel)
        q, k, v = (project.heads(x, self.heads) for project in (self.to_q, self.to_k, self.to_v))
        mixed = attend(q, k, v, self.kernel, num_tokens=n)
        return self.to_out(mixed.reshape(x.shape))[..., :n, :]

    def over_frames(self, x: Float[Array, "b f n d"]) -> Float[Array, "b f n d"]:
        """Attends along `f`, every token position by itself; softmax in float32."""
        projections = (self.to_q, self.to_k, self.to_v)
        # `constrain` first: on their way back gradients meet `x` split as it is. XLA's partitioner
        # gives wrong gradients of kernels where the two are split along different axes.
        q, k, v = (
            constrain_positions(constrain(project.heads(x, self.heads))) for project in projections
        )
        mixed = attend_frames(q, k, v, self.kernel)
        return self.to_out(constrain(mixed.reshape(x.shape)))


class TokenAttention(nnx.Module):
    """Cross-attention to one token: its softmax is 1 and its output the value, whatever is asked.

    Differs: SVD also has `to_q`, `to_k` and a norm for the queries here. They cannot reach the
    output, so they are left out.
    """

    def __init__(self, d: int, context_dim: int, make: Make):
        self.to_v = make.linear(context_dim, d, bias=False)
        self.to_out = make.linear(d, d)

    def __call__(self, context: Float[Array, "b context_dim"]) -> Float[Array, "b d"]:
        """What every query position of a clip receives."""
        return self.to_out(self.to_v(context))


def spread_over_positions(
    vectors: Float[Array, "b d"], n: int, order: TemporalContext
) -> Float[Array, "b 1 #n d"]:
    """Lays one vector per clip out over token positions, for the temporal blocks.

    "batch_major" gives every position its own clip's vector. "interleaved" reproduces diffusers
    before 0.28, which laid the contexts out pixel by pixel while the queries went clip by clip:
    query row r = b·n + s receives the vector of clip r mod B. With one clip both are the same.
    """
    if order == "batch_major":
        return vectors[:, None, None, :]
    b = vectors.shape[0]
    clip_of_row = (jnp.arange(b * n) % b).reshape(b, n)
    return vectors[clip_of_row][:, None]
