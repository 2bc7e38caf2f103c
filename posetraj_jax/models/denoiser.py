"""The one denoiser D(x; sigma, conditioning): the ControlNet steers the UNet, wrapped by EDM."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from posetraj_jax.diffusion import edm
from posetraj_jax.models.stages import Residuals
from posetraj_jax.nn.build import Network
from posetraj_jax.structs import Conditioning


class Denoiser(NamedTuple):
    """The two networks of the denoiser; their parameters arrive with each call.

    `parameters` has the fields `unet` and `controlnet` (see `networks.Parameters`).
    """

    unet: Network
    controlnet: Network | None
    """None for image-to-video without control: then there are neither features nor residuals."""

    def encode_maps(
        self, parameters: Any, cond: Conditioning
    ) -> Float[Array, "b f h8 w8 c"] | None:
        """The trajectory encoder's features: they do not depend on sigma."""
        if self.controlnet is None:
            return None
        return self.controlnet.apply(
            parameters.controlnet, cond.maps_pixels, cond.camera_rt, method="encode_maps"
        )

    def control(
        self,
        parameters: Any,
        noisy: Float[Array, "b f h8 w8 c"],
        sigma: Float[Array, "b"],
        cond: Conditioning,
        map_features: Float[Array, "b f h8 w8 c0"] | None = None,
    ) -> Residuals | None:
        """What the ControlNet adds to the UNet; arguments as for the whole denoiser."""
        if self.controlnet is None:
            return None
        if map_features is None:
            map_features = self.encode_maps(parameters, cond)
        inputs = _inputs(noisy, sigma, cond)
        return self.controlnet.apply(parameters.controlnet, *inputs, map_features)

    def denoise(
        self,
        parameters: Any,
        noisy: Float[Array, "b f h8 w8 c"],
        sigma: Float[Array, "b"],
        cond: Conditioning,
        residuals: Residuals | None,
    ) -> Float[Array, "b f h8 w8 c"]:
        """The denoiser with what `control` gives already at hand."""
        output = self.unet.apply(parameters.unet, *_inputs(noisy, sigma, cond), residuals)
        s = edm.scalings(sigma)
        c_skip, c_out = (edm.expand(c, noisy.ndim) for c in (s.c_skip, s.c_out))
        return c_skip * noisy + c_out * output.astype(jnp.float32)

    def __call__(
        self,
        parameters: Any,
        noisy: Float[Array, "b f h8 w8 c"],
        sigma: Float[Array, "b"],
        cond: Conditioning,
        map_features: Float[Array, "b f h8 w8 c0"] | None = None,
    ) -> Float[Array, "b f h8 w8 c"]:
        """Estimates the clean latents, float32, from `noisy` = latents + sigma noise.

        Args:
          sigma: noise levels > 0, one per clip.
          map_features: from `encode_maps`, which sampling calls once per video.
        """
        residuals = self.control(parameters, noisy, sigma, cond, map_features)
        return self.denoise(parameters, noisy, sigma, cond, residuals)


def _inputs(
    noisy: Float[Array, "b f h w c"], sigma: Float[Array, "b"], cond: Conditioning
) -> tuple[Array, Array, Array, Array]:
    """What UNet and ControlNet are both given: sample, c_noise, image embedding, time ids."""
    s = edm.scalings(sigma)
    image = jnp.broadcast_to(cond.image_latents[:, None], noisy.shape)
    sample = jnp.concatenate([edm.expand(s.c_in, noisy.ndim) * noisy, image], axis=-1)
    return sample, s.c_noise, cond.image_embed, cond.time_ids
