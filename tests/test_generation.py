"""Sampling with stand-in networks whose answer is known, against the same steps in numpy."""

import itertools
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import generation
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.diffusion.noise import karras_sigmas
from posetraj_jax.generation import SamplingOptions
from posetraj_jax.models.networks import Networks, Parameters
from posetraj_jax.published import ImageStatistics
from posetraj_jax.structs import Batch
from tests.meshes import one_device

FRAMES, CLIPS = 3, 2
CALLS: Counter[str] = Counter()
CONDITIONING = ConditioningOptions("pixels", 0.0, 127.0, "svd", "unit", 0.1, ImageStatistics())


class StandIn:
    """A network that is a plain function of its inputs."""

    def __init__(self, function, **config: Any):
        self.apply, self.config = function, SimpleNamespace(**config)


def unet(params, *inputs, method):
    """F is the image embedding: 0 in the unconditional half, the first frame's mean otherwise."""
    if method == "steady":
        return inputs[0]
    sample, _, image_embed, _ = inputs
    assert sample.shape[-1] == 8
    return jnp.broadcast_to(image_embed.mean(-1)[:, None, None, None, None], sample[..., :4].shape)


def controlnet(params, *inputs, method):
    """Steady values are counted: they are asked for once per video."""
    CALLS[method] += 1
    return jnp.zeros((CLIPS, FRAMES, 8, 8, 4)) if method == "encode_maps" else None


def vae(params, x, method):
    """Encodes to every eighth pixel's red, decodes by repeating."""
    if method == "encode":
        return (x[:, ::8, ::8, :1].repeat(4, -1),) * 2
    return jnp.repeat(jnp.repeat(x[..., :3], 8, axis=2), 8, axis=3)


def image_encoder(params, images):
    return jnp.ones((images.shape[0], 4))


NETWORKS = Networks(
    unet=StandIn(unet),
    controlnet=StandIn(controlnet),
    vae=StandIn(vae, latent_channels=4, scaling_factor=0.5),
    image_encoder=StandIn(image_encoder),
)
NOTHING = Parameters(None, None, None, None)


def options(steps: int, lowest: float, highest: float, sigmas=(0.002, 700.0)) -> SamplingOptions:
    return SamplingOptions(steps, lowest, highest, *sigmas, CONDITIONING)


def batch() -> Batch:
    frames = np.zeros((CLIPS, FRAMES, 64, 64, 3), np.uint8)
    known = np.zeros(CLIPS, bool)
    camera = np.zeros((CLIPS, FRAMES, 12), np.float32)
    numbers = (frames, frames[:, 0], frames, camera, known, np.full(CLIPS, 7.0, np.float32))
    return Batch(*map(jnp.asarray, numbers))


def draw(program):
    return program.draw(jax.random.split(jax.random.key(0), CLIPS), batch())


@pytest.mark.parametrize("scales", [(1.0, 3.0), (1.0, 1.0), (2.0, 2.0)])
@pytest.mark.parametrize("sigma_range", [(0.002, 700.0), (0.05, 20.0)])
def test_guided_steps_equal_numpy(scales, sigma_range):
    chosen = options(4, *scales, sigma_range)
    program = generation.make_program(NETWORKS, chosen, one_device())
    noise = draw(program)
    start = program.begin(NOTHING, batch(), noise, generation.scalars(chosen, FRAMES))
    x = np.asarray(start.latents, np.float64)
    assert x.std() == pytest.approx((sigma_range[1] ** 2 + 1) ** 0.5, rel=0.1)
    assert len(start.cond.image_latents) == (CLIPS if scales == (1.0, 1.0) else 2 * CLIPS)
    weights = np.linspace(*scales, FRAMES)[None, :, None, None, None]
    sigmas = karras_sigmas(4, *sigma_range).astype(np.float64)
    for sigma, following in itertools.pairwise(sigmas):
        # The unconditional F is 0 and the conditional 1, so the guided F is the frame's weight.
        denoised = x / (sigma**2 + 1) - sigma / np.sqrt(sigma**2 + 1) * weights
        x = x + (following - sigma) * (x - denoised) / sigma
    *_, last = generation.generate(program, NOTHING, batch(), noise, chosen)
    np.testing.assert_allclose(last, x, atol=2e-3)


def test_one_compilation_serves_any_number_of_steps_and_any_scale():
    program = generation.make_program(NETWORKS, options(2, 1.0, 3.0), one_device())
    CALLS.clear()
    for steps, highest in ((2, 3.0), (5, 2.0)):
        chosen = replace(options(steps, 1.0, highest), controlnet_scale=highest)
        made = list(generation.generate(program, NOTHING, batch(), draw(program), chosen))
        assert len(made) == steps
    assert program.step._cache_size() == program.begin._cache_size() == 1
    # Traced once each: what is steady is in `begin` and not in `step`.
    assert CALLS == {"steady": 1, "encode_maps": 1, "predict": 1}


def test_a_clip_s_noise_is_its_own():
    program = generation.make_program(NETWORKS, options(2, 1.0, 3.0), one_device())
    keys = jax.random.split(jax.random.key(0), CLIPS)
    both = program.draw(keys, batch())
    turned = program.draw(keys[::-1], batch())
    for one, other in zip(both, turned, strict=True):
        np.testing.assert_array_equal(one[0], other[1])
        assert not np.array_equal(one[0], one[1])


def test_decoding_unscales_and_clips():
    program = generation.make_program(NETWORKS, options(2, 1.0, 3.0), one_device())
    latents = jnp.stack([jnp.full((FRAMES, 8, 8, 4), v) for v in (0.25, 9.0)])
    frames = generation.decode(program, NOTHING, latents)
    assert frames.dtype == np.uint8
    assert frames.shape == (2, FRAMES, 64, 64, 3)
    assert (frames[0] == 191).all()  # 0.25 / 0.5 = 0.5 in [-1, 1]
    assert (frames[1] == 255).all()


@pytest.mark.parametrize("chunk", [0, 1, 2, 3, 5])
def test_chunks_of_frames_are_decoded_one_by_one(chunk):
    seen = []

    def decode(params, latents):
        seen.append(latents.shape[1])
        return jnp.repeat(latents.astype(jnp.uint8), 3, axis=-1)

    program = generation.make_program(NETWORKS, options(2, 1.0, 3.0), one_device())
    program = program._replace(decode=decode)
    latents = jnp.arange(float(CLIPS * FRAMES)).reshape(CLIPS, FRAMES, 1, 1, 1)
    frames = generation.decode(program, NOTHING, latents, chunk)
    assert seen == {0: [3], 1: [1, 1, 1], 2: [2, 1], 3: [3], 5: [3]}[chunk]
    np.testing.assert_array_equal(frames, np.repeat(latents, 3, axis=-1))
