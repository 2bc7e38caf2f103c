"""The training objective: how badly clips are denoised, and single frames of them on their own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from posetraj_jax import conditioning
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.diffusion import edm
from posetraj_jax.models.denoiser import Denoiser
from posetraj_jax.models.networks import Networks, Parameters
from posetraj_jax.models.stages import Residuals
from posetraj_jax.structs import Batch, Conditioning
from posetraj_jax.training.optimizer import keep_spatial


@dataclass(frozen=True)
class SpatialPromotion:
    """The section `spa` of the config; see there."""

    weight: float
    frames: int
    temporal: str
    source: str
    gradient: str


class ClipNoise(NamedTuple):
    """All randomness of the loss besides sigma; each clip's comes from its own key."""

    posterior: Float[Array, "b f h w c"]
    diffusion: Float[Array, "b f h w c"]
    image: Float[Array, "b h8 w8 3"]
    dropout: Float[Array, "b 2"]
    frame_order: Int[Array, "b f"]


class NoisedClips(NamedTuple):
    """Clips after all that is random has happened to them; nothing here depends on what trains."""

    latents: Float[Array, "b f h w c"]
    """Scaled latents of the target."""
    noise: Float[Array, "b f h w c"]
    """Standard normal."""
    sigma: Float[Array, "b"]
    cond: Conditioning
    frame_order: Int[Array, "b f"]
    """The frames of each clip in random order; the first ones become stills."""

    @property
    def noisy(self) -> Float[Array, "b f h w c"]:
        """What the denoiser is shown."""
        return edm.add_noise(self.latents, self.noise, self.sigma)


def noise_clips(
    parameters: Parameters,
    batch: Batch,
    sigma: Float[Array, "b"],
    keys: Array,
    *,
    networks: Networks,
    options: ConditioningOptions,
    drop: bool,
) -> NoisedClips:
    """Encodes a batch, draws its noise, and drops some of the conditioning.

    Args:
      parameters: of the frozen encoders; the other networks' are not read.
      sigma: noise level of each clip.
      keys: one key per clip, so that a clip's noise does not depend on its neighbours.
      drop: whether image and camera are dropped as `options` says; evaluation drops nothing.
    """
    encoders = networks.encoders(parameters)
    noise = draw_clip_noise(keys, batch, networks.vae.config.latent_channels)
    latents = conditioning.encode_frames(batch, encoders, noise.posterior)
    cond = conditioning.condition(
        batch, encoders, options, noise.image, noised_target=(latents, noise.diffusion)
    )
    if drop:
        cond = conditioning.drop(cond, options, noise.dropout)
    return NoisedClips(latents, noise.diffusion, sigma, cond, noise.frame_order)


def clip_losses(
    parameters: Parameters,
    clips: NoisedClips,
    denoiser: Denoiser,
    residuals: Residuals | None = None,
) -> Float[Array, "b"]:
    """The denoising loss of each clip, float32.

    Args:
      residuals: of the ControlNet, where they are at hand.

    Source: SVD's preconditioning and weight, mean of (1 + sigma^2) / sigma^2 (D - x_0)^2; equals
    the plain mean square of F minus its target (noise - sigma x_0) / sqrt(1 + sigma^2).
    """
    noisy, sigma, cond = clips.noisy, clips.sigma, clips.cond
    if residuals is None:
        residuals = denoiser.control(parameters, noisy, sigma, cond)
    return weighted_error(denoiser.denoise(parameters, noisy, sigma, cond, residuals), clips)


def zero_losses(clips: NoisedClips) -> Float[Array, "b"]:
    """The loss of a network that outputs zero: what a useful network must beat."""
    c_skip = edm.expand(edm.scalings(clips.sigma).c_skip, clips.latents.ndim)
    return weighted_error(c_skip * clips.noisy, clips)


def weighted_error(denoised: Float[Array, "b f h w c"], clips: NoisedClips) -> Float[Array, "b"]:
    """Mean over frames, positions and channels of the weighted square error, float32."""
    error = jnp.square(denoised.astype(jnp.float32) - clips.latents)
    return edm.loss_weight(clips.sigma) * error.mean(axis=tuple(range(1, error.ndim)))


