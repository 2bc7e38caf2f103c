"""The axis letters and the tuples that travel between the parts. Imports no array library.

Axis letters, used in every shape of the package:

| letter | axis                                    | letter | axis                              |
| ------ | --------------------------------------- | ------ | --------------------------------- |
| b      | clips of a batch                        | n      | tokens                            |
| f      | frames of a clip (14 for SVD)           | d      | features of a token               |
| h, w   | rows, columns (pixels or latents)       | k      | attention heads                   |
| c      | channels, always last                   | p      | tracked points                    |

Quantities carry their kind in the name: `pixels` are in [-1, 1], `frames_uint8` in 0..255,
`latents` are scaled by the VAE's factor, `latents_raw` are not, `sigma` is a noise level in units
of the scaled latents, `c_noise` is 0.25 ln(sigma), `tracks_px` are (x, y) in pixels, `camera_rt` is
a row-major world-to-camera rotation (9 numbers) followed by a translation (3 numbers).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, UInt8

Array = Any
"""A numpy or a jax array: this module must not import jax to tell them apart."""

MAP_CHANNELS = 3
CAMERA_NUMBERS = 12
PIXELS_PER_LATENT = 8
"""Along each side, by the VAE."""
SIZE_MULTIPLE = 8 * PIXELS_PER_LATENT
"""Frame sizes, in pixels, divide by this: the UNet halves latents three times."""


class Encoded(NamedTuple):
    """What the frozen encoders say of a batch, from a cache; bfloat16 or float32."""

    mean: Float[Array, "b f h8 w8 c"]
    """Mean of the VAE's posterior of every target frame, unscaled latents."""
    logvar: Float[Array, "b f h8 w8 c"]
    """Logarithm of its variance."""
    image_embed: Float[Array, "b d"]
    """CLIP embedding of the frame that the video is conditioned on."""


class Batch(NamedTuple):
    """What the data pipeline hands to a step: numpy on the host, uint8 until the device."""

    frames_uint8: UInt8[Array, "b f h w 3"] | None
    """Target frames, RGB; in stage 1 with the object's 3D box drawn in. None if `encoded`."""
    first_frame_uint8: UInt8[Array, "b h w 3"]
    """The frame the video is conditioned on (boxed or clean: `data.condition_on_box`)."""
    maps_uint8: UInt8[Array, "b f h w 3"]
    """Trajectory maps, RGB: map t shows the segment from frame t to t+1, the last map is black."""
    camera_rt: Float[Array, "b f 12"]
    """World-to-camera extrinsics per frame as recorded; zeros where the camera is unknown."""
    camera_known: Bool[Array, "b"]
    """False where the clip has no camera: then `camera_rt` means nothing."""
    fps: Float[Array, "b"]
    """Frames per second of the clip."""
    encoded: Encoded | None = None
    """Takes the place of the target frames where the run reads cached latents."""

    def latents_shape(self, channels: int) -> tuple[int, int, int, int, int]:
        """[b f h w c] of the latents of its videos."""
        clips, frames, height, width, _ = self.maps_uint8.shape
        return clips, frames, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT, channels


class Encoders(NamedTuple):
    """The frozen encoders, with their parameters already bound."""

    moments: Callable[[Array], tuple[Array, Array]]
    """pixels [n h w 3] → mean and log-variance of the VAE's posterior, each [n h/8 w/8 4]."""
    embed: Callable[[Array], Array]
    """CLIP-normalised images [b 224 224 3] → image embeddings [b d]."""
    scaling_factor: float
    """Latents are the VAE's raw latents times this (0.18215 for SVD)."""


class Conditioning(NamedTuple):
    """All the denoiser is told besides the noisy latents. Made only by `conditioning.py`."""

    image_embed: Float[Array, "b d"]
    """CLIP embedding of the first frame; zeros where it is dropped."""
    image_latents: Float[Array, "b h w c"]
    """Unscaled VAE latents (posterior mode) of the noised first frame; zeros where dropped."""
    maps_pixels: Float[Array, "b f h w 3"]
    """Trajectory maps in [-1, 1], at pixel resolution: black is -1."""
    time_ids: Float[Array, "b 3"]
    """Added time ids: [fps - 1, motion bucket, noise strength], or in the official order."""
    camera_rt: Float[Array, "b f 12"] | None
    """Normalised extrinsics, zeros where unknown or dropped; None without a camera branch."""
