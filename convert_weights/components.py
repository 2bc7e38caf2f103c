"""What the folders of a published pipeline hold: the networks, and the words of their config.json.

A config is read into ours and written from ours by the same tables, so what is exported is what is
accepted.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from posetraj_jax import published
from posetraj_jax.models.clip import CLIPVision, CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNet, ControlNetConfig
from posetraj_jax.models.stages import EncoderConfig
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.models.vae import VAE, VAEConfig
from posetraj_jax.published import LARGEST, SHORT
from posetraj_jax.structs import MAP_CHANNELS

OURS = ("temporal_context", "residual_multiplicity", "camera", "camera_encoder", "camera_init")
"""Fields of our configurations that no published config has."""

PIPELINE, INDEX = ("unet", "vae", "image_encoder"), "model_index.json"
"""The components of Stable Video Diffusion, and the file beside them that says so."""

MOST_SKIPS, MOST_LAYERS, LARGEST_COUNT = 64, 64, 10**6
LAYERS = ("layers_per_block", "transformer_layers_per_block", "num_hidden_layers")

Config = TypeVar("Config")


class Component(NamedTuple):
    """How one folder is understood."""

    key: str
    """Its name in `convert_weights.names`."""
    config_cls: type
    module_cls: type
    identity: Mapping[str, Any]
    """Fields that say which class this is; a published config may lack them."""
    built_in: Callable[[Any], dict[str, Any]]
    """Fields that our network, of this configuration, has built in."""
    harmless: str
    """Pattern of further fields, which change no number; any other is refused."""
    file: str = "diffusion_pytorch_model"
    """Its tensors' file, without suffix."""
    settings: str | None = None
    """The config, beside its folder, without which it cannot be used."""


def _down_blocks(config: EncoderConfig) -> list[str]:
    attending = config.num_levels - 1
    return ["CrossAttnDownBlockSpatioTemporal"] * attending + ["DownBlockSpatioTemporal"]


def _up_blocks(config: EncoderConfig) -> list[str]:
    attending = config.num_levels - 1
    return ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * attending


def _in_unet(config: UNetConfig) -> dict[str, Any]:
    return {"down_block_types": _down_blocks(config), "up_block_types": _up_blocks(config)}


def _in_controlnet(config: ControlNetConfig) -> dict[str, Any]:
    return {"down_block_types": _down_blocks(config), "conditioning_channels": MAP_CHANNELS}


def _in_vae(config: VAEConfig) -> dict[str, Any]:
    return {"down_block_types": ["DownEncoderBlock2D"] * len(config.block_out_channels)}


def _in_clip(config: CLIPVisionConfig) -> dict[str, Any]:
    return {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "num_channels": 3}


COMPONENTS = {
    "unet": Component(
        key="unet",
        config_cls=UNetConfig,
        module_cls=UNet,
        identity={"_class_name": "UNetSpatioTemporalConditionModel"},
        built_in=_in_unet,
        harmless=r"_|sample_size$",
        settings=published.SCHEDULER,
    ),
    "vae": Component(
        key="vae",
        config_cls=VAEConfig,
        module_cls=VAE,
        identity={"_class_name": "AutoencoderKLTemporalDecoder"},
        built_in=_in_vae,
        harmless=r"_|sample_size$|force_upcast$",
    ),
    "image_encoder": Component(
        key="clip",
        config_cls=CLIPVisionConfig,
        module_cls=CLIPVision,
        identity={
            "architectures": ["CLIPVisionModelWithProjection"],
            "model_type": "clip_vision_model",
        },
        built_in=_in_clip,
        # transformers saves, version by version, more fields that are no architecture.
        harmless=r"",
        file="model",
        settings=published.PREPROCESSOR,
    ),
    "controlnet": Component(
        key="controlnet",
        config_cls=ControlNetConfig,
        module_cls=ControlNet,
        identity={"_class_name": "ControlNetSDVModel"},
        built_in=_in_controlnet,
        # What the official class takes and, having no way up, does not use.
        harmless=r"_|sample_size$|out_channels$|up_block_types$",
    ),
}


def read_config(
    given: Mapping[str, Any], component: Component, ours: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """Our configuration of the network that a published config describes, and what is wrong.

    Args:
        given: The content of its config.json.
        ours: Fields of `OURS` for a config that does not have them; else their defaults.

    Returns:
        The configuration, None if it cannot be made, and one line for each problem.
    """
    likes = {field.name: field.default for field in dataclasses.fields(component.config_cls)}
    full = {name: like for name, like in likes.items() if name in OURS} | dict(ours) | dict(given)
    problems = [
        f"{name}: {SHORT.repr(given[name])}, not {value!r}"
        for name, value in component.identity.items()
        if given.get(name, value) != value
    ] or [
        f"{name}: {SHORT.repr(full.get(name, 'nothing'))}, not like {like!r}"
        for name, like in likes.items()
        if not _is_like(full.get(name), like)
    ]
    if problems or (problems := _too_much({name: full[name] for name in likes})):
        return None, problems
    try:
        config = from_json(component.config_cls, full)
    except ValueError as error:
        return None, [str(error)]
    built_in = component.built_in(config)
    problems = [
        f"{name}: {SHORT.repr(given.get(name, 'nothing'))}, not {value!r}"
        for name, value in built_in.items()
        if given.get(name) != value
    ]
    known = {*likes, *built_in, *component.identity}
    unknown = [n for n in given if n not in known and not re.match(component.harmless, n)]
    return config, problems + [f"{SHORT.repr(name)}: not known here" for name in unknown]


def from_json(config_cls: type[Config], fields: Mapping[str, Any]) -> Config:
    """The configuration with these fields; those of other classes are ignored.

    Raises:
        ValueError: The fields do not fit each other.
    """
    names = [field.name for field in dataclasses.fields(config_cls) if field.name in fields]
    values = {name: fields[name] for name in names}
    return config_cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})


def write_config(config: Any, component: Component) -> dict[str, Any]:
    """The config.json from which PyTorch builds this network.

    A ControlNet's has our own fields too: how often each residual is to be added belongs to it.
    """
    fields = dict(component.identity) | component.built_in(config) | dataclasses.asdict(config)
    if component.key == "controlnet":  # the official class wants as many as there are down blocks
        return fields | {"up_block_types": _up_blocks(config)}
    if component.key == "vae":
        fields["force_upcast"] = True  # float16 overflows in it
    return {name: value for name, value in fields.items() if name not in OURS}


def _too_much(fields: Mapping[str, Any]) -> list[str]:
    """A line for each field with which building would only keep the machine busy."""
    problems = [
        f"{name}: {len(value)} numbers, more than {MOST_SKIPS}"
        for name, value in fields.items()
        if isinstance(value, list | tuple) and len(value) > MOST_SKIPS
    ]
    layers = {name: fields[name] for name in LAYERS if name in fields}
    depth = math.prod(layers.values()) * len(fields.get("block_out_channels", (1,)))
    if not problems and depth > MOST_LAYERS:
        problems = [f"{', '.join(layers)}: {depth} layers in all, more than {MOST_LAYERS}"]
    return problems


def _is_like(value: Any, like: Any) -> bool:
    """Whether a JSON value has the type of a field's default and, if a number, a sensible size."""
    if isinstance(like, tuple):
        is_list = isinstance(value, list | tuple) and len(value) > 0
        return is_list and all(_is_like(v, like[0]) for v in value)
    if isinstance(like, bool | str):
        return type(value) is type(like)
    if isinstance(like, float):
        return type(value) in (int, float) and 1 / LARGEST <= value <= LARGEST
    return type(value) is int and 0 < value <= LARGEST_COUNT
