"""Residual blocks in space, in time and in both, and the layers that change the resolution."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.convolutions import convolve_doubled, convolve_frames
from posetraj_jax.nn.layers import OVER_CLIP, OVER_FRAME, Blend, GroupNorm, Make

SPATIAL_KERNEL = (3, 3)
TEMPORAL_KERNEL = (3, 1, 1)


class ResnetBlock(nnx.Module):
    """Norm, SiLU, convolution, twice, plus the input; between them the time embedding is added.

    With the temporal kernel it convolves along frames and its norms take statistics over all
    frames of a clip together; otherwise frames do not see each other.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        make: Make,
        *,
        eps: float,
        temb_dim: int | None = None,
        temporal: bool = False,
    ):
        kernel = TEMPORAL_KERNEL if temporal else SPATIAL_KERNEL
        axes = OVER_CLIP if temporal else OVER_FRAME
        options = {"conv_general_dilated": convolve_frames} if temporal and make.for_tpu else {}
        self.norm1 = GroupNorm(c_in, make, eps, axes)
        self.conv1 = make.conv(c_in, c_out, kernel, **options)
        if temb_dim is not None:
            self.time_emb_proj = make.linear(temb_dim, c_out)
        self.norm2 = GroupNorm(c_out, make, eps, axes)
        self.conv2 = make.conv(c_out, c_out, kernel, **options)
        if c_in != c_out:
            self.conv_shortcut = make.conv(c_in, c_out, (1, 1))

    def __call__(
        self, x: Float[Array, "*batch h w c_in"], temb: Float[Array, "b d"] | None = None
    ) -> Float[Array, "*batch h w c_out"]:
        """The block's output; `temb` is one embedding per clip, not per frame."""
        hidden = self.conv1(self.norm1.silu(x))
        if temb is not None:
            hidden += self.time_emb_proj(jax.nn.silu(temb))[:, None, None, None, :]
        hidden = self.conv2(self.norm2.silu(hidden))
        shortcut = self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x
        return shortcut + hidden


class SpatioTemporalResBlock(nnx.Module):
    """A spatial residual block, a temporal one on its output, and the blend of the two.

    The VAE decoder's form has no time embedding (`temb_dim=None`), another eps in time, and swaps
    the roles in the blend.
    """

    def __init__(
        self, c_in: int, c_out: int, make: Make, *, eps: float, temb_dim: int | None = None
    ):
        in_vae = temb_dim is None
        temporal_eps = 1e-5 if in_vae else eps
        self.spatial_res_block = ResnetBlock(c_in, c_out, make, eps=eps, temb_dim=temb_dim)
        self.temporal_res_block = ResnetBlock(
            c_out, c_out, make, eps=temporal_eps, temb_dim=temb_dim, temporal=True
        )
        self.time_mixer = Blend(0.0 if in_vae else 0.5, make, swap=in_vae)

    def __call__(
        self, x: Float[Array, "b f h w c_in"], temb: Float[Array, "b d"] | None = None
    ) -> Float[Array, "b f h w c_out"]:
        """The block's output."""
        spatial = self.spatial_res_block(x, temb)
        return self.time_mixer(spatial, lambda: self.temporal_res_block(spatial, temb))


class Downsample(nnx.Module):
    """Halves the resolution with a stride-2 convolution.

    `padding` is (before, after) on both axes: (1, 1) in the UNet, (0, 1) in the VAE encoder.
    """

    def __init__(self, channels: int, make: Make, padding: tuple[int, int] = (1, 1)):
        self.conv = make.conv(channels, channels, strides=2, padding=[padding, padding])

    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 c"]:
        """Every second position, convolved."""
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles the resolution by repeating pixels, then convolves."""

    def __init__(self, channels: int, make: Make):
        self.conv = make.conv(channels, channels, conv_general_dilated=convolve_doubled)

    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 c"]:
        """Twice the rows and columns."""
        return self.conv(x)
