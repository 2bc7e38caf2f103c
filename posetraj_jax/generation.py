"""Conditioning → video: three compiled programs, of which the middle one runs once per step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from posetraj_jax import conditioning
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.diffusion import sampler
from posetraj_jax.diffusion.noise import karras_sigmas
from posetraj_jax.models.networks import Networks, Parameters
from posetraj_jax.structs import Batch, Conditioning


@dataclass(frozen=True)
class SamplingOptions:
    """How videos are sampled: parts of the config, and the published range of noise levels."""

    steps: int
    min_guidance_scale: float
    max_guidance_scale: float
    sigma_min: float
    sigma_max: float
    conditioning: ConditioningOptions


class Start(NamedTuple):
    """What the denoising steps of one batch share, and the noise that they begin with."""

    latents: Float[Array, "b f h w c"]
    cond: Conditioning
    """Unconditional half first where guidance is on, so twice the batch."""
    map_features: Float[Array, "b2 f h w c0"] | None
    """None without a ControlNet."""


class Program(NamedTuple):
    """Compiled once for any number of steps and any parameters of these shapes."""

    begin: Callable[..., Start]
    """(parameters, batch, key) → Start"""
    step: Callable[..., Array]
    """(latents, sigma, sigma_next, parameters, Start) → latents, donating them"""
    decode: Callable[..., Array]
    """(VAE parameters, latents) → frames_uint8 [b f h w 3]"""


def make_program(networks: Networks, options: SamplingOptions) -> Program:
    """Builds the sampler of these networks; nothing is compiled before the first call."""
    return Program(
        begin=jax.jit(partial(_begin, networks, options)),
        step=jax.jit(partial(_step, networks, options), donate_argnums=0),
        decode=jax.jit(partial(_decode, networks)),
    )


def generate(
    program: Program, parameters: Parameters, batch: Batch, key: Array, options: SamplingOptions
) -> Iterator[Float[Array, "b f h w c"]]:
    """Yields the latents after every denoising step; decode the last with `program.decode`.

    Args:
      batch: only the first frame, the maps, the camera and the frame rate are read.
    """
    start = program.begin(parameters, batch, key)
    shared = start._replace(latents=None)
    sigmas = karras_sigmas(options.steps, options.sigma_min, options.sigma_max)
    yield from sampler.steps(
        lambda latents, sigma, sigma_next: program.step(
            latents, sigma, sigma_next, parameters, shared
        ),
        start.latents,
        sigmas,
    )


def _scales(options: SamplingOptions, frames: int) -> Float[np.ndarray, "f"]:
    return sampler.guidance_scales(frames, options.min_guidance_scale, options.max_guidance_scale)


def _is_guided(options: SamplingOptions) -> bool:
    return (options.min_guidance_scale, options.max_guidance_scale) != (1.0, 1.0)


def _begin(
    networks: Networks, options: SamplingOptions, parameters: Parameters, batch: Batch, key: Array
) -> Start:
    noise_key, image_key = jax.random.split(key)
    shape = batch.latents_shape(networks.vae.config.latent_channels)
    image_noise = jax.random.normal(image_key, batch.first_frame_uint8.shape)
    encoders = networks.encoders(parameters)
    cond = conditioning.condition(batch, encoders, options.conditioning, image_noise)
    features = networks.denoiser.encode_maps(parameters, cond)
    cond = cond._replace(maps_pixels=None)
    if _is_guided(options):
        cond, features = jax.tree.map(
            lambda u, c: jnp.concatenate([u, c]),
            (conditioning.unconditional(cond), features),
            (cond, features),
        )
    latents = sampler.initial_latents(noise_key, shape, options.sigma_max)
    return Start(latents, cond, features)


def _step(
    networks: Networks,
    options: SamplingOptions,
    latents: Float[Array, "b f h w c"],
    sigma: Float[Array, ""],
    sigma_next: Float[Array, ""],
    parameters: Parameters,
    start: Start,
) -> Float[Array, "b f h w c"]:
    def denoise(noisy, sigma):
        return networks.denoiser(parameters, noisy, sigma, start.cond, start.map_features)

    if _is_guided(options):
        denoise = sampler.guided(denoise, jnp.asarray(_scales(options, latents.shape[1])))
    return sampler.euler_step(denoise, latents, sigma, sigma_next)


def _decode(
    networks: Networks, vae_params: Any, latents: Float[Array, "b f h w c"]
) -> UInt8[Array, "b f h8 w8 3"]:
    """One clip at a time: decoding is the peak of memory."""
    latents_raw = latents / networks.vae.config.scaling_factor

    def decode(clip):
        return networks.vae.apply(vae_params, clip[None], method="decode")[0]

    pixels = jax.lax.map(decode, latents_raw).astype(jnp.float32)
    return jnp.clip(jnp.round((pixels + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
