"""The transformer of the video blocks: attention in space, attention in time, and their blend."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.attention import (
    SelfAttention,
    TemporalContext,
    TokenAttention,
    spread_over_positions,
)
from posetraj_jax.nn.embeddings import EmbeddingMLP, sinusoid
from posetraj_jax.nn.feed_forward import EXPANSION, FeedForward
from posetraj_jax.nn.layers import Blend, GroupNorm, Make, features_last


class VideoContext(NamedTuple):
    """What one transformer is told of a video; it is the same at every noise level."""

    spatial: tuple[Float[Array, "b d"], ...]
    """What each spatial block takes from the image."""
    temporal: tuple[Float[Array, "b d"], ...]
    """What each temporal block takes from the image; none where nothing temporal runs."""
    frame_embed: Float[Array, "f d"] | None
    """Embedding of the index of each frame."""


class SpatialBlock(nnx.Module):
    """Self-attention within each frame, the image context, feed-forward."""

    def __init__(self, d: int, heads: int, context_dim: int, make: Make):
        self.norm1 = make.layer_norm(d)
        self.attn1 = SelfAttention(d, heads, make)
        self.attn2 = TokenAttention(d, context_dim, make)
        self.norm3 = make.layer_norm(d)
        self.ff = FeedForward(d, make)
        self._laid = partial(features_last, for_tpu=make.for_tpu)

    def __call__(
        self, x: Float[Array, "b f n d"], from_image: Float[Array, "b d"]
    ) -> Float[Array, "b f n d"]:
        """Tokens after the block; `from_image` is what `attn2` gives."""
        x = self._laid(x + self.attn1(self.norm1(x)))
        x = self._laid(x + from_image[:, None, None, :])
        return self._laid(self.ff.added(x, self.norm3))


class TemporalBlock(nnx.Module):
    """Feed-forward, attention along the frames of each position, image context, feed-forward."""

    def __init__(self, d: int, heads: int, context_dim: int, make: Make, order: TemporalContext):
        self.norm_in = make.layer_norm(d)
        self.ff_in = FeedForward(d, make)
        self.norm1 = make.layer_norm(d)
        self.attn1 = SelfAttention(d, heads, make)
        self.attn2 = TokenAttention(d, context_dim, make)
        self.norm3 = make.layer_norm(d)
        self.ff = FeedForward(d, make)
        self.order = order
        self._laid = partial(features_last, for_tpu=make.for_tpu)

    def __call__(
        self, x: Float[Array, "b f n d"], from_image: Float[Array, "b d"]
    ) -> Float[Array, "b f n d"]:
        """Tokens after the block; `from_image` is what `attn2` gives."""
        x = self._laid(self.ff_in.added(x, self.norm_in))
        x = self._laid(x + self.attn1.over_frames(self.norm1(x)))
        x += spread_over_positions(from_image, x.shape[2], self.order)
        return self._laid(self.ff.added(x, self.norm3))


class SpatioTemporalTransformer(nnx.Module):
    """Pairs of a spatial and a temporal block, blended after each pair, inside one residual.

    The temporal block of a pair sees the spatial block's output plus an embedding of the frame
    index; positions in the image are not embedded.
    """

    def __init__(
        self,
        d: int,
        heads: int,
        make: Make,
        *,
        context_dim: int,
        depth: int = 1,
        order: TemporalContext = "batch_major",
    ):
        self.norm = GroupNorm(d, make, eps=1e-6)
        self.proj_in = make.linear(d, d)
        self.transformer_blocks = nnx.List(
            [SpatialBlock(d, heads, context_dim, make) for _ in range(depth)]
        )
        self.temporal_transformer_blocks = nnx.List(
            [TemporalBlock(d, heads, context_dim, make, order) for _ in range(depth)]
        )
        self.time_pos_embed = EmbeddingMLP(d, EXPANSION * d, d, make)
        self.time_mixer = Blend(0.5, make)
        self.proj_out = make.linear(d, d)
        self.d, self.still = d, make.still

    def context(self, image_embed: Float[Array, "b context_dim"], num_frames: int) -> VideoContext:
        """What the transformer is told of videos of this length by their image."""
        spatial = tuple(block.attn2(image_embed) for block in self.transformer_blocks)
        if self.still:
            return VideoContext(spatial, (), None)
        temporal = tuple(block.attn2(image_embed) for block in self.temporal_transformer_blocks)
        frame_index = jnp.arange(num_frames, dtype=jnp.float32)
        return VideoContext(spatial, temporal, self.time_pos_embed(sinusoid(frame_index, self.d)))

    def __call__(
        self, x: Float[Array, "b f h w d"], context: VideoContext
    ) -> Float[Array, "b f h w d"]:
        """The activations after the transformer."""
        b, f, h, w, d = x.shape
        tokens = self.proj_in(self.norm(x)).reshape(b, f, h * w, d)
        for i, spatial in enumerate(self.transformer_blocks):
            tokens = spatial(tokens, context.spatial[i])
            tokens = self.time_mixer(tokens, partial(self._run_temporal, i, tokens, context))
        return self.proj_out(tokens).reshape(x.shape) + x

    def _run_temporal(
        self, i: int, tokens: Float[Array, "b f n d"], context: VideoContext
    ) -> Float[Array, "b f n d"]:
        block = self.temporal_transformer_blocks[i]
        return block(tokens + context.frame_embed[:, None, :], context.temporal[i])
