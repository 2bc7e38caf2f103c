"""The official training step in PyTorch, float32, with every random number as an argument.

Written from what the official scripts do and not from our training code: the two must agree.
"""

from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    _resize_with_antialiasing,
)
from jaxtyping import Float, UInt8
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from convert_weights.oracle.networks import ControlNetOracle, Tensor, forward_unet

FPS_ID, MOTION_BUCKET = 6.0, 128.0
NOISE_AUG = 0.02
"""Of the conditioning latents, in units of the scaled latents; also the second time id."""
DROPOUT = 0.1
"""p: the image embedding is dropped if r < 2p, the image latents if p <= r < 3p."""
SPA_WEIGHT = 0.5
CLIP_SIZE = (224, 224)


class Modules(NamedTuple):
    """The four networks of the official training; only the first trains."""

    controlnet: ControlNetOracle
    unet: UNetSpatioTemporalConditionModel
    vae: AutoencoderKLTemporalDecoder
    image_encoder: CLIPVisionModelWithProjection


class Clip(NamedTuple):
    """A clip as the official loader gives it, but channels last and before its scaling."""

    frames_uint8: UInt8[np.ndarray, "f h w 3"]
    maps_uint8: UInt8[np.ndarray, "f h w 3"]
    camera: Float[np.ndarray, "f 12"] | None
    """Camera-to-world rotation, row-major, and translation; zeros where dropped or unknown. None
    for a ControlNet without `cc_projection`."""


class Draws(NamedTuple):
    """The random numbers of a step."""

    posterior: Float[np.ndarray, "f h8 w8 c"]
    """N(0, 1), of the latents' posterior."""
    diffusion: Float[np.ndarray, "f h8 w8 c"]
    """N(0, 1)."""
    sigma: float
    dropout: float
    """r in [0, 1)."""
    frame: int
    """Which frame becomes a still."""


class Step(NamedTuple):
    """What a step computes before the optimizer moves anything."""

    loss: float
    loss_spa: float
    gradient: dict[str, np.ndarray]
    """Of loss + 0.5 loss_spa, by name of the ControlNet's tensor, in PyTorch's layout."""


class _Noised(NamedTuple):
    """A clip, or a frame of it as a clip of one frame; all (1, f, c, h, w)."""

    latents: Tensor
    noisy: Tensor
    sample: Tensor
    """What the networks see: scaled noisy latents and the conditioning latents."""

    def still(self, frame: int) -> "_Noised":
        return _Noised(*(x[:, frame : frame + 1] for x in self))


def training_step(modules: Modules, clip: Clip, draws: Draws) -> Step:
    """The losses of one clip (batch 1) and the gradient of every tensor of the ControlNet.

    Source: the official scripts for stages 1 to 3. Differs: float32 throughout, where they run the
    frozen networks in float16; also the blur kernel of CLIP's resize.
    """
    sigma = torch.tensor([draws.sigma], dtype=torch.float32)
    pixels = _channels_first(clip.frames_uint8) / 127.5 - 1
    maps = _channels_first(clip.maps_uint8) / 127.5 - 1
    camera = None if clip.camera is None else torch.tensor(clip.camera, dtype=torch.float32)[None]
    with torch.no_grad():
        noised = _noise(modules.vae, pixels, sigma, draws)
        embed = _embed(modules.image_encoder, pixels[:, 0])
    if draws.dropout < 2 * DROPOUT:
        embed = torch.zeros_like(embed)
    told = (0.25 * sigma.log(), embed, torch.tensor([[FPS_ID, NOISE_AUG, MOTION_BUCKET]]))
    skips, mid = modules.controlnet(noised.sample, *told, maps, camera)
    loss = _loss(modules.unet, noised, told, (skips, mid), sigma)
    # The ControlNet never sees the still: its residuals are that frame's in the whole clip's.
    row = slice(draws.frame, draws.frame + 1)
    of_frame = [skip[row] for skip in skips], mid[row]
    loss_spa = _loss(modules.unet, noised.still(draws.frame), told, of_frame, sigma)
    names, parameters = zip(*modules.controlnet.named_parameters(), strict=True)
    gradient = torch.autograd.grad(loss + SPA_WEIGHT * loss_spa, parameters)
    arrays = (tensor.numpy() for tensor in gradient)
    return Step(loss.item(), loss_spa.item(), dict(zip(names, arrays, strict=True)))


def _noise(
    vae: AutoencoderKLTemporalDecoder, pixels: Tensor, sigma: Tensor, draws: Draws
) -> _Noised:
    """Encodes and noises a clip; frame 0 is the condition, noised by the very same numbers."""
    posterior = vae.encode(pixels.flatten(0, 1)).latent_dist
    noise = _channels_first(draws.diffusion)
    sampled = posterior.mean + posterior.std * _channels_first(draws.posterior)[0]
    latents = sampled[None] * vae.config.scaling_factor
    condition = (latents + NOISE_AUG * noise)[:, :1] / vae.config.scaling_factor
    if DROPOUT <= draws.dropout < 3 * DROPOUT:
        condition = torch.zeros_like(condition)
    noisy = latents + sigma * noise
    repeated = condition.expand(-1, latents.shape[1], -1, -1, -1)
    sample = torch.cat([noisy / (sigma**2 + 1) ** 0.5, repeated], dim=2)
    return _Noised(latents, noisy, sample)


def _embed(encoder: CLIPVisionModelWithProjection, first: Tensor) -> Tensor:
    """The embedding (1, d) of the first frame (1, 3, h, w), taken for one in [0, 1]."""
    resized = _resize_with_antialiasing(2 * first - 1, CLIP_SIZE)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return encoder(((resized + 1) / 2 - mean) / std).image_embeds


def _loss(
    unet: UNetSpatioTemporalConditionModel,
    noised: _Noised,
    told: tuple[Tensor, ...],
    residuals: tuple[list[Tensor], Tensor],
    sigma: Tensor,
) -> Tensor:
    """The weighted square error of the denoised latents; `told`: c_noise, image_embed, time_ids."""
    output = forward_unet(unet, noised.sample, *told, residuals=residuals, cumulative=True)
    variance = sigma**2 + 1
    denoised = noised.noisy / variance - sigma / variance**0.5 * output
    return (variance / sigma**2 * (denoised - noised.latents) ** 2).mean()


def _channels_first(array: np.ndarray) -> Tensor:
    """(f, h, w, c) to (1, f, c, h, w), float32."""
    return torch.tensor(array, dtype=torch.float32).movedim(-1, 1).contiguous()[None]
