"""The four networks of a variant, built together from one section of the config."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp

from posetraj_jax.models.clip import CLIPVision, CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNet, ControlNetConfig
from posetraj_jax.models.denoiser import Denoiser
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.models.vae import VAE, VAEConfig
from posetraj_jax.nn.build import Network, build


@dataclass(frozen=True)
class ModelOptions:
    """The section `model` of the config, with `dtype` resolved; see there."""

    variant: str
    residual_multiplicity: tuple[int, ...]
    temporal_context: str
    copy_add_embedding: bool
    remat: str
    dtype: Any = jnp.float32


class Networks(NamedTuple):
    """Pure functions of the four networks; no parameters."""

    unet: Network
    controlnet: Network
    vae: Network
    image_encoder: Network

    @property
    def denoiser(self) -> Denoiser:
        """The UNet steered by the ControlNet."""
        return Denoiser(self.unet, self.controlnet)


def build_networks(options: ModelOptions) -> Networks:
    """Builds the networks of `options.variant`: svd, svd_xt or tiny."""
    unet = getattr(UNetConfig, options.variant)()
    controlnet = getattr(ControlNetConfig, options.variant)()
    vae = VAEConfig.tiny() if options.variant == "tiny" else VAEConfig.svd()
    clip = CLIPVisionConfig.tiny() if options.variant == "tiny" else CLIPVisionConfig.vit_h()
    unet = replace(unet, temporal_context=options.temporal_context)
    controlnet = replace(
        controlnet,
        temporal_context=options.temporal_context,
        residual_multiplicity=options.residual_multiplicity,
    )
    return Networks(
        unet=build(UNet, unet, dtype=options.dtype, remat=options.remat),
        controlnet=build(ControlNet, controlnet, dtype=options.dtype, remat=options.remat),
        vae=build(VAE, vae, dtype=options.dtype),
        image_encoder=build(CLIPVision, clip, dtype=options.dtype),
    )
