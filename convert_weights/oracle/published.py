"""Networks and settings in files, written and read by the libraries that publish them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    UNetSpatioTemporalConditionModel,
)
from numpy.typing import ArrayLike
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from convert_weights.oracle.states import redraw

Config = TypeVar("Config")


def from_published(
    name: str, fields: Mapping[str, Any], tensors: Mapping[str, ArrayLike]
) -> nn.Module:
    """The float32 network that the library which publishes it builds from its config.json.

    Args:
        name: unet, vae or image_encoder.
        fields: The content of config.json.
        tensors: As for `from_tensors`.
    """
    classes = {"unet": UNetSpatioTemporalConditionModel, "vae": AutoencoderKLTemporalDecoder}
    if name == "image_encoder":
        config = CLIPVisionConfig.from_dict(dict(fields))
        return from_tensors(lambda: CLIPVisionModelWithProjection(config), tensors)
    return from_tensors(lambda: classes[name].from_config(dict(fields)), tensors)


def from_tensors(make: Callable[[], nn.Module], tensors: Mapping[str, ArrayLike]) -> nn.Module:
    """The float32 network `make()` with these parameters, held in memory once.

    Args:
        tensors: A complete state dict of arrays, or of objects that numpy can turn into arrays.
    """
    with torch.device("meta"):
        module = make()
    if any(True for _ in module.buffers()):  # constants, which no state dict brings
        module = make()
    numbers = {name: np.asarray(tensor).astype(np.float32) for name, tensor in tensors.items()}
    state = {name: torch.from_numpy(array) for name, array in numbers.items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


def drawn(make: Callable[[Config], nn.Module], config: Config, seed: int) -> nn.Module:
    """The network `make(config)` with every parameter drawn, in half the time of `redraw`.

    Args:
        make: One whose network has no buffers: they stay uninitialised.
    """
    with torch.device("meta"):
        module = make(config)
    return redraw(module.to_empty(device="cpu"), seed)


def scheduler() -> EulerDiscreteScheduler:
    """The scheduler of Stable Video Diffusion."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
        steps_offset=1,
    )


def save_settings(folder: Path) -> None:
    """Writes the scheduler, the preprocessor and the index of Stable Video Diffusion."""
    scheduler().save_pretrained(folder / "scheduler")
    CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    index: dict[str, Any] = {"_class_name": "StableVideoDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
