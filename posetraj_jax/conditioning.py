"""Pixels, trajectory maps and camera → `Conditioning`: the one place, for training and sampling.

The encoders arrive as callables (`structs.Encoders`), so nothing here knows a network. Every
function is pure and runs inside the compiled step.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from posetraj_jax.published import ImageStatistics
from posetraj_jax.structs import Batch, Conditioning, Encoders

CLIP_SIZE = 224
OFFICIAL_FPS_ID = 6.0


@dataclass(frozen=True)
class CameraOptions:
    """What of the section `camera` of the config concerns the numbers; see there."""

    normalise: str
    drop: float


@dataclass(frozen=True)
class ConditioningOptions:
    """The section `conditioning` of the config, see there for units; and what CLIP is used to."""

    noise_aug: str
    noise_aug_strength: float | Float[Array, ""]
    motion_bucket_id: float | Float[Array, ""]
    time_ids: str
    clip_range: str
    dropout: float
    image_statistics: ImageStatistics
    camera: CameraOptions | None = None
    """None for networks without a camera branch."""


def to_pixels(uint8: UInt8[Array, "*any 3"]) -> Float[Array, "*any 3"]:
    """0..255 → [-1, 1]."""
    return uint8.astype(jnp.float32) / 127.5 - 1.0


def encode_frames(
    batch: Batch, encoders: Encoders, noise: Float[Array, "b f h8 w8 c"]
) -> Float[Array, "b f h8 w8 c"]:
    """Scaled latents of every frame: the VAE's posterior sampled with `noise` ~ N(0, 1).

    The posterior comes from the cache where the batch has it.
    """
    if batch.encoded is not None:
        moments = batch.encoded.mean, batch.encoded.logvar
    else:
        frames = batch.frames_uint8
        moments = encoders.moments(to_pixels(frames.reshape(-1, *frames.shape[2:])))
    mean, logvar = (moment.astype(jnp.float32).reshape(noise.shape) for moment in moments)
    std = jnp.exp(0.5 * jnp.clip(logvar, -30.0, 20.0))
    return (mean + std * noise) * encoders.scaling_factor


def condition(
    batch: Batch,
    encoders: Encoders,
    options: ConditioningOptions,
    image_noise: Float[Array, "b h w 3"],
    noised_target: tuple[Array, Array] | None = None,
) -> Conditioning:
    """Makes the conditioning of a batch, nothing dropped.

    Args:
      batch: as the data pipeline gives it.
      image_noise: N(0, 1) numbers that augment the first frame.
      noised_target: the target's scaled latents and their diffusion noise, both [b f h w c]. Only
        training has them, and only `noise_aug = "shared_latent"` reads them.

    Source: the conditioning of SVD (appendix D.3) and of the official training script.
    Differs: `noise_aug = "shared_latent"` is the official way, which adds the diffusion noise
    itself to the scaled latents and so leaks it; the default noises pixels independently, as SVD.
    """
    first = to_pixels(batch.first_frame_uint8)
    camera = options.camera
    if options.noise_aug == "shared_latent" and noised_target is not None:
        latents, noise = noised_target
        noised = (latents + options.noise_aug_strength * noise)[:, 0]
        image_latents = noised / encoders.scaling_factor
    else:
        image_latents, _ = encoders.moments(first + options.noise_aug_strength * image_noise)
    return Conditioning(
        image_embed=_image_embed(batch, first, encoders, options),
        image_latents=image_latents.astype(jnp.float32),
        maps_pixels=to_pixels(batch.maps_uint8),
        time_ids=_time_ids(batch.fps, options),
        camera_rt=None if camera is None else _camera(batch, camera.normalise),
    )


def _image_embed(
    batch: Batch, first: Float[Array, "b h w 3"], encoders: Encoders, options: ConditioningOptions
) -> Float[Array, "b d"]:
    if batch.encoded is not None:
        return batch.encoded.image_embed.astype(jnp.float32)
    images = clip_images(first, options.image_statistics, options.clip_range)
    return encoders.embed(images).astype(jnp.float32)


def _camera(batch: Batch, kind: str) -> Float[Array, "b f 12"]:
    known = batch.camera_known[:, None, None]
    return jnp.where(known, normalise_camera(batch.camera_rt, kind), 0.0)


def normalise_camera(camera_rt: Float[Array, "b f 12"], kind: str) -> Float[Array, "b f 12"]:
    """The extrinsics as the ControlNet sees them, from world-to-camera ones.

    relative: of frame t seen from frame 0, R_t R_0^T and T_t - R_t R_0^T T_0: whatever the world's
    axes are, frame 0 has the identity and no translation, so a known camera is never all zeros.
    none, subtract: camera-to-world, as the official files have it; "subtract" takes frame 0's
    numbers from all, so that a camera at rest is all zeros, as a dropped one.

    Source: the official loader. Differs: "relative" is a pose, its default is none.
    """
    rotation = camera_rt[..., :9].reshape(*camera_rt.shape[:-1], 3, 3)
    translation = camera_rt[..., 9:]
    if kind == "relative":
        product = partial(jnp.einsum, precision="highest")
        rotation = product("bfij,bkj->bfik", rotation, rotation[:, 0])
        moved = product("bfij,bj->bfi", rotation, translation[:, 0])
        return _joined(rotation, translation - moved)
    backwards = rotation.swapaxes(-1, -2)
    centre = -jnp.einsum("bfij,bfj->bfi", backwards, translation, precision="highest")
    in_world = _joined(backwards, centre)
    return in_world - in_world[:, :1] if kind == "subtract" else in_world


def _joined(
    rotation: Float[Array, "b f 3 3"], translation: Float[Array, "b f 3"]
) -> Float[Array, "b f 12"]:
    return jnp.concatenate([rotation.reshape(*rotation.shape[:-2], 9), translation], axis=-1)


def drop(cond: Conditioning, options: ConditioningOptions, r: Float[Array, "b 2"]) -> Conditioning:
    """Drops the image from some clips, so that guidance has an unconditional model to start from.

    With the first uniform number r in [0, 1) of a clip and p = `options.dropout`: the embedding is
    zeroed if r < 2p, the latents if p <= r < 3p. At p = 0.1: embedding only 10 %, both 10 %,
    latents only 10 %. The second drops the camera of all frames if below `options.camera.drop`, so
    that the trajectory alone also steers. The trajectory is never dropped.

    Source: the official training script.
    """
    image, camera = r[:, 0], r[:, 1]
    no_embed = image < 2 * options.dropout
    no_latents = (image >= options.dropout) & (image < 3 * options.dropout)
    cond = cond._replace(
        image_embed=jnp.where(no_embed[:, None], 0.0, cond.image_embed),
        image_latents=jnp.where(no_latents[:, None, None, None], 0.0, cond.image_latents),
    )
    if options.camera is None:
        return cond
    no_camera = camera < options.camera.drop
    return cond._replace(camera_rt=jnp.where(no_camera[:, None, None], 0.0, cond.camera_rt))


def unconditional(cond: Conditioning) -> Conditioning:
    """The other half of guidance: no image, but the same trajectory, camera and time ids."""
    return cond._replace(
        image_embed=jnp.zeros_like(cond.image_embed),
        image_latents=jnp.zeros_like(cond.image_latents),
    )


def clip_images(
    pixels: Float[Array, "b h w 3"], statistics: ImageStatistics, clip_range: str = "unit"
) -> Float[Array, "b 224 224 3"]:
    """Resizes and normalises frames in [-1, 1] for CLIP.

    Source: the stock SVD pipeline: Gaussian blur, bicubic resize with aligned corners, then the
    mean and deviation of the published preprocessor. Differs for `clip_range = "official"`: the
    official training maps the frame as if it were in [0, 1], so CLIP sees [-1, 1] where it expects
    [0, 1].
    """
    if clip_range == "official":
        pixels = 2.0 * pixels - 1.0
    rows = _clip_resize_matrix(pixels.shape[1])
    columns = _clip_resize_matrix(pixels.shape[2])
    resized = jnp.einsum("yh,xw,bhwc->byxc", rows, columns, pixels, precision="highest")
    mean, std = (np.array(each, np.float32) for each in (statistics.mean, statistics.std))
    return ((resized + 1.0) / 2.0 - mean) / std


def _clip_resize_matrix(size: int) -> Float[np.ndarray, "224 {size}"]:
    """Blur and resize of one axis are linear: their product, one matrix."""
    return (_bicubic_matrix(size, CLIP_SIZE) @ _blur_matrix(size, CLIP_SIZE)).astype(np.float32)


def _blur_matrix(size: int, target: int) -> Float[np.ndarray, "{size} {size}"]:
    """Gaussian against aliasing with reflected borders; width and radius as the SVD pipeline's."""
    sigma = max((size / target - 1.0) / 2.0, 0.001)
    taps = int(max(4.0 * sigma, 3)) // 2 * 2 + 1
    offsets = np.arange(taps) - taps // 2
    weights = np.exp(-(offsets**2) / (2.0 * sigma**2))
    weights /= weights.sum()
    matrix = np.zeros((size, size))
    for offset, weight in zip(offsets, weights, strict=True):
        source = np.abs(np.arange(size) + offset)
        source = np.where(source >= size, 2 * (size - 1) - source, source)
        np.add.at(matrix, (np.arange(size), source), weight)
    return matrix


def _bicubic_matrix(size: int, target: int) -> Float[np.ndarray, "{target} {size}"]:
    """Cubic convolution (a = -0.75) with aligned corners and repeated borders."""
    position = np.arange(target) * (size - 1) / (target - 1)
    base = np.floor(position).astype(int)
    matrix = np.zeros((target, size))
    for tap in (-1, 0, 1, 2):
        weight = _cubic(np.abs(position - (base + tap)))
        np.add.at(matrix, (np.arange(target), np.clip(base + tap, 0, size - 1)), weight)
    return matrix


def _cubic(distance: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Keys' kernel with a = -0.75 at distances 0..2."""
    a, d = -0.75, distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _time_ids(fps: Float[Array, "b"], options: ConditioningOptions) -> Float[Array, "b 3"]:
    """SVD's order and its convention fps - 1, or the official order with its constant rate."""
    strength = jnp.full_like(fps, options.noise_aug_strength)
    motion = jnp.full_like(fps, options.motion_bucket_id)
    if options.time_ids == "official":
        return jnp.stack([jnp.full_like(fps, OFFICIAL_FPS_ID), strength, motion], axis=-1)
    return jnp.stack([fps - 1.0, motion, strength], axis=-1)
