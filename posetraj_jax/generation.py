"""Conditioning → video: three compiled programs, of which the middle one runs once per step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from posetraj_jax import conditioning, sharding
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.diffusion import sampler
from posetraj_jax.diffusion.noise import karras_sigmas
from posetraj_jax.models.denoiser import SteadyVideo
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
    controlnet_scale: float = 1.0
    """Multiplies what the ControlNet adds to the UNet."""

    @property
    def is_guided(self) -> bool:
        """Whether any frame's scale is not 1, so that the unconditional half is needed."""
        return (self.min_guidance_scale, self.max_guidance_scale) != (1.0, 1.0)


class Noise(NamedTuple):
    """The random numbers of videos, all N(0, 1)."""

    latents: Float[Array, "b f h8 w8 c"]
    image: Float[Array, "b h w 3"]
    """Augments the first frame."""


class Start(NamedTuple):
    """What the denoising steps of one batch share, and the noise that they begin with.

    Twice the batch where guidance is on, unconditional half first, but for the latents.
    """

    latents: Float[Array, "b f h w c"]
    cond: Conditioning
    """With `image_latents` only: the rest is in `steady`."""
    steady: SteadyVideo
    guidance_scales: Float[Array, "f"]


class Program(NamedTuple):
    """Compiled once for any number of steps, any scales, and any parameters of these shapes."""

    draw: Callable[..., Noise]
    """(a key for each clip, batch) → Noise; a clip's noise does not depend on the others"""
    begin: Callable[..., Start]
    """(parameters, batch, Noise, Scalars) → Start"""
    step: Callable[..., Array]
    """(latents, sigma, sigma_next, parameters, Start) → latents, donating them"""
    decode: Callable[..., Array]
    """(VAE parameters, latents) → frames_uint8 [b f h w 3]"""


class Scalars(NamedTuple):
    """Settings that may change without compiling anything again."""

    guidance_scales: Float[Array, "f"]
    controlnet_scale: float | Float[Array, ""]
    noise_aug_strength: float | Float[Array, ""]
    motion_bucket_id: float | Float[Array, ""]


def make_program(networks: Networks, options: SamplingOptions, mesh: Mesh) -> Program:
    """Builds the sampler of these networks; none of it is compiled before the first call."""
    whole = sharding.replicated(mesh)  # noise and frames are read by every process
    return Program(
        draw=sharding.jit(partial(_draw, networks), mesh, out_shardings=whole),
        begin=sharding.jit(partial(_begin, networks, options), mesh),
        step=sharding.jit(partial(_step, networks, options), mesh, donate_argnums=0),
        decode=sharding.jit(partial(_decode, networks), mesh, out_shardings=whole),
    )


def generate(
    program: Program, parameters: Parameters, batch: Batch, noise: Noise, options: SamplingOptions
) -> Iterator[Float[Array, "b f h w c"]]:
    """Yields the latents after every denoising step; decode the last with `decode`.

    Args:
      batch: only the first frame, the maps, the camera and the frame rate are read.
      noise: of `program.draw`.
      options: those of the program, or others that differ in numbers only.
    """
    start = program.begin(parameters, batch, noise, scalars(options, batch.maps_uint8.shape[1]))
    shared = start._replace(latents=None)
    sigmas = karras_sigmas(options.steps, options.sigma_min, options.sigma_max)
    yield from sampler.steps(
        lambda latents, sigma, sigma_next: program.step(
            latents, sigma, sigma_next, parameters, shared
        ),
        start.latents,
        sigmas,
    )


def scalars(options: SamplingOptions, num_frames: int) -> Scalars:
    """The numbers among the options, for videos of this length."""
    lowest, highest = options.min_guidance_scale, options.max_guidance_scale
    return Scalars(
        sampler.guidance_scales(num_frames, lowest, highest),
        options.controlnet_scale,
        options.conditioning.noise_aug_strength,
        options.conditioning.motion_bucket_id,
    )


def decode(
    program: Program,
    parameters: Parameters,
    latents: Float[Array, "b f h w c"],
    chunk_size: int = 0,
) -> UInt8[np.ndarray, "b f h8 w8 3"]:
    """The frames of latents, `chunk_size` frames at a time (0: all), which is the peak of memory.

    The decoder's temporal layers see a chunk only, so smaller chunks give slightly other frames.

    Source: the stock SVD pipeline. Differs: there, chunks of several clips may run into each other.
    """
    size = chunk_size or latents.shape[1]
    chunks = [latents[:, i : i + size] for i in range(0, latents.shape[1], size)]
    frames = [np.asarray(program.decode(parameters.vae, chunk)) for chunk in chunks]
    return np.concatenate(frames, axis=1)


def _draw(networks: Networks, keys: Array, batch: Batch) -> Noise:
    shape = batch.latents_shape(networks.vae.config.latent_channels)[1:]

    def draw(key):
        noise_key, image_key = jax.random.split(key)
        image = jax.random.normal(image_key, batch.first_frame_uint8.shape[1:])
        return Noise(jax.random.normal(noise_key, shape), image)

    return jax.vmap(draw)(keys)


def _begin(
    networks: Networks,
    options: SamplingOptions,
    parameters: Parameters,
    batch: Batch,
    noise: Noise,
    numbers: Scalars,
) -> Start:
    conditioning_options = replace(
        options.conditioning,
        noise_aug_strength=numbers.noise_aug_strength,
        motion_bucket_id=numbers.motion_bucket_id,
    )
    encoders = networks.encoders(parameters)
    cond = conditioning.condition(batch, encoders, conditioning_options, noise.image)
    both = cond
    if options.is_guided:
        unconditional = conditioning.unconditional(cond)
        both = jax.tree.map(lambda u, c: jnp.concatenate([u, c]), unconditional, cond)
    # The trajectory is that of both halves, so its features are made once.
    told = both._replace(maps_pixels=cond.maps_pixels, camera_rt=cond.camera_rt)
    steady = networks.denoiser.steady(parameters, told, batch.maps_uint8.shape[1])
    if steady.controlnet is not None:
        features = steady.controlnet.map_features
        features = jnp.concatenate([features, features]) if options.is_guided else features
        guidance = steady.controlnet._replace(map_features=features, scale=numbers.controlnet_scale)
        steady = steady._replace(controlnet=guidance)
    only_latents = Conditioning(None, both.image_latents, None, None, None)
    latents = sampler.initial_latents(noise.latents, options.sigma_max)
    return Start(latents, only_latents, steady, numbers.guidance_scales)


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
        return networks.denoiser(parameters, noisy, sigma, start.cond, start.steady)

    if options.is_guided:
        denoise = sampler.guided(denoise, start.guidance_scales)
    return sampler.euler_step(denoise, latents, sigma, sigma_next)


def _decode(
    networks: Networks, vae_params: Any, latents: Float[Array, "b f h w c"]
) -> UInt8[Array, "b f h8 w8 3"]:
    latents_raw = latents / networks.vae.config.scaling_factor
    pixels = networks.vae.apply(vae_params, latents_raw, method="decode").astype(jnp.float32)
    return jnp.clip(jnp.round((pixels + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
