"""What the UNet and the ControlNet share: configuration, the stages, and the encoder half."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.attention import TemporalContext
from posetraj_jax.nn.embeddings import EmbeddingMLP, sinusoid
from posetraj_jax.nn.group_norm import NUM_GROUPS
from posetraj_jax.nn.layers import Make, checkpointed
from posetraj_jax.nn.resnet import Downsample, SpatioTemporalResBlock, Upsample
from posetraj_jax.nn.transformer import SpatioTemporalTransformer, VideoContext
from posetraj_jax.sharding import constrain

NUM_TIME_IDS = 3
TINY = {
    "block_out_channels": (64, 64, 128, 128),
    "layers_per_block": 1,
    "num_attention_heads": (1, 1, 2, 2),
    "cross_attention_dim": 64,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
}
MICRO = TINY | {"block_out_channels": (64, 64), "num_attention_heads": (1, 1)}


class Residuals(NamedTuple):
    """What a ControlNet adds to a UNet: one tensor per skip connection, and the middle."""

    skips: tuple[Float[Array, "b f _h _w _c"], ...]
    mid: Float[Array, "b f h w c"]


Contexts = tuple[VideoContext, ...]
"""Of the transformers of one level."""


class Steady(NamedTuple):
    """What a network is told of a video and need not compute again at every noise level."""

    ids_embed: Float[Array, "b t"]
    """Embedding of the added time ids."""
    levels: tuple[Contexts, ...]
    """Of all levels in the order in which they run."""


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The fields UNet and ControlNet share, named as in diffusers.

    Every level but the last attends. Defaults are SVD's.
    """

    in_channels: int = 8
    """Noisy latents and the conditioning frame's latents, 4 + 4."""
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    num_attention_heads: tuple[int, ...] = (5, 10, 20, 20)
    cross_attention_dim: int = 1024
    """Features of the image embedding."""
    transformer_layers_per_block: int = 1
    addition_time_embed_dim: int = 256
    """Width of the sinusoid of each added time id."""
    projection_class_embeddings_input_dim: int = 768
    """Three times `addition_time_embed_dim`."""
    num_frames: int = 14
    """Frames of the clips it is meant for; no parameter depends on it."""
    temporal_context: TemporalContext = "batch_major"
    """"interleaved" mixes the image contexts of a batch in time as diffusers did before 0.28."""

    def __post_init__(self):
        levels = len(self.block_out_channels)
        if len(self.num_attention_heads) != levels:
            raise ValueError(f"num_attention_heads needs {levels} numbers, one per level")
        for c, heads in zip(self.block_out_channels, self.num_attention_heads, strict=True):
            if c % NUM_GROUPS or c % heads:
                raise ValueError(
                    f"{c} channels do not divide by {NUM_GROUPS} groups, {heads} heads"
                )
        if (
            self.projection_class_embeddings_input_dim
            != NUM_TIME_IDS * self.addition_time_embed_dim
        ):
            raise ValueError(
                "projection_class_embeddings_input_dim is three times addition_time_embed_dim"
            )
        if self.temporal_context not in ("batch_major", "interleaved"):
            raise ValueError(f"unknown temporal_context {self.temporal_context!r}")

    @classmethod
    def svd(cls, **overrides: Any) -> "EncoderConfig":
        """Stable Video Diffusion, 14 frames."""
        return cls(**overrides)

    @classmethod
    def svd_xt(cls, **overrides: Any) -> "EncoderConfig":
        """Stable Video Diffusion XT, 25 frames."""
        return cls(**{"num_frames": 25} | overrides)

    @classmethod
    def tiny(cls, **overrides: Any) -> "EncoderConfig":
        """The same kinds of blocks on four levels, small enough to train on a CPU."""
        return cls(**TINY | overrides)

    @classmethod
    def micro(cls, **overrides: Any) -> "EncoderConfig":
        """Two levels only: every kind of block, compiled in seconds, for tests."""
        return cls(**MICRO | overrides)

    @property
    def time_embed_dim(self) -> int:
        """Features of the time embedding every residual block receives."""
        return 4 * self.block_out_channels[0]

    @property
    def num_levels(self) -> int:
        """Resolutions of the encoder."""
        return len(self.block_out_channels)

    @property
    def skip_channels(self) -> tuple[int, ...]:
        """Channels of the skip connections, from the first to the deepest."""
        channels = [self.block_out_channels[0]]
        for level, c in enumerate(self.block_out_channels):
            is_last = level == self.num_levels - 1
            channels += [c] * (self.layers_per_block + (0 if is_last else 1))
        return tuple(channels)


