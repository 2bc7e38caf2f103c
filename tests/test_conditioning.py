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
from posetraj_jax.conditioning import ConditioningOptions, Encoders
from posetraj_jax.published import ImageStatistics
from posetraj_jax.structs import Batch, Conditioning

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
    latents = conditioning.encode_frames(batch.frames_uint8, ENCODERS, noise)
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
    dropped = conditioning.drop(conditioning_of_ones(4), 0.1, r)
    np.testing.assert_array_equal(dropped.image_embed[:, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(dropped.image_latents[:, 0, 0, 0], [1, 0, 0, 1])
    assert float(dropped.maps_pixels.min()) == 1


def test_no_dropout_drops_nothing():
    dropped = conditioning.drop(conditioning_of_ones(2), 0.0, jnp.array([0.0, 0.5]))
    assert float(dropped.image_embed.min()) == float(dropped.image_latents.min()) == 1


def test_unconditional_keeps_trajectory_and_time_ids():
    cond = conditioning.unconditional(conditioning_of_ones(2))
    assert float(jnp.abs(cond.image_embed).max()) == 0
    assert float(jnp.abs(cond.image_latents).max()) == 0
    assert float(cond.maps_pixels.min()) == float(cond.time_ids.min()) == 1
