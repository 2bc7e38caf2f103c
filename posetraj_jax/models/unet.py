"""The denoising UNet of Stable Video Diffusion."""

import dataclasses

import jax
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.models.stages import Encoder, EncoderConfig, Level, Residuals, Steady, UpStage
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

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels in the order in which they run."""
        return (*super().levels, *self.up_blocks)

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
        steady = self.steady(image_embed, time_ids, sample.shape[1])
        return self.predict(sample, c_noise, steady, residuals)

    def predict(
        self,
        sample: Float[Array, "b f h w c_in"],
        c_noise: Float[Array, "b"],
        steady: Steady,
        residuals: Residuals | None = None,
    ) -> Float[Array, "b f h w c_out"]:
        """The same, with what does not depend on the noise level at hand."""
        temb = self.embed_time(c_noise, steady)
        skips, x = self.encode(self.conv_in(sample), temb, steady)
        if residuals is not None:
            skips = tuple(skip + extra for skip, extra in zip(skips, residuals.skips, strict=True))
            x += residuals.mid
        remaining = list(skips)
        on_the_way_up = steady.levels[-len(self.up_blocks) :]
        for i, (stage, contexts) in enumerate(zip(self.up_blocks, on_the_way_up, strict=True)):
            taken = tuple(remaining.pop() for _ in stage.resnets)
            with jax.named_scope(f"up_{self.config.num_levels - 1 - i}"):
                x = stage(x, taken, temb, contexts)
        return self.conv_out(self.conv_norm_out.silu(x))
