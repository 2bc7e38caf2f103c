"""Conditioning: exact numbers, and CLIP preprocessing against the stock SVD pipeline."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    _resize_with_antialiasing,
)
from transformers import CLIPImageProcessor

from posetraj_jax import conditioning
from posetraj_jax.conditioning import CameraOptions, ConditioningOptions
from posetraj_jax.published import ImageStatistics
from posetraj_jax.structs import Batch, Conditioning, Encoded, Encoders

OPTIONS = ConditioningOptions(
    noise_aug="pixels",
    noise_aug_strength=0.02,
    motion_bucket_id=127.0,
    time_ids="svd",
    clip_range="unit",
    dropout=0.1,
    image_statistics=ImageStatistics(),
)
OFFICIAL = dataclasses.replace(
    OPTIONS,
    noise_aug="shared_latent",
    motion_bucket_id=128.0,
    time_ids="official",
    clip_range="official",
)
FRAMES, HEIGHT, WIDTH = 3, 64, 128
OTHER_STATISTICS = ImageStatistics(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


def mean_of_patches(pixels):
    """A stand-in VAE: mean colour of 8 x 8 patches plus a fourth channel; variance e^-2."""
    n, h, w, _ = pixels.shape
    patches = pixels.reshape(n, h // 8, 8, w // 8, 8, 3).mean(axis=(2, 4))
    mean = jnp.concatenate([patches, patches.mean(-1, keepdims=True)], axis=-1)
    return mean, jnp.full_like(mean, -2.0)


ENCODERS = Encoders(
    moments=mean_of_patches, embed=lambda images: images.mean(axis=(1, 2)), scaling_factor=0.5
)


def make_batch(clips: int = 2) -> Batch:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (clips, FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    batch = Batch(
        frames_uint8=frames,
        first_frame_uint8=frames[:, 0],
        maps_uint8=np.zeros_like(frames),
        camera_rt=np.zeros((clips, FRAMES, 12), np.float32),
        camera_known=np.zeros(clips, bool),
        fps=np.array([7.0, 5.0], np.float32)[:clips],
    )
    return jax.tree.map(jnp.asarray, batch)


def test_pixels_span_minus_one_to_one():
    pixels = conditioning.to_pixels(jnp.array([[0, 51, 255]], jnp.uint8))
    np.testing.assert_allclose(pixels, [[-1.0, -0.6, 1.0]], atol=1e-6)


def test_latents_are_a_scaled_posterior_sample():
    batch = make_batch()
    noise = jax.random.normal(jax.random.key(0), (2, FRAMES, 8, 16, 4))
    latents = conditioning.encode_frames(batch, ENCODERS, noise)
    mean, _ = mean_of_patches(conditioning.to_pixels(batch.frames_uint8[1]))
    np.testing.assert_allclose(latents[1], 0.5 * (mean + np.exp(-1) * noise[1]), atol=1e-5)


def test_the_first_frame_is_noised_in_pixels_and_not_scaled():
    batch, noise = make_batch(), jax.random.normal(jax.random.key(1), (2, HEIGHT, WIDTH, 3))
    cond = conditioning.condition(batch, ENCODERS, OPTIONS, noise)
    first = conditioning.to_pixels(batch.first_frame_uint8)
    expected, _ = mean_of_patches(first + 0.02 * noise)
    np.testing.assert_allclose(cond.image_latents, expected, atol=1e-6)
    assert not np.allclose(cond.image_latents, mean_of_patches(first)[0], atol=1e-4)


def test_official_noise_is_the_diffusion_noise_in_scaled_latents():
    batch, zeros = make_batch(), jnp.zeros((2, HEIGHT, WIDTH, 3))
    latents, noise = jax.random.normal(jax.random.key(2), (2, 2, FRAMES, 8, 16, 4))
    cond = conditioning.condition(batch, ENCODERS, OFFICIAL, zeros, (latents, noise))
    np.testing.assert_allclose(
        cond.image_latents, (latents[:, 0] + 0.02 * noise[:, 0]) / 0.5, atol=1e-6
    )


def test_time_ids_in_both_orders():
    batch, noise = make_batch(), jnp.zeros((2, HEIGHT, WIDTH, 3))
    ours = conditioning.condition(batch, ENCODERS, OPTIONS, noise).time_ids
    np.testing.assert_allclose(ours, [[6.0, 127.0, 0.02], [4.0, 127.0, 0.02]], rtol=1e-6)
    official = conditioning.condition(batch, ENCODERS, OFFICIAL, noise).time_ids
    np.testing.assert_allclose(official, [[6.0, 0.02, 128.0]] * 2, rtol=1e-6)


@pytest.mark.parametrize("statistics", [ImageStatistics(), OTHER_STATISTICS])
@pytest.mark.parametrize("size", [(320, 576), (128, 192), (576, 1024), (64, 64)])
def test_clip_images_equal_the_stock_pipelines(size, statistics):
    rng = np.random.default_rng(3)
    pixels = rng.uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    # In float64, because torch's float32 sample positions are off by up to 3e-5 pixels.
    double = torch.tensor(pixels, dtype=torch.float64).permute(0, 3, 1, 2)
    resized = _resize_with_antialiasing(double, (224, 224))
    processor = CLIPImageProcessor(image_mean=statistics.mean, image_std=statistics.std)
    switches = {"do_center_crop": False, "do_resize": False, "do_rescale": False}
    unit = (resized.numpy() + 1) / 2
    expected = processor(images=unit, do_normalize=True, return_tensors="np", **switches)
    np.testing.assert_allclose(
        conditioning.clip_images(jnp.asarray(pixels), statistics),
        expected.pixel_values.transpose(0, 2, 3, 1),
        atol=2e-5,
    )


def test_the_image_encoder_sees_images_with_the_published_statistics():
    white = make_batch()._replace(first_frame_uint8=jnp.full((2, HEIGHT, WIDTH, 3), 255, jnp.uint8))
    options = dataclasses.replace(OPTIONS, image_statistics=OTHER_STATISTICS)
    cond = conditioning.condition(white, ENCODERS, options, jnp.zeros((2, HEIGHT, WIDTH, 3)))
    # White is 1 in every channel: (1 - 0.5) / 0.5, (1 - 0.25) / 0.25, (1 - 0) / 1.
    np.testing.assert_allclose(cond.image_embed, [[1.0, 3.0, 1.0]] * 2, atol=1e-5)


def test_official_clip_range_is_shifted():
    grey = jnp.zeros((1, 64, 64, 3))
    ours = conditioning.clip_images(grey, OTHER_STATISTICS)
    official = conditioning.clip_images(grey, OTHER_STATISTICS, "official")
    np.testing.assert_allclose((ours - official)[0, 0, 0], [1.0, 2.0, 0.5], atol=1e-5)


def conditioning_of_ones(clips: int) -> Conditioning:
    return Conditioning(
        image_embed=jnp.ones((clips, 4)),
        image_latents=jnp.ones((clips, 2, 2, 4)),
        maps_pixels=jnp.ones((clips, 1, 16, 16, 3)),
        time_ids=jnp.ones((clips, 3)),
        camera_rt=None,
    )


def test_dropout_overlaps_as_the_official_code():
    r = jnp.array([0.05, 0.15, 0.25, 0.35])  # embedding only, both, latents only, none
    dropped = conditioning.drop(conditioning_of_ones(4), OPTIONS, jnp.stack([r, 0 * r], axis=1))
    np.testing.assert_array_equal(dropped.image_embed[:, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(dropped.image_latents[:, 0, 0, 0], [1, 0, 0, 1])
    assert float(dropped.maps_pixels.min()) == 1


def test_no_dropout_drops_nothing():
    options = dataclasses.replace(OPTIONS, dropout=0.0)
    dropped = conditioning.drop(conditioning_of_ones(2), options, jnp.array([[0.0, 0], [0.5, 0]]))
    assert float(dropped.image_embed.min()) == float(dropped.image_latents.min()) == 1


def test_unconditional_keeps_trajectory_and_time_ids():
    cond = conditioning.unconditional(conditioning_of_ones(2))
    assert float(jnp.abs(cond.image_embed).max()) == 0
    assert float(jnp.abs(cond.image_latents).max()) == 0
    assert float(cond.maps_pixels.min()) == float(cond.time_ids.min()) == 1


def with_camera(normalise: str = "relative", drop: float = 0.5) -> ConditioningOptions:
    return dataclasses.replace(OPTIONS, camera=CameraOptions(normalise, drop))


def poses(clips: int, seed: int = 0) -> np.ndarray:
    """Random world-to-camera poses, as 4 x 4 matrices in float64."""
    rng = np.random.default_rng(seed)
    made = np.tile(np.eye(4), (clips, FRAMES, 1, 1))
    made[..., :3, :3] = np.linalg.qr(rng.normal(size=(clips, FRAMES, 3, 3)))[0]
    made[..., :3, :3] *= np.linalg.det(made[..., :3, :3])[..., None, None]
    made[..., :3, 3] = rng.normal(size=(clips, FRAMES, 3))
    return made


def as_numbers(matrices: np.ndarray) -> np.ndarray:
    rotation = matrices[..., :3, :3].reshape(*matrices.shape[:2], 9)
    return np.concatenate([rotation, matrices[..., :3, 3]], axis=-1)


def cameras_of(batch: Batch, options: ConditioningOptions):
    noise = jnp.zeros((len(batch.fps), HEIGHT, WIDTH, 3))
    return conditioning.condition(batch, ENCODERS, options, noise).camera_rt


def test_no_camera_branch_no_camera():
    assert cameras_of(make_batch(), OPTIONS) is None


def test_a_relative_camera_is_the_pose_seen_from_the_first_frame():
    recorded = poses(2)
    expected = as_numbers(recorded @ np.linalg.inv(recorded[:, :1]))
    given = jnp.asarray(as_numbers(recorded), jnp.float32)
    batch = make_batch()._replace(camera_rt=given, camera_known=jnp.array([True, True]))
    got = cameras_of(batch, with_camera())
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(got[:, 0], [[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]] * 2, atol=1e-5)
    # Whatever the world's axes are: another world is a rigid motion on the right of every pose.
    moved = jnp.asarray(as_numbers(recorded @ poses(1, seed=9)[:1, :1]), jnp.float32)
    np.testing.assert_allclose(
        conditioning.normalise_camera(moved, "relative"), expected, atol=1e-5
    )


def test_official_cameras_are_poses_in_the_world():
    recorded = poses(2, seed=3)
    given = jnp.asarray(as_numbers(recorded), jnp.float32)
    in_world = as_numbers(np.linalg.inv(recorded))
    raw = conditioning.normalise_camera(given, "none")
    np.testing.assert_allclose(raw, in_world, atol=1e-5)
    subtracted = conditioning.normalise_camera(given, "subtract")
    np.testing.assert_allclose(subtracted, in_world - in_world[:, :1], atol=1e-5)


def test_a_camera_at_rest_is_not_a_dropped_one():
    """All zeros mean "unknown": `relative` never yields them, `subtract` does."""
    rest = jnp.asarray(as_numbers(np.repeat(poses(3)[:, :1], FRAMES, axis=1)), jnp.float32)
    relative = conditioning.normalise_camera(rest, "relative")
    assert float(jnp.abs(relative).max(axis=-1).min()) > 0.9
    assert float(jnp.abs(conditioning.normalise_camera(rest, "subtract")).max()) < 1e-6


def test_an_unknown_camera_is_zeros_whatever_stands_there():
    given = jnp.asarray(as_numbers(poses(2)), jnp.float32)
    batch = make_batch()._replace(camera_rt=given, camera_known=jnp.array([True, False]))
    got = cameras_of(batch, with_camera())
    assert float(jnp.abs(got[1]).max()) == 0 < float(jnp.abs(got[0]).max())


def test_half_of_the_clips_lose_their_camera_in_all_frames():
    clips = 10_000
    cond = conditioning_of_ones(clips)._replace(camera_rt=jnp.ones((clips, FRAMES, 12)))
    noise = jax.random.uniform(jax.random.key(0), (clips, 2))
    dropped = conditioning.drop(cond, with_camera(), noise)
    numbers = np.asarray(dropped.camera_rt).reshape(clips, -1)
    assert np.isin(numbers.mean(axis=1), (0.0, 1.0)).all()
    rate = 1 - numbers[:, 0].mean()
    assert abs(rate - 0.5) <= 0.02
    # Independent of the image: of those that keep it, half lose the camera.
    kept = np.asarray(dropped.image_embed[:, 0] * dropped.image_latents[:, 0, 0, 0]) == 1
    assert abs(1 - numbers[kept, 0].mean() - 0.5) <= 0.02
    assert float(dropped.maps_pixels.min()) == 1


def test_cached_encodings_take_the_place_of_frames():
    batch, noise = make_batch(), jax.random.normal(jax.random.key(0), (2, FRAMES, 8, 16, 4))
    flat = conditioning.to_pixels(batch.frames_uint8).reshape(-1, HEIGHT, WIDTH, 3)
    mean, logvar = (m.reshape(2, FRAMES, 8, 16, 4) for m in mean_of_patches(flat))
    cached = batch._replace(frames_uint8=None, encoded=Encoded(mean, logvar, jnp.full((2, 3), 7.0)))
    np.testing.assert_array_equal(
        conditioning.encode_frames(cached, ENCODERS, noise),
        conditioning.encode_frames(batch, ENCODERS, noise),
    )
    cond = conditioning.condition(cached, ENCODERS, OPTIONS, jnp.zeros((2, HEIGHT, WIDTH, 3)))
    np.testing.assert_array_equal(cond.image_embed, np.full((2, 3), 7.0))
