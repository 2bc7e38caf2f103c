"""The trajectory ControlNet: a copy of the UNet's encoder that reads trajectory maps."""

import dataclasses
import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax import tree
from posetraj_jax.models.stages import MICRO, TINY, Encoder, EncoderConfig, Residuals, Steady
from posetraj_jax.nn.embeddings import EmbeddingMLP
from posetraj_jax.nn.folded import convolve_folded, convolve_folding
from posetraj_jax.nn.layers import Initializer, Make, zeros
from posetraj_jax.structs import CAMERA_NUMBERS, MAP_CHANNELS

NARROW = (16, 32, 64, 64)
"""Channels of the map embedding of the small variants."""


@dataclasses.dataclass(frozen=True)
class ControlNetConfig(EncoderConfig):
    """Architecture of the ControlNet: the UNet's encoder and how it is conditioned."""

    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    """Channels of the map embedding; each step after the first halves the resolution."""
    camera: bool = False
    """Whether the maps' features are mixed with the camera (`cc_projection`)."""
    camera_encoder: Literal["linear", "mlp"] = "linear"
    """"linear" mixes the 12 numbers in as they are, "mlp" features of them."""
    camera_init: Literal["zero", "uniform"] = "zero"
    """Start of the camera's columns; "uniform" is the official ±1/sqrt(268)."""
    residual_multiplicity: tuple[int, ...] = (1,) * 12
    """How often each residual is added to its skip connection; see
    `official_residual_multiplicity`."""

    def __post_init__(self):
        super().__post_init__()
        skips, given = len(self.skip_channels), len(self.residual_multiplicity)
        if given != skips:
            raise ValueError(
                f"residual_multiplicity needs {skips} numbers, one per skip, got {given}"
            )
        if len(self.conditioning_embedding_out_channels) != 4:
            raise ValueError(
                "conditioning_embedding_out_channels needs 4 numbers: 3 halvings to /8"
            )
        if self.camera_init not in ("zero", "uniform"):
            raise ValueError(f'camera_init is "zero" or "uniform", got {self.camera_init!r}')
        if self.camera_encoder not in ("linear", "mlp"):
            raise ValueError(f'camera_encoder is "linear" or "mlp", got {self.camera_encoder!r}')

    @classmethod
    def tiny(cls, **overrides: Any) -> "ControlNetConfig":
        """The partner of `UNetConfig.tiny`."""
        small = {"conditioning_embedding_out_channels": NARROW, "residual_multiplicity": (1,) * 8}
        return cls(**TINY | small | overrides)

    @classmethod
    def micro(cls, **overrides: Any) -> "ControlNetConfig":
        """The partner of `UNetConfig.micro`."""
        small = {"conditioning_embedding_out_channels": NARROW, "residual_multiplicity": (1,) * 4}
        return cls(**MICRO | small | overrides)


def official_residual_multiplicity(num_levels: int, layers_per_block: int) -> tuple[int, ...]:
    """How often the official UNet adds each residual: (4,4,4,4,3,3,3,2,2,2,1,1) for SVD.

    Source: its loop over the stages adds, after each stage, all residuals to all skip connections
    gathered so far.
    """
    per_stage = [layers_per_block + 1] * (num_levels - 1) + [layers_per_block]
    gathered = list(itertools.accumulate(per_stage, initial=1))[1:]
    return tuple(sum(k < count for count in gathered) for k in range(gathered[-1]))


class MapEmbedding(nnx.Module):
    """Convolutions from trajectory maps at pixel resolution to features at latent resolution.

    The camera, where there is a branch for it, is mixed in before the last convolution, which
    starts at zero: a linear layer on the features and the camera's numbers, or an MLP's features of
    them, starting as the identity on the former.

    Source: 2-D convolutions per frame (the paper's text says 3-D), the camera's numbers themselves
    (the paper's text has an MLP, `camera_encoder = "mlp"`). Differs: the official camera columns
    start at random, so that they disturb what earlier stages have learnt.
    """

    def __init__(self, config: ControlNetConfig, make: Make):
        channels = config.conditioning_embedding_out_channels
        self.conv_in = make.conv(MAP_CHANNELS, channels[0])
        blocks = []
        for c_in, c_out in itertools.pairwise(channels):
            blocks += [make.conv(c_in, c_in), make.conv(c_in, c_out, strides=2)]
        self.blocks = nnx.List(blocks)
        if config.camera:
            c, camera = channels[-1], CAMERA_NUMBERS
            if config.camera_encoder == "mlp":
                self.camera_embedding = EmbeddingMLP(camera, c, c, make)
                camera = c
            init = _identity_and_camera(config, make)
            self.cc_projection = make.linear(c + camera, c, kernel_init=init)
        self.conv_out = make.conv(channels[-1], config.block_out_channels[0], kernel_init=zeros)
        self.folds, self.dtype = make.for_tpu, make.dtype

    def __call__(
        self,
        maps_pixels: Float[Array, "b f H W 3"],
        camera_rt: Float[Array, "b f 12"] | None = None,
    ) -> Float[Array, "b f h w c"]:
        """Features of the maps; a camera of zeros is the same as none."""
        x, convs = maps_pixels, [self.conv_in, *self.blocks]
        if self.folds:  # up to the first halving
            x = jax.nn.silu(convolve_folding(x.astype(self.dtype), self.conv_in))
            for conv in convs[1:3]:
                x = jax.nn.silu(convolve_folded(x, conv))
            convs = convs[3:]
        for conv in convs:
            x = jax.nn.silu(conv(x))
        if hasattr(self, "cc_projection"):
            x = self._mix(x, camera_rt)
        return self.conv_out(x)

    def _mix(
        self, x: Float[Array, "b f h w c"], camera_rt: Float[Array, "b f 12"] | None
    ) -> Float[Array, "b f h w c"]:
        """The projection of features and camera side by side, as a sum of two.

        The camera's part is the same at every position of a frame. It stays in float32: in bfloat16
        the cosine of 3 degrees is 1.
        """
        camera = jnp.zeros((*x.shape[:2], CAMERA_NUMBERS)) if camera_rt is None else camera_rt
        if hasattr(self, "camera_embedding"):
            camera = self.camera_embedding(camera)
        weight = self.cc_projection.kernel[...].astype(jnp.float32)
        bias = self.cc_projection.bias[...].astype(jnp.float32)
        of_features, of_camera = jnp.split(weight, [x.shape[-1]])
        added = jnp.matmul(camera.astype(jnp.float32), of_camera, precision="highest") + bias
        return x @ of_features.astype(x.dtype) + added[:, :, None, None, :].astype(x.dtype)