def _resnets(
    channels_in: list[int], level: int, config: EncoderConfig, make: Make, eps: float
) -> list[SpatioTemporalResBlock]:
    c_out, temb_dim = config.block_out_channels[level], config.time_embed_dim
    return [
        SpatioTemporalResBlock(c_in, c_out, make, eps=eps, temb_dim=temb_dim)
        for c_in in channels_in
    ]


def _transformers(
    count: int, level: int, config: EncoderConfig, make: Make
) -> list[SpatioTemporalTransformer]:
    return [
        SpatioTemporalTransformer(
            config.block_out_channels[level],
            config.num_attention_heads[level],
            make,
            context_dim=config.cross_attention_dim,
            depth=config.transformer_layers_per_block,
            order=config.temporal_context,
        )
        for _ in range(count)
    ]


class Level(nnx.Module):
    """A level of the networks; subclasses have `attentions`, which may be none."""

    def contexts(self, image_embed: Float[Array, "b d"], num_frames: int) -> Contexts:
        """What its transformers are told of videos of this length by their image."""
        return tuple(each.context(image_embed, num_frames) for each in self.attentions)


class DownStage(Level):
    """One level on the way down; every level but the last attends and ends by halving."""

    def __init__(self, level: int, config: EncoderConfig, make: Make):
        c_out, layers = config.block_out_channels[level], config.layers_per_block
        c_in = config.block_out_channels[max(level - 1, 0)]
        is_last = level == config.num_levels - 1
        # The two eps are those of diffusers' block classes with and without attention.
        eps = 1e-5 if is_last else 1e-6
        self.resnets = nnx.List(_resnets([c_in] + [c_out] * (layers - 1), level, config, make, eps))
        self.attentions = nnx.List(_transformers(0 if is_last else layers, level, config, make))
        self.downsamplers = nnx.List([] if is_last else [Downsample(c_out, make)])
        self.remat = make.remat(level)

    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        temb: Float[Array, "b t"],
        contexts: Contexts,
    ) -> tuple[Float[Array, "b f h2 w2 c2"], tuple[Float[Array, "b f _h _w c2"], ...]]:
        """The activations, and one skip connection per layer and per halving."""
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = constrain(checkpointed(resnet, self.remat)(x, temb))
            if self.attentions:
                x = constrain(checkpointed(self.attentions[i], self.remat)(x, contexts[i]))
            skips.append(x)
        for downsample in self.downsamplers:
            x = constrain(downsample(x))
            skips.append(x)
        return x, tuple(skips)


class MidStage(Level):
    """The deepest level: residual block, transformer, residual block."""

    def __init__(self, config: EncoderConfig, make: Make):
        level, c = config.num_levels - 1, config.block_out_channels[-1]
        self.resnets = nnx.List(_resnets([c, c], level, config, make, eps=1e-5))
        self.attentions = nnx.List(_transformers(1, level, config, make))
        self.remat = make.remat(level)

    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        temb: Float[Array, "b t"],
        contexts: Contexts,
    ) -> Float[Array, "b f h w c"]:
        """The activations after the middle."""
        x = checkpointed(self.resnets[0], self.remat)(x, temb)
        x = checkpointed(self.attentions[0], self.remat)(x, contexts[0])
        return checkpointed(self.resnets[1], self.remat)(x, temb)


