"""The video autoencoder: a per-frame encoder and a decoder with temporal layers."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.attention import SelfAttention
from posetraj_jax.nn.group_norm import NUM_GROUPS
from posetraj_jax.nn.layers import GroupNorm, Make
from posetraj_jax.nn.resnet import (
    TEMPORAL_KERNEL,
    Downsample,
    ResnetBlock,
    SpatioTemporalResBlock,
    Upsample,
)

EPS = 1e-6
LOGVAR_RANGE = (-30.0, 20.0)


class Moments(NamedTuple):
    """The Gaussian posterior of unscaled latents; `mean` is also its mode."""

    mean: Float[Array, "n h w c"]
    logvar: Float[Array, "n h w c"]


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Architecture of the autoencoder, fields named as in diffusers; defaults are SVD's."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    scaling_factor: float = 0.18215
    """Multiplies encoded latents before diffusion; callers apply and undo it."""

    def __post_init__(self):
        for c in self.block_out_channels:
            if c % NUM_GROUPS:
                raise ValueError(f"{c} channels do not divide by {NUM_GROUPS} groups")

    @classmethod
    def svd(cls, **overrides: Any) -> "VAEConfig":
        """The autoencoder of Stable Video Diffusion, 14 and 25 frames alike."""
        return cls(**overrides)

    @classmethod
    def tiny(cls, **overrides: Any) -> "VAEConfig":
        """The same blocks, small enough to train on a CPU."""
        small = {"block_out_channels": (64, 64, 64, 64), "layers_per_block": 1}
        return cls(**small | overrides)

    @classmethod
    def micro(cls, **overrides: Any) -> "VAEConfig":
        """Narrower still, for tests."""
        return cls.tiny(**{"block_out_channels": (32, 32, 32, 32)} | overrides)


def _in_and_out(channels: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(itertools.pairwise((channels[0], *channels)))


class PixelAttention(SelfAttention):
    """One head of self-attention over all positions of each frame, with a residual."""

    def __init__(self, channels: int, make: Make):
        super().__init__(channels, 1, make, qkv_bias=True)
        self.group_norm = GroupNorm(channels, make, EPS)

    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h w c"]:
        """The activations after attention."""
        *batch, h, w, c = x.shape
        tokens = self.group_norm(x).reshape(*batch, h * w, c)
        return x + super().__call__(tokens).reshape(x.shape)


class EncoderStage(nnx.Module):
    """One level of the encoder."""

    def __init__(self, c_in: int, c_out: int, config: VAEConfig, make: Make, *, is_last: bool):
        channels_in = [c_in] + [c_out] * (config.layers_per_block - 1)
        self.resnets = nnx.List([ResnetBlock(c, c_out, make, eps=EPS) for c in channels_in])
        halving = [] if is_last else [Downsample(c_out, make, padding=(0, 1))]
        self.downsamplers = nnx.List(halving)

    def __call__(self, x: Float[Array, "n h w c_in"]) -> Float[Array, "n h2 w2 c_out"]:
        """The activations, halved except on the last level."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class EncoderMid(nnx.Module):
    """The deepest level of the encoder."""

    def __init__(self, c: int, make: Make):
        self.resnets = nnx.List([ResnetBlock(c, c, make, eps=EPS) for _ in range(2)])
        self.attentions = nnx.List([PixelAttention(c, make)])

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """The activations after the middle."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nnx.Module):
    """From frames to the two moments of their latents, frame by frame."""

    def __init__(self, config: VAEConfig, make: Make):
        channels = config.block_out_channels
        self.conv_in = make.conv(config.in_channels, channels[0])
        self.down_blocks = nnx.List(
            [
                EncoderStage(c_in, c_out, config, make, is_last=i == len(channels) - 1)
                for i, (c_in, c_out) in enumerate(_in_and_out(channels))
            ]
        )
        self.mid_block = EncoderMid(channels[-1], make)
        self.conv_norm_out = GroupNorm(channels[-1], make, EPS)
        self.conv_out = make.conv(channels[-1], 2 * config.latent_channels)

    def __call__(self, x: Float[Array, "n H W c"]) -> Float[Array, "n h w c2"]:
        """Mean and log variance before `quant_conv`."""
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(self.conv_norm_out.silu(self.mid_block(x)))


class DecoderStage(nnx.Module):
    """One level of the decoder."""

    def __init__(self, c_in: int, c_out: int, config: VAEConfig, make: Make, *, is_last: bool):
        channels_in = [c_in] + [c_out] * config.layers_per_block
        self.resnets = nnx.List(
            [SpatioTemporalResBlock(c, c_out, make, eps=EPS) for c in channels_in]
        )
        self.upsamplers = nnx.List([] if is_last else [Upsample(c_out, make)])

    def __call__(self, x: Float[Array, "b f h w c_in"]) -> Float[Array, "b f h2 w2 c_out"]:
        """The activations, doubled except on the last level."""
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class DecoderMid(nnx.Module):
    """The deepest level of the decoder: attention stands between the first two blocks only."""

    def __init__(self, c: int, config: VAEConfig, make: Make):
        self.resnets = nnx.List(
            [SpatioTemporalResBlock(c, c, make, eps=EPS) for _ in range(config.layers_per_block)]
        )
        self.attentions = nnx.List([PixelAttention(c, make)])

    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        """The activations after the middle."""
        first, *rest = self.resnets
        x = first(x)
        # Source pairs one attention with the remaining blocks: no more than two blocks ever run.
        for attention, resnet in zip(self.attentions, rest, strict=False):
            x = resnet(attention(x))
        return x


class Decoder(nnx.Module):
    """From latents of a clip to its frames; temporal layers see all frames given at once."""

    def __init__(self, config: VAEConfig, make: Make):
        channels = config.block_out_channels[::-1]
        self.conv_in = make.conv(config.latent_channels, channels[0])
        self.mid_block = DecoderMid(channels[0], config, make)
        self.up_blocks = nnx.List(
            [
                DecoderStage(c_in, c_out, config, make, is_last=i == len(channels) - 1)
                for i, (c_in, c_out) in enumerate(_in_and_out(channels))
            ]
        )
        self.conv_norm_out = GroupNorm(channels[-1], make, EPS)
        self.conv_out = make.conv(channels[-1], config.out_channels)
        self.time_conv_out = make.conv(config.out_channels, config.out_channels, TEMPORAL_KERNEL)

    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f H W c_out"]:
        """Frames at 8 times the latents' resolution."""
        x = self.mid_block(self.conv_in(x))
        for stage in self.up_blocks:
            x = stage(x)
        x = self.conv_out(self.conv_norm_out.silu(x))
        return self.time_conv_out(x)


class VAE(nnx.Module):
    """Encodes frames one by one and decodes clips.

    Source: diffusers' AutoencoderKLTemporalDecoder. Scaling by `scaling_factor` is the caller's.
    """

    def __init__(self, config: VAEConfig, make: Make):
        self.encoder = Encoder(config, make)
        self.quant_conv = make.conv(2 * config.latent_channels, 2 * config.latent_channels, (1, 1))
        self.decoder = Decoder(config, make)

    def encode(self, pixels: Float[Array, "n H W 3"]) -> Moments:
        """The posterior of the unscaled latents of frames in [-1, 1]; float32.

        `H` and `W` are multiples of 8.
        """
        moments = self.quant_conv(self.encoder(pixels)).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return Moments(mean, jnp.clip(logvar, *LOGVAR_RANGE))

    def decode(self, latents_raw: Float[Array, "b f h w c"]) -> Float[Array, "b f H W 3"]:
        """Frames, about [-1, 1] but not clipped, of unscaled latents."""
        return self.decoder(latents_raw)
