"""EDM preconditioning as Stable Video Diffusion uses it: a network F becomes a denoiser D.

D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), with sigma_data = 1 and the v-prediction choice
of c_skip and c_out. Source: Karras et al. 2022 (arXiv 2206.00364), table 1 and section 5, with the
values of Stable Video Diffusion (arXiv 2311.15127), appendix D.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Scalings(NamedTuple):
    """The four coefficients of a noise level, each of shape [b], float32."""

    c_skip: Float[Array, "b"]
    c_out: Float[Array, "b"]
    c_in: Float[Array, "b"]
    c_noise: Float[Array, "b"]


def scalings(sigma: Float[Array, "b"]) -> Scalings:
    """Coefficients of the preconditioning at noise levels sigma > 0 (units of scaled latents)."""
    sigma = sigma.astype(jnp.float32)
    variance = sigma**2 + 1.0
    return Scalings(
        c_skip=1.0 / variance,
        c_out=-sigma * jax.lax.rsqrt(variance),
        c_in=jax.lax.rsqrt(variance),
        c_noise=0.25 * jnp.log(sigma),
    )


def loss_weight(sigma: Float[Array, "b"]) -> Float[Array, "b"]:
    """Weight of |D - x_0|^2: with it the loss is the plain mean square of F against its target.

    Source: the weight (1 + sigma^2) / sigma^2 of SVD's and of the official training code.
    """
    sigma = sigma.astype(jnp.float32)
    return (1.0 + sigma**2) / sigma**2


def add_noise(
    latents: Float[Array, "b f h w c"],
    noise: Float[Array, "b f h w c"],
    sigma: Float[Array, "b"],
) -> Float[Array, "b f h w c"]:
    """x_sigma = x_0 + sigma * noise: one noise level for all frames of a clip."""
    return latents + expand(sigma, latents.ndim) * noise


def expand(per_clip: Float[Array, "b"], ndim: int) -> Float[Array, "b ..."]:
    """Gives a number per clip trailing axes of length 1, so that it broadcasts over `ndim` axes."""
    return per_clip.reshape(-1, *(1,) * (ndim - 1))
