"""The one denoiser D(x; sigma, conditioning): the ControlNet steers the UNet, wrapped by EDM."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from posetraj_jax.diffusion import edm
from posetraj_jax.nn.build import Network
from posetraj_jax.structs import Conditioning


class Denoiser(NamedTuple):
    """The two networks of the denoiser; their parameters arrive with each call."""

    unet: Network
    controlnet: Network

    def encode_maps(self, params: Any, cond: Conditioning) -> Float[Array, "b f h8 w8 c"]:
        """The trajectory encoder's features: they do not depend on sigma."""
        return self.controlnet.apply(params, cond.maps_pixels, cond.camera_rt, method="encode_maps")

    def __call__(
        self,
        params: Any,
        unet_params: Any,
        noisy: Float[Array, "b f h8 w8 c"],
        sigma: Float[Array, "b"],
        cond: Conditioning,
        map_features: Float[Array, "b f h8 w8 c0"],
    ) -> Float[Array, "b f h8 w8 c"]:
        """Estimates the clean latents, float32, from `noisy` = latents + sigma noise.

        Args:
          params: of the ControlNet; the only ones that stage 1 to 3 train.
          unet_params: of SVD's UNet.
          sigma: noise levels > 0, one per clip.
          map_features: from `encode_maps`, computed once per video when sampling.
        """
        s = edm.scalings(sigma)
        c_in, c_skip, c_out = (edm.expand(c, noisy.ndim) for c in (s.c_in, s.c_skip, s.c_out))
        image = jnp.broadcast_to(cond.image_latents[:, None], noisy.shape)
        sample = jnp.concatenate([c_in * noisy, image], axis=-1)
        inputs = (sample, s.c_noise, cond.image_embed, cond.time_ids)
        residuals = self.controlnet.apply(params, *inputs, map_features)
        output = self.unet.apply(unet_params, *inputs, residuals)
        return c_skip * noisy + c_out * output.astype(jnp.float32)
