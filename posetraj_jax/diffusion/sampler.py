"""The Euler sampler of SVD with one guidance scale per frame.

ONE denoising step is a function of the latents and two noise levels, so it is compiled once and
called for every step: progress, cancellation and previews live between the calls. A denoiser here
is any callable `denoise(latents, sigma) -> x_0`, in the manner of k-diffusion.
"""

import itertools
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Denoise = Callable[[Array, Array], Array]


def initial_latents(
    noise: Float[Array, "b f h w c"], sigma_max: float
) -> Float[Array, "b f h w c"]:
    """N(0, 1) at the first level, with the standard deviation sqrt(sigma_max^2 + 1) of SVD."""
    return noise * (sigma_max**2 + 1.0) ** 0.5


def guidance_scales(frames: int, lowest: float, highest: float) -> Float[np.ndarray, "{frames}"]:
    """One scale per frame, rising linearly: the first frame is given, the last one is not."""
    return np.linspace(lowest, highest, frames, dtype=np.float32)


def guided(denoise: Denoise, scales: Float[Array, "f"]) -> Denoise:
    """Classifier-free guidance: unconditional and conditional halves in one batch of 2 b.

    `denoise` gets the latents twice, unconditional half first, and must hold the conditioning in
    that order. Source: x_u + w_f (x_c - x_u), w per frame (SVD, appendix D.3).
    """

    def denoise_guided(latents, sigma):
        both = denoise(jnp.concatenate([latents, latents]), jnp.concatenate([sigma, sigma]))
        unconditional, conditional = jnp.split(both, 2)
        weights = scales[None, :, None, None, None]
        return unconditional + weights * (conditional - unconditional)

    return denoise_guided


def euler_step(
    denoise: Denoise,
    latents: Float[Array, "b f h w c"],
    sigma: Float[Array, ""],
    sigma_next: Float[Array, ""],
) -> Float[Array, "b f h w c"]:
    """One step of x' = x + (sigma' - sigma) (x - D(x; sigma)) / sigma, in float32.

    Source: Karras et al. 2022, algorithm 1, without churn and without the second-order correction.
    """
    latents = latents.astype(jnp.float32)
    denoised = denoise(latents, jnp.full(latents.shape[:1], sigma)).astype(jnp.float32)
    return latents + (sigma_next - sigma) * (latents - denoised) / sigma


def steps(
    step: Callable[[Array, Array, Array], Array],
    latents: Float[Array, "b f h w c"],
    sigmas: Float[np.ndarray, "n"],
) -> Iterator[Float[Array, "b f h w c"]]:
    """Yields the latents after every step; stop iterating to cancel.

    Args:
      step: a compiled `step(latents, sigma, sigma_next)`; it may donate its latents, so what was
        yielded is valid only until the next one is asked for.
    """
    for sigma, sigma_next in itertools.pairwise(sigmas):
        latents = step(latents, jnp.asarray(sigma), jnp.asarray(sigma_next))
        yield latents
