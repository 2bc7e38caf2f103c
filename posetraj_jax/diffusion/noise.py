"""Which noise levels are trained on, and which the sampler steps through.

A density is given by its quantile function sigma(u), u in [0, 1]: training draws u at random,
evaluation takes a fixed grid of u, so both see the same density.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SIGMA_DATA = 0.5
"""Of the cosine density only; the preconditioning of SVD has sigma_data = 1."""
IMAGE_D, NOISE_D_LOW, NOISE_D_HIGH = 64, 32, 64
"""Resolutions between which the cosine schedule's shift is interpolated (official values)."""
RHO = 7.0
"""Exponent of the Karras grid."""


@dataclass(frozen=True)
class NoiseOptions:
    """The section `diffusion` of the config; see there for units."""

    sigma_density: str
    sigma_min: float
    sigma_max: float
    p_mean: float
    p_std: float


def sigma_quantile(u: Float[Array, "b"], options: NoiseOptions) -> Float[Array, "b"]:
    """The noise level at quantile u in (0, 1) of the configured density.

    cosine: from sigma_max at u = 0 down to sigma_min at u = 1.
    lognormal: exp(p_mean + p_std Phi^-1(u)), rising, and not limited by sigma_min and sigma_max.
    """
    if options.sigma_density == "lognormal":
        return jnp.exp(options.p_mean + options.p_std * jax.scipy.special.ndtri(u))
    return _interpolated_cosine(u, options.sigma_min, options.sigma_max)


def draw_sigma(key: Array, clips: int, options: NoiseOptions) -> Float[Array, "{clips}"]:
    """Draws one noise level per clip, stratified: clip i of n gets its u from [i/n, (i+1)/n).

    Source: the official sampler, which stratifies over the batch (plain uniform for one clip).
    """
    u = (jnp.arange(clips) + jax.random.uniform(key, (clips,))) / clips
    return sigma_quantile(jnp.clip(u, 1e-7, 1.0 - 1e-7), options)


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float) -> Float[np.ndarray, "steps_1"]:
    """The sampling grid: `steps` levels from sigma_max to sigma_min, then 0. float32, on the host.

    Source: Karras et al. 2022, equation 5, rho = 7, as SVD's Euler scheduler uses it.
    """
    ramp = np.linspace(0.0, 1.0, steps)
    low, high = sigma_min ** (1 / RHO), sigma_max ** (1 / RHO)
    sigmas = (high + ramp * (low - high)) ** RHO
    return np.append(sigmas, 0.0).astype(np.float32)


def _interpolated_cosine(
    u: Float[Array, "b"], sigma_min: float, sigma_max: float
) -> Float[Array, "b"]:
    """Cosine log-SNR between two resolution shifts, weighted by u itself.

    Source: Hoogeboom et al. 2023 (simple diffusion, arXiv 2301.11093), section 3.1, with the
    settings of the official training code.
    """
    low, high = (_shifted_cosine(u, d, sigma_min, sigma_max) for d in (NOISE_D_LOW, NOISE_D_HIGH))
    log_snr = low + u * (high - low)
    return SIGMA_DATA * jnp.exp(-0.5 * log_snr)


def _shifted_cosine(
    u: Float[Array, "b"], noise_d: int, sigma_min: float, sigma_max: float
) -> Float[Array, "b"]:
    """-2 ln tan of an angle that runs so that the ends are exactly sigma_max and sigma_min."""
    shift = 2.0 * math.log(noise_d / IMAGE_D)
    ends = (-2.0 * math.log(sigma / SIGMA_DATA) for sigma in (sigma_max, sigma_min))
    first, last = (math.atan(math.exp(-0.5 * (log_snr - shift))) for log_snr in ends)
    return -2.0 * jnp.log(jnp.tan(first + u * (last - first))) + shift