def _identity_and_camera(config: ControlNetConfig, make: Make) -> Initializer:
    """Identity on the features; the camera's rows zero, or U(±1/sqrt(number of inputs))."""

    def init(key: None, shape: tuple[int, int], dtype: Any) -> Array:
        d_in, d_out = shape
        camera = jnp.zeros((d_in - d_out, d_out))
        if config.camera_init == "uniform":
            camera = make.uniform(camera.shape, d_in**-0.5)
        return jnp.concatenate([jnp.eye(d_out), camera]).astype(dtype)

    return init


class ControlNet(Encoder):
    """Turns trajectory maps, and optionally the camera, into residuals for the UNet.

    Source: the official Traj-ControlNet. Differs: maps are embedded by a separate call, because
    their features do not depend on the noise level; `residual_multiplicity` is all ones.
    """

    def __init__(self, config: ControlNetConfig, make: Make):
        super().__init__(config, make)
        self.controlnet_cond_embedding = MapEmbedding(config, make)
        self.controlnet_down_blocks = nnx.List(
            [make.conv(c, c, (1, 1), kernel_init=zeros) for c in config.skip_channels]
        )
        c_mid = config.block_out_channels[-1]
        self.controlnet_mid_block = make.conv(c_mid, c_mid, (1, 1), kernel_init=zeros)

    def encode_maps(
        self,
        maps_pixels: Float[Array, "b f H W 3"],
        camera_rt: Float[Array, "b f 12"] | None = None,
    ) -> Float[Array, "b f h w c"]:
        """Features of trajectory maps in [-1, 1] at 8 times the latents' resolution.

        Independent of the noise level: when sampling, call it once per video. `camera_rt` is
        normalised extrinsics, zeros where dropped; None if there are none, or without the branch.

        Raises:
            ValueError: A camera is given to a network without a camera branch.
        """
        if camera_rt is not None and not self.config.camera:
            raise ValueError("camera_rt is given, but this ControlNet has no camera branch")
        with jax.named_scope("maps"):
            return self.controlnet_cond_embedding(maps_pixels, camera_rt)

    def __call__(
        self,
        sample: Float[Array, "b f h w c_in"],
        c_noise: Float[Array, "b"],
        image_embed: Float[Array, "b d"],
        time_ids: Float[Array, "b 3"],
        map_features: Float[Array, "b f h w c0"],
        scale: float | Float[Array, ""] = 1.0,
    ) -> Residuals:
        """The residuals, times `scale` and the configured multiplicity; for any noise level."""
        steady = self.steady(image_embed, time_ids, sample.shape[1])
        return self.predict(sample, c_noise, steady, map_features, scale)

    def predict(
        self,
        sample: Float[Array, "b f h w c_in"],
        c_noise: Float[Array, "b"],
        steady: Steady,
        map_features: Float[Array, "b f h w c0"],
        scale: float | Float[Array, ""] = 1.0,
    ) -> Residuals:
        """The same, with what does not depend on the noise level at hand."""
        temb = self.embed_time(c_noise, steady)
        hidden = self.conv_in(sample) + map_features.astype(self.dtype)
        skips, mid = self.encode(hidden, temb, steady)
        scale = jnp.asarray(scale, self.dtype)
        taps = zip(
            self.controlnet_down_blocks, skips, self.config.residual_multiplicity, strict=True
        )
        return Residuals(
            skips=tuple(conv(skip) * (times * scale) for conv, skip, times in taps),
            mid=self.controlnet_mid_block(mid) * scale,
        )


ENCODER_PARTS = ("conv_in", "time_embedding", "down_blocks", "mid_block")


def init_from_unet(
    controlnet_params: dict[str, Any],
    unet_params: dict[str, Any],
    *,
    copy_add_embedding: bool = True,
) -> dict[str, Any]:
    """The ControlNet's parameters with the encoder copied from a UNet.

    Copies `conv_in`, `time_embedding`, `down_blocks`, `mid_block` and `add_embedding`, in the
    ControlNet's dtypes and into arrays of their own, so that donating them leaves the UNet alone.
    Source: from_unet. Differs: the official code leaves `add_embedding` at its random start, so
    the ControlNet cannot read the time ids at first (`copy_add_embedding=False`).

    Raises:
        ValueError: The two encoders differ in names or shapes.
    """
    parts = (*ENCODER_PARTS, *(("add_embedding",) if copy_add_embedding else ()))
    own = {part: controlnet_params[part] for part in parts}
    source = {part: unet_params[part] for part in parts}
    if problems := tree.differences(own, source, dtypes=False):
        raise ValueError("the UNet's encoder does not fit:\n  " + "\n  ".join(problems))
    copied = jax.tree.map(lambda to, x: jnp.array(x, dtype=to.dtype, copy=True), own, source)
    return controlnet_params | copied
