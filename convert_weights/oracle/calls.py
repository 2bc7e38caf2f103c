"""The PyTorch networks called as ours are: numpy arrays in and out, channels last."""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionModelWithProjection

from convert_weights.oracle.networks import (
    ControlNetOracle,
    MapEmbeddingOracle,
    Tensor,
    forward_unet,
)
from posetraj_jax.models.stages import Residuals
from posetraj_jax.models.vae import Moments


def use_threads(count: int) -> None:
    """Sets how many threads PyTorch computes with."""
    torch.set_num_threads(count)


@torch.no_grad()
def run_unet(
    module: UNetSpatioTemporalConditionModel,
    *inputs: Any,
    residuals: Residuals | None = None,
    cumulative: bool = False,
) -> np.ndarray:
    """`UNet.__call__` in PyTorch: sample, c_noise, image_embed, time_ids."""
    sample, *rest = inputs
    extras = None
    if residuals is not None:
        skips = [_channels_first(skip).flatten(0, 1) for skip in residuals.skips]
        extras = (skips, _channels_first(residuals.mid).flatten(0, 1))
    tensors = (_channels_first(sample), *map(_tensor, rest))
    return _channels_last(forward_unet(module, *tensors, residuals=extras, cumulative=cumulative))


@torch.no_grad()
def run_controlnet(module: ControlNetOracle, *inputs: Any, camera_rt: Any = None) -> Residuals:
    """`encode_maps` and `ControlNet.__call__` in PyTorch; maps in pixels are the last input."""
    sample, *rest, maps_pixels = inputs
    camera = None if camera_rt is None else _tensor(camera_rt)
    tensors = (_channels_first(sample), *map(_tensor, rest), _channels_first(maps_pixels))
    skips, mid = module(*tensors, camera)
    clip_shape = np.shape(sample)[:2]
    unfolded = [_channels_last(x.unflatten(0, clip_shape)) for x in (*skips, mid)]
    return Residuals(tuple(unfolded[:-1]), unfolded[-1])


@torch.no_grad()
def run_map_embedding(module: MapEmbeddingOracle, maps_pixels: Any, camera_rt: Any = None) -> Any:
    """`encode_maps` in PyTorch."""
    maps = _channels_first(maps_pixels)
    camera = None if camera_rt is None else _tensor(camera_rt).flatten(0, 1)
    return _channels_last(module(maps.flatten(0, 1), camera).unflatten(0, maps.shape[:2]))


@torch.no_grad()
def run_vae_encode(module: AutoencoderKLTemporalDecoder, pixels: Any) -> Moments:
    """`VAE.encode` in PyTorch."""
    posterior = module.encode(_channels_first(pixels)).latent_dist
    return Moments(_channels_last(posterior.mean), _channels_last(posterior.logvar))


@torch.no_grad()
def run_vae_decode(module: AutoencoderKLTemporalDecoder, latents_raw: Any) -> np.ndarray:
    """`VAE.decode` in PyTorch, all frames at once."""
    latents = _channels_first(latents_raw)
    frames = module.decode(latents.flatten(0, 1), num_frames=latents.shape[1]).sample
    return _channels_last(frames.unflatten(0, latents.shape[:2]))


@torch.no_grad()
def run_clip(module: CLIPVisionModelWithProjection, images: Any) -> np.ndarray:
    """`CLIPVision.__call__` in PyTorch."""
    return module(_channels_first(images)).image_embeds.numpy()


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _channels_first(array: Any) -> Tensor:
    return _tensor(array).movedim(-1, -3).contiguous()


def _channels_last(tensor: Tensor) -> np.ndarray:
    return tensor.movedim(-3, -1).contiguous().numpy()
