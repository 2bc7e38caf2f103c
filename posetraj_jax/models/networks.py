"""The four networks of a variant, built from the config, and the tuple of their parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from posetraj_jax import tree
from posetraj_jax.errors import UserError
from posetraj_jax.models.clip import CLIPVision, CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNet, ControlNetConfig
from posetraj_jax.models.denoiser import Denoiser
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.models.vae import VAE, VAEConfig
from posetraj_jax.nn.build import Network, build
from posetraj_jax.structs import Encoders

KERNELS = {"cpu": "blocked", "gpu": "cudnn", "tpu": "splash"}
"""The attention kernel of a platform."""


@dataclass(frozen=True)
class ModelOptions:
    """What the sections `model` and `camera` of the config say of the networks; see there."""

    variant: str
    residual_multiplicity: tuple[int, ...]
    temporal_context: str = "batch_major"
    copy_add_embedding: bool = True
    remat: tuple[str, ...] = ("none",)
    attention: str = "xla"
    """Resolved: a kernel, not "auto"."""
    dtype: Any = jnp.float32
    """Resolved: a type, not "auto"."""
    camera: bool = False
    camera_encoder: str = "linear"
    camera_init: str = "zero"
    controlled: bool = True
    """Whether there is a ControlNet at all."""


def options_of(fields: Mapping[str, Any], dtype: Any, attention: str = "xla") -> ModelOptions:
    """The options that a flattened config holds: dotted field → value.

    Args:
      fields: `model.dtype` and `model.attention` are not read, because they depend on the devices.
      dtype, attention: as `suited_to` gives them.

    Raises:
      KeyError, TypeError: fields of the sections `model` or `camera` are missing or unknown.
    """
    model = {
        name.removeprefix("model."): tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
        if name.startswith("model.")
    }
    return ModelOptions(
        **model | {"dtype": jnp.dtype(dtype), "attention": attention},
        camera=fields["camera.enabled"],
        camera_encoder=fields["camera.encoder"],
        camera_init=fields["camera.init"],
        controlled=fields["stage"] > 0,
    )


def suited_to(platform: str, dtype: str = "auto", attention: str = "auto") -> dict[str, Any]:
    """`dtype` and `attention` of ModelOptions for a platform of JAX: cpu, gpu or tpu.

    auto: bfloat16 but on CPU, where XLA does not speed it up; the platform's own attention kernel.

    Raises:
      UserError: an attention kernel that the platform does not have, or not in this type.
    """
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    own = KERNELS.get(platform, "xla")
    usable = "xla" if own == "cudnn" and dtype == "float32" else own
    if attention not in ("auto", "xla", usable):
        raise UserError(
            f"this attention kernel does not run on {platform} in {dtype}",
            expected=f"model.attention = auto, xla{'' if usable == 'xla' else f' or {usable}'}",
            got=attention,
            fix="set --config.model.attention=auto",
        )
    return {"dtype": jnp.dtype(dtype), "attention": usable if attention == "auto" else attention}


class Parameters(NamedTuple):
    """A tree of parameters for each network; a part of one, or {}, where the rest is elsewhere."""

    unet: Any
    controlnet: Any
    vae: Any
    image_encoder: Any

    def with_part(self, name: str, part: Any) -> "Parameters":
        """The same with the leaves of `part` put into the tree of the network `name`."""
        return self._replace(**{name: tree.merged(getattr(self, name), part)})


class Networks(NamedTuple):
    """Pure functions of the four networks; no parameters."""

    unet: Network
    controlnet: Network | None
    vae: Network
    image_encoder: Network

    @property
    def denoiser(self) -> Denoiser:
        """The UNet steered by the ControlNet, if there is one."""
        return Denoiser(self.unet, self.controlnet)

    @property
    def still_denoiser(self) -> Denoiser:
        """The same for clips of one frame: nothing temporal runs."""
        return Denoiser(*(net and replace(net, still=True) for net in self.denoiser))

    def encoders(self, parameters: Parameters) -> Encoders:
        """The encoders as functions of pixels only."""
        return Encoders(
            moments=partial(self.vae.apply, parameters.vae, method="encode"),
            embed=partial(self.image_encoder.apply, parameters.image_encoder),
            scaling_factor=self.vae.config.scaling_factor,
        )


def assemble(
    unet: UNetConfig,
    controlnet: ControlNetConfig | None,
    vae: VAEConfig,
    image_encoder: CLIPVisionConfig,
    *,
    dtype: Any,
    remat: Sequence[str] = ("none",),
    attention: str = "xla",
) -> Networks:
    """The networks of these architectures, computing in `dtype`."""
    kinds = {"dtype": dtype, "remat": remat, "attention": attention}
    # The others want heads of other sizes than the encoders'.
    of_encoders = attention if attention == "blocked" else "xla"
    return Networks(
        unet=build(UNet, unet, **kinds),
        controlnet=controlnet and build(ControlNet, controlnet, **kinds),
        vae=build(VAE, vae, dtype=dtype, attention=of_encoders),
        image_encoder=build(CLIPVision, image_encoder, dtype=dtype, attention=of_encoders),
    )


def build_networks(options: ModelOptions) -> Networks:
    """Builds the networks of `options.variant`: svd, svd_xt, tiny or micro."""
    name = options.variant
    is_small = name in ("tiny", "micro")
    unet = replace(getattr(UNetConfig, name)(), temporal_context=options.temporal_context)
    controlnet = replace(
        getattr(ControlNetConfig, name)(),
        temporal_context=options.temporal_context,
        residual_multiplicity=options.residual_multiplicity,
        camera=options.camera,
        camera_encoder=options.camera_encoder,
        camera_init=options.camera_init,
    )
    vae = getattr(VAEConfig, name if is_small else "svd")()
    clip = CLIPVisionConfig.tiny() if is_small else CLIPVisionConfig.vit_h()
    return assemble(
        unet,
        controlnet if options.controlled else None,
        vae,
        clip,
        dtype=options.dtype,
        remat=options.remat,
        attention=options.attention,
    )
