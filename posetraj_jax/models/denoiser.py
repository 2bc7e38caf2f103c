"""The one denoiser D(x; sigma, conditioning): the ControlNet steers the UNet, wrapped by EDM."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from posetraj_jax.diffusion import edm
from posetraj_jax.models.stages import Residuals, Steady
from posetraj_jax.nn.build import Network
from posetraj_jax.structs import Conditioning


class Guidance(NamedTuple):
    """What the ControlNet is told of a video at every noise level alike."""

    steady: Steady
    map_features: Float[Array, "b f h8 w8 c0"]
    """Of the trajectory encoder, which runs at pixel resolution."""
    scale: float | Float[Array, ""] = 1.0
    """Multiplies the residuals; 0 leaves the UNet alone."""


class SteadyVideo(NamedTuple):
    """What the denoiser is told of a video at every noise level alike: made once per video."""

    unet: Steady
    controlnet: Guidance | None
    """None without a ControlNet."""


class Denoiser(NamedTuple):
    """The two networks of the denoiser; their parameters arrive with each call.

    `parameters` has the fields `unet` and `controlnet` (see `networks.Parameters`).
    """

    unet: Network
    controlnet: Network | None
    """None for image-to-video without control: then there are neither features nor residuals."""

    def steady(self, parameters: Any, cond: Conditioning, num_frames: int) -> SteadyVideo:
        """Everything that does not depend on sigma; sampling makes it once per video."""
        told = cond.image_embed, cond.time_ids, num_frames
        return SteadyVideo(
            unet=self.unet.apply(parameters.unet, *told, method="steady"),
            controlnet=self._guidance(parameters, cond, num_frames),
        )

    def _guidance(self, parameters: Any, cond: Conditioning, num_frames: int) -> Guidance | None:
        if self.controlnet is None:
            return None
        params, apply = parameters.controlnet, self.controlnet.apply
        told = cond.image_embed, cond.time_ids, num_frames
        return Guidance(
            steady=apply(params, *told, method="steady"),
            map_features=apply(params, cond.maps_pixels, cond.camera_rt, method="encode_maps"),
        )

    def control(
        self,
        parameters: Any,
        noisy: Float[Array, "b f h8 w8 c"],
        sigma: Float[Array, "b"],
        cond: Conditioning,
        steady: SteadyVideo | None = None,
    ) -> Residuals | None:
        """What the ControlNet adds to the UNet; arguments as for the whole denoiser."""
        if self.controlnet is None:
            return None
        if steady is None:
            guidance = self._guidance(parameters, cond, noisy.shape[1])
        else:
            guidance = steady.controlnet
        return self.controlnet.apply(
            parameters.controlnet, *_inputs(noisy, sigma, cond), *guidance, method="predict"
        )

    def denoise(
        self,
        parameters: Any,
        noisy: Float[Array, "b f h8 w8 c"],
        sigma: Float[Array, "b"],
        cond: Conditioning,
        residuals: Residuals | None,
        steady: SteadyVideo | None = None,
    ) -> Float[Array, "b f h8 w8 c"]:
        """The denoiser with what `control` gives already at hand."""
        inputs = _inputs(noisy, sigma, cond)
        if steady is None:
            told = cond.image_embed, cond.time_ids
            output = self.unet.apply(parameters.unet, *inputs, *told, residuals)
        else:
            output = self.unet.apply(
                parameters.unet, *inputs, steady.unet, residuals, method="predict"
            )
        s = edm.scalings(sigma)
        c_skip, c_out = (edm.expand(c, noisy.ndim) for c in (s.c_skip, s.c_out))
        return c_skip * noisy + c_out * output.astype(jnp.float32)

    def __call__(
        self,
        parameters: Any,
        noisy: Float[Array, "b f h8 w8 c"],
        sigma: Float[Array, "b"],
        cond: Conditioning,
        steady: SteadyVideo | None = None,
    ) -> Float[Array, "b f h8 w8 c"]:
        """Estimates the clean latents, float32, from `noisy` = latents + sigma noise.

        Args:
          sigma: noise levels > 0, one per clip.
          steady: of `cond`, which then is read for its `image_latents` only.
        """
        residuals = self.control(parameters, noisy, sigma, cond, steady)
        return self.denoise(parameters, noisy, sigma, cond, residuals, steady)


def _inputs(
    noisy: Float[Array, "b f h w c"], sigma: Float[Array, "b"], cond: Conditioning
) -> tuple[Array, Array]:
    """What UNet and ControlNet are both given: sample and c_noise."""
    s = edm.scalings(sigma)
    image = jnp.broadcast_to(cond.image_latents[:, None], noisy.shape)
    sample = jnp.concatenate([edm.expand(s.c_in, noisy.ndim) * noisy, image], axis=-1)
    return sample, s.c_noise