class UpStage(Level):
    """One level on the way up: each residual block first takes in a skip connection.

    `level` counts as on the way down, so the deepest level comes first and does not attend.
    """

    def __init__(
        self, level: int, skip_channels: tuple[int, ...], config: EncoderConfig, make: Make
    ):
        c_out, is_last = config.block_out_channels[level], level == 0
        c_below = config.block_out_channels[min(level + 1, config.num_levels - 1)]
        incoming = [c_below] + [c_out] * (len(skip_channels) - 1)
        channels_in = [c + skip for c, skip in zip(incoming, skip_channels, strict=True)]
        attends = level < config.num_levels - 1
        self.resnets = nnx.List(_resnets(channels_in, level, config, make, eps=1e-6))
        self.attentions = nnx.List(
            _transformers(len(channels_in) if attends else 0, level, config, make)
        )
        self.upsamplers = nnx.List([] if is_last else [Upsample(c_out, make)])
        self.remat = make.remat(level)

    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        skips: tuple[Float[Array, "b f h w _"], ...],
        temb: Float[Array, "b t"],
        contexts: Contexts,
    ) -> Float[Array, "b f h2 w2 c2"]:
        """The activations; `skips` in the order in which they are used, deepest first."""
        for i, (resnet, skip) in enumerate(zip(self.resnets, skips, strict=True)):
            x = jnp.concatenate([x, skip], axis=-1)
            x = constrain(checkpointed(resnet, self.remat)(x, temb))
            if self.attentions:
                x = constrain(checkpointed(self.attentions[i], self.remat)(x, contexts[i]))
        for upsample in self.upsamplers:
            x = constrain(upsample(x))
        return x


class Encoder(nnx.Module):
    """Time embeddings, first convolution, way down and middle: what a ControlNet copies.

    The time embedding is computed per clip; all frames of a clip share it.
    """

    def __init__(self, config: EncoderConfig, make: Make):
        c0, d = config.block_out_channels[0], config.time_embed_dim
        self.conv_in = make.conv(config.in_channels, c0)
        self.time_embedding = EmbeddingMLP(c0, d, d, make)
        self.add_embedding = EmbeddingMLP(config.projection_class_embeddings_input_dim, d, d, make)
        self.down_blocks = nnx.List(
            [DownStage(level, config, make) for level in range(config.num_levels)]
        )
        self.mid_block = MidStage(config, make)
        self.config, self.dtype = config, make.dtype

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels in the order in which they run."""
        return (*self.down_blocks, self.mid_block)

    def steady(
        self, image_embed: Float[Array, "b d"], time_ids: Float[Array, "b 3"], num_frames: int
    ) -> Steady:
        """What does not depend on the noise level: when sampling, call it once per video."""
        ids = sinusoid(time_ids, self.config.addition_time_embed_dim)
        image_embed = image_embed.astype(self.dtype)
        return Steady(
            ids_embed=self.add_embedding(ids.reshape(len(ids), -1)),
            levels=tuple(level.contexts(image_embed, num_frames) for level in self.levels),
        )

    def embed_time(self, c_noise: Float[Array, "b"], steady: Steady) -> Float[Array, "b t"]:
        """The sum of the embeddings of the noise level and of the added time ids."""
        noise = sinusoid(c_noise, self.config.block_out_channels[0])
        return self.time_embedding(noise) + steady.ids_embed

    def encode(
        self,
        x: Float[Array, "b f h w c"],
        temb: Float[Array, "b t"],
        steady: Steady,
    ) -> tuple[tuple[Float[Array, "b f _h _w _c"], ...], Float[Array, "b f h2 w2 c2"]]:
        """All skip connections, `x` first, and the activations after the middle."""
        skips, levels = (x,), steady.levels
        for i, stage in enumerate(self.down_blocks):
            with jax.named_scope(f"down_{i}"):
                x, more = stage(x, temb, levels[i])
            skips += more
        with jax.named_scope("mid"):
            return skips, self.mid_block(x, temb, levels[len(self.down_blocks)])
