"""The training objective: how badly clips are denoised, weighted as EDM says."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from posetraj_jax import conditioning
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.diffusion import edm
from posetraj_jax.models.networks import Networks
from posetraj_jax.structs import Batch
from posetraj_jax.training.state import Frozen, bind_encoders


class Losses(NamedTuple):
    """Losses per clip, float32."""

    loss: Float[Array, "b"]
    """Weighted mean squared error of the denoised latents."""
    zero: Float[Array, "b"]
    """The same for a network that outputs zero: what a useful network must beat."""


class ClipNoise(NamedTuple):
    """All randomness of the loss besides sigma; each clip's comes from its own key."""

    posterior: Float[Array, "b f h w c"]
    diffusion: Float[Array, "b f h w c"]
    image: Float[Array, "b h8 w8 3"]
    dropout: Float[Array, "b"]


def clip_losses(
    params: Any,
    frozen: Frozen,
    batch: Batch,
    sigma: Float[Array, "b"],
    keys: Array,
    *,
    networks: Networks,
    options: ConditioningOptions,
    dropout: float,
) -> Losses:
    """Encodes a batch, noises it, drops some of the conditioning, and measures the denoiser.

    Args:
      params: of the ControlNet.
      sigma: noise level of each clip.
      keys: one key per clip, so that a clip's noise does not depend on its neighbours.
      dropout: probability p of `conditioning.drop`; 0 drops nothing.
    """
    encoders = bind_encoders(networks, frozen)
    noise = draw_clip_noise(keys, batch, networks.vae.config.latent_channels)
    latents = conditioning.encode_frames(batch.frames_uint8, encoders, noise.posterior)
    cond = conditioning.condition(
        batch, encoders, options, noise.image, noised_target=(latents, noise.diffusion)
    )
    cond = conditioning.drop(cond, dropout, noise.dropout)
    denoiser = networks.denoiser
    features = denoiser.encode_maps(params, cond)

    def denoise(noisy, sigma):
        return denoiser(params, frozen.unet, noisy, sigma, cond, features)

    return diffusion_loss(denoise, latents, noise.diffusion, sigma)


def diffusion_loss(
    denoise: Callable[[Array, Array], Array],
    latents: Float[Array, "b f h w c"],
    noise: Float[Array, "b f h w c"],
    sigma: Float[Array, "b"],
) -> Losses:
    """Mean over frames, positions and channels of (1 + sigma^2) / sigma^2 (D - x_0)^2.

    Args:
      denoise: `denoise(noisy, sigma)` → clean latents.
      latents, noise: scaled latents of the target and standard normal noise.

    Source: SVD's preconditioning and weight; equals the plain mean square of F minus its target
    (noise - sigma x_0) / sqrt(1 + sigma^2), v-prediction.
    """
    noisy = edm.add_noise(latents, noise, sigma)
    c_skip = edm.expand(edm.scalings(sigma).c_skip, noisy.ndim)

    def weighted(denoised):
        error = jnp.square(denoised.astype(jnp.float32) - latents)
        return edm.loss_weight(sigma) * error.mean(axis=tuple(range(1, error.ndim)))

    return Losses(loss=weighted(denoise(noisy, sigma)), zero=weighted(c_skip * noisy))


def draw_clip_noise(keys: Array, batch: Batch, latent_channels: int) -> ClipNoise:
    """Draws the noise of every clip from that clip's key; latents are an eighth of the frames."""
    _, frames, height, width, _ = batch.frames_uint8.shape
    latents_shape = (frames, height // 8, width // 8, latent_channels)

    def draw(key):
        posterior, diffusion, image, dropout = jax.random.split(key, 4)
        normal = partial(jax.random.normal, shape=latents_shape)
        return ClipNoise(
            posterior=normal(posterior),
            diffusion=normal(diffusion),
            image=jax.random.normal(image, (height, width, 3)),
            dropout=jax.random.uniform(dropout),
        )

    return jax.vmap(draw)(keys)
