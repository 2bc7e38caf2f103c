"""The denoising UNet of Stable Video Diffusion."""

import dataclasses

import jax
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.models.stages import Encoder, EncoderConfig, Residuals, UpStage
from posetraj_jax.nn.layers import GroupNorm, Make


@dataclasses.dataclass(frozen=True)
class UNetConfig(EncoderConfig):
    """Architecture of the UNet, fields named as in diffusers; defaults are SVD's."""

    out_channels: int = 4


class UNet(Encoder):
    """Predicts F of the preconditioned denoiser from noisy and conditioning latents.

    Source: diffusers' UNetSpatioTemporalConditionModel, with a ControlNet's residuals added to the
    skip connections. Differs: the official code adds residuals inside the loop over stages, so
    early ones count several times; here each is added once, and `ControlNetConfig` holds the
    multiplicity.
    """

    def __init__(self, config: UNetConfig, make: Make):
        super().__init__(config, make)
        c0, remaining = config.block_out_channels[0], list(config.skip_channels)
        stages = []
        for level in reversed(range(config.num_levels)):
            taken = tuple(remaining.pop() for _ in range(config.layers_per_block + 1))
            stages.append(UpStage(level, taken, config, make))
        self.up_blocks = nnx.List(stages)
        self.conv_norm_out = GroupNorm(c0, make, eps=1e-5)
        self.conv_out = make.conv(c0, config.out_channels)

    def __call__(
        self,
        sample: Float[Array, "b f h w c_in"],
        c_noise: Float[Array, "b"],
        image_embed: Float[Array, "b d"],
        time_ids: Float[Array, "b 3"],
        residuals: Residuals | None = None,
    ) -> Float[Array, "b f h w c_out"]:
        """The network's raw output, in the compute type.

        `h` and `w` are multiples of 8, so that every halving is exact.
        """
        temb, context = self.embed_time(c_noise, time_ids), image_embed.astype(self.dtype)
        skips, x = self.encode(self.conv_in(sample), temb, context)
        if residuals is not None:
            skips = tuple(skip + extra for skip, extra in zip(skips, residuals.skips, strict=True))
            x += residuals.mid
        remaining = list(skips)
        for stage in self.up_blocks:
            taken = tuple(remaining.pop() for _ in stage.resnets)
            x = stage(x, taken, temb, context)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))