def still_losses(
    parameters: Parameters,
    clips: NoisedClips,
    networks: Networks,
    options: SpatialPromotion,
    residuals: Residuals | None = None,
) -> Float[Array, "b"]:
    """The spatial promotion loss of each clip: random frames of it denoised as clips of one frame.

    A still keeps its clip's noise level and its first frame as the condition, and has its own
    frame's trajectory map and camera.

    Args:
      residuals: of the whole clips, where they are at hand; only `source = "sliced"` reads them.

    Source: the paper's L_SPA and the official training script. Differs: the official code takes the
    still's residuals out of the whole clip's (`source = "sliced"`, there right for one clip only),
    so that the ControlNet never sees a still, and lets temporal layers mix it with nothing
    (`temporal = "active"`).
    """
    stills = stills_of(clips, options.frames)
    denoiser = networks.still_denoiser if options.temporal == "bypass" else networks.denoiser
    still_residuals = None
    if options.source == "sliced":
        if residuals is None:
            residuals = networks.denoiser.control(parameters, clips.noisy, clips.sigma, clips.cond)
        pick = partial(pick_frames, frames=clips.frame_order[:, : options.frames])
        still_residuals = jax.tree.map(pick, residuals)
    losses = clip_losses(parameters, stills, denoiser, still_residuals)
    return losses.reshape(-1, options.frames).mean(axis=1)


def stills_of(clips: NoisedClips, count: int) -> NoisedClips:
    """Clips of one frame: the first `count` frames of `frame_order`, of clip after clip."""
    pick = partial(pick_frames, frames=clips.frame_order[:, :count])
    repeat = partial(jnp.repeat, repeats=count, axis=0)
    cond = jax.tree.map(repeat, clips.cond)._replace(
        maps_pixels=pick(clips.cond.maps_pixels),
        camera_rt=None if clips.cond.camera_rt is None else pick(clips.cond.camera_rt),
    )
    return NoisedClips(
        latents=pick(clips.latents),
        noise=pick(clips.noise),
        sigma=repeat(clips.sigma),
        cond=cond,
        frame_order=jnp.zeros((len(clips.sigma) * count, 1), jnp.int32),
    )


def pick_frames(
    x: Float[Array, "b f *rest"], frames: Int[Array, "b s"]
) -> Float[Array, "bs 1 *rest"]:
    """The chosen frames of every clip, each as a clip of its own."""
    chosen = jax.vmap(lambda clip, indices: clip[indices])(x, frames)
    return chosen.reshape(-1, 1, *x.shape[2:])


def losses_and_gradient(
    params: Any,
    complete: Callable[[Any], Parameters],
    clips: NoisedClips,
    *,
    networks: Networks,
    spa: SpatialPromotion,
) -> tuple[dict[str, Float[Array, ""]], Any]:
    """The losses of a microbatch and the gradient of L + weight L_SPA.

    L_SPA moves spatial parameters only, unless `spa.gradient` is "all", as in the official code.

    Args:
      params: what trains.
      complete: puts `params` among the frozen parameters.
    """

    def clip_loss(params):
        return clip_losses(complete(params), clips, networks.denoiser).mean()

    def still_loss(params):
        return still_losses(complete(params), clips, networks, spa).mean()

    def both(params):  # as one function, because sliced residuals need one backward pass only
        parameters = complete(params)
        residuals = networks.denoiser.control(parameters, clips.noisy, clips.sigma, clips.cond)
        loss = clip_losses(parameters, clips, networks.denoiser, residuals).mean()
        still = still_losses(parameters, clips, networks, spa, residuals).mean()
        return loss + spa.weight * still, {"loss": loss, "loss_spa": still}

    zero = {"loss_zero": zero_losses(clips).mean()}
    if spa.weight == 0:
        loss, grads = jax.value_and_grad(clip_loss)(params)
        return zero | {"loss": loss}, grads
    if spa.gradient == "all":
        (_, losses), grads = jax.value_and_grad(both, has_aux=True)(params)
        return zero | losses, grads
    loss, grads = jax.value_and_grad(clip_loss)(params)
    still, still_grads = jax.value_and_grad(still_loss)(params)
    grads = jax.tree.map(
        lambda clip, spatial: clip + spa.weight * spatial, grads, keep_spatial(still_grads)
    )
    return zero | {"loss": loss, "loss_spa": still}, grads


def draw_clip_noise(keys: Array, batch: Batch, latent_channels: int) -> ClipNoise:
    """Draws the noise of every clip from that clip's key."""
    _, frames, height, width, _ = batch.maps_uint8.shape
    latents_shape = batch.latents_shape(latent_channels)[1:]

    def draw(key):
        posterior, diffusion, image, dropout, order = jax.random.split(key, 5)
        normal = partial(jax.random.normal, shape=latents_shape)
        return ClipNoise(
            posterior=normal(posterior),
            diffusion=normal(diffusion),
            image=jax.random.normal(image, (height, width, 3)),
            dropout=jax.random.uniform(dropout, (2,)),
            frame_order=jax.random.permutation(order, frames),
        )

    return jax.vmap(draw)(keys)
