"""Sampling as the stock pipeline of Stable Video Diffusion does it, with a ControlNet, in PyTorch.

Float32, one video, and every random number is an argument. Written from what the pipeline does and
not from our sampler: the two must agree.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    _resize_with_antialiasing,
)
from jaxtyping import Float, UInt8
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from convert_weights.oracle.networks import Tensor, forward_unet
from convert_weights.oracle.training import CLIP_SIZE, FPS_ID, MOTION_BUCKET, Modules


@dataclass(frozen=True)
class SampleSettings:
    """Named as in the pipeline."""

    num_inference_steps: int
    min_guidance_scale: float
    max_guidance_scale: float
    fps: float
    motion_bucket_id: float
    noise_aug_strength: float
    decode_chunk_size: int
    controlnet_conditioning_scale: float = 1.0
    official: bool = False
    """Condition as the official training does: constant rate, its order of time ids, CLIP's range
    left twice, and residuals that are added again and again."""


class SampleInputs(NamedTuple):
    """One video; channels last."""

    image_uint8: UInt8[np.ndarray, "h w 3"]
    maps_uint8: UInt8[np.ndarray, "f h w 3"]
    camera: Float[np.ndarray, "f 12"] | None
    latent_noise: Float[np.ndarray, "f h8 w8 c"]
    image_noise: Float[np.ndarray, "h w 3"]


class Sampled(NamedTuple):
    """What sampling makes; channels last."""

    latents: list[Float[np.ndarray, "f h8 w8 c"]]
    """After every step."""
    frames_uint8: UInt8[np.ndarray, "f h w 3"]


@torch.no_grad()
def sample(
    modules: Modules,
    scheduler: EulerDiscreteScheduler,
    inputs: SampleInputs,
    settings: SampleSettings,
) -> Sampled:
    """Samples one video with guidance.

    Source: diffusers' StableVideoDiffusionPipeline; the ControlNet as in the official one.
    """
    frames = len(inputs.maps_uint8)
    pixels = _channels_first(inputs.image_uint8) / 127.5 - 1
    embed = _embed(modules, pixels, settings)
    noised = pixels + settings.noise_aug_strength * _channels_first(inputs.image_noise)
    image_latents = modules.vae.encode(noised).latent_dist.mode()
    embeds = torch.cat([torch.zeros_like(embed), embed])
    both = torch.cat([torch.zeros_like(image_latents), image_latents])
    image_latents = both[:, None].repeat(1, frames, 1, 1, 1)
    maps = _channels_first(inputs.maps_uint8)[None].repeat(2, 1, 1, 1, 1) / 127.5 - 1
    camera = None if inputs.camera is None else _tensor(inputs.camera)[None].repeat(2, 1, 1)
    told = embeds, _time_ids(settings).repeat(2, 1)
    scales = torch.linspace(settings.min_guidance_scale, settings.max_guidance_scale, frames)
    scales = scales.view(1, -1, 1, 1, 1)

    scheduler.set_timesteps(settings.num_inference_steps)
    latents = _channels_first(inputs.latent_noise)[None] * scheduler.init_noise_sigma
    made = []
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        model_input = torch.cat([scaled, image_latents], dim=2)
        c_noise = timestep.float().expand(2)
        skips, mid = modules.controlnet(model_input, c_noise, *told, maps, camera)
        strength = settings.controlnet_conditioning_scale
        residuals = [skip * strength for skip in skips], mid * strength
        output = forward_unet(
            modules.unet,
            model_input,
            c_noise,
            *told,
            residuals=residuals,
            cumulative=settings.official,
        )
        unconditional, conditional = output.chunk(2)
        guided = unconditional + scales * (conditional - unconditional)
        latents = scheduler.step(guided, timestep, latents).prev_sample
        made.append(_channels_last(latents[0]))
    return Sampled(made, _decode(modules, latents, settings.decode_chunk_size or frames))


def _embed(modules: Modules, pixels: Tensor, settings: SampleSettings) -> Tensor:
    if settings.official:
        pixels = 2 * pixels - 1
    resized = (_resize_with_antialiasing(pixels, CLIP_SIZE) + 1) / 2
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return modules.image_encoder((resized - mean) / std).image_embeds


def _time_ids(settings: SampleSettings) -> Tensor:
    strength = settings.noise_aug_strength
    if settings.official:
        return torch.tensor([[FPS_ID, strength, MOTION_BUCKET]])
    return torch.tensor([[settings.fps - 1, settings.motion_bucket_id, strength]])


def _decode(modules: Modules, latents: Tensor, chunk_size: int) -> np.ndarray:
    flat = latents[0] / modules.vae.config.scaling_factor
    chunks = [
        modules.vae.decode(chunk, num_frames=len(chunk)).sample for chunk in flat.split(chunk_size)
    ]
    pixels = (torch.cat(chunks) / 2 + 0.5).clamp(0, 1)
    return _channels_last((pixels * 255).round()).astype(np.uint8)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float32)


def _channels_first(array: np.ndarray) -> Tensor:
    """(..., h, w, c) to (n, c, h, w)."""
    tensor = _tensor(array).movedim(-1, -3)
    return tensor if tensor.ndim > 3 else tensor[None]


def _channels_last(tensor: Tensor) -> np.ndarray:
    return tensor.movedim(-3, -1).contiguous().numpy()
