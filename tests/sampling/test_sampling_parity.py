"""Picture, maps and noise through ours and through PyTorch: the same latents, the same frames.

`pytest -s` prints the worst figures.
"""

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import EulerDiscreteScheduler

from convert_weights import oracle
from posetraj_jax import config_file, generation
from posetraj_jax.generation import Noise, SamplingOptions
from posetraj_jax.models.networks import Networks, Parameters, build_networks
from posetraj_jax.structs import Batch
from posetraj_jax.training.options import from_config
from tests.meshes import one_device
from tests.parity import paired
from tests.published import SVD_SCHEDULER

LATENT_TOLERANCE, MOST_LEVELS = 1e-3, 2
FRAMES, HEIGHT, WIDTH = 5, 64, 128
STEPS, CHUNK, FPS = 6, 2, 7.0
COMPONENTS = ("unet", "controlnet", "vae", "clip")


class Case(NamedTuple):
    config: str
    official: bool = False
    scale: float = 1.0
    camera: bool = False


CASES = {
    "corrected": Case("configs/stage1.py:micro"),
    "half control": Case("configs/stage2.py:micro", scale=0.5),
    "official": Case("configs/stage1.py:micro,official", official=True),
    "camera": Case("configs/stage3.py:micro", camera=True),
}


class Pairs(NamedTuple):
    networks: Networks
    params: Parameters
    modules: oracle.Modules
    sampling: SamplingOptions


@functools.cache
def pairs_of(case: Case) -> Pairs:
    """The networks, ours and PyTorch's, with the same redrawn parameters."""
    overrides = {"init_from": "", "data.path": "shipped_clips"} if case.camera else {}
    options = from_config(config_file.load(case.config, overrides))
    networks = build_networks(options.model)
    pairs = [
        paired(network, getattr(oracle, name)(network.config), name, seed)
        for seed, (name, network) in enumerate(zip(COMPONENTS, networks, strict=True))
    ]
    params = Parameters(*(jax.tree.map(jnp.asarray, pair.params) for pair in pairs))
    by_field = dict(zip(Parameters._fields, (pair.module for pair in pairs), strict=True))
    settings = settings_of(case)
    sampling = replace(
        options.watch.sampling,
        steps=STEPS,
        controlnet_scale=case.scale,
        conditioning=replace(
            options.watch.sampling.conditioning,
            noise_aug_strength=settings.noise_aug_strength,
            motion_bucket_id=settings.motion_bucket_id,
        ),
    )
    return Pairs(networks, params, oracle.Modules(**by_field), sampling)


def settings_of(case: Case) -> oracle.SampleSettings:
    return oracle.SampleSettings(
        num_inference_steps=STEPS,
        min_guidance_scale=1.0,
        max_guidance_scale=3.0,
        fps=FPS,
        motion_bucket_id=128.0 if case.official else 100.0,
        noise_aug_strength=0.05,
        decode_chunk_size=CHUNK,
        controlnet_conditioning_scale=case.scale,
        official=case.official,
    )


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@functools.cache
def inputs_of(case: Case) -> oracle.SampleInputs:
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (1 + FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return oracle.SampleInputs(
        image_uint8=pictures[0],
        maps_uint8=pictures[1:],
        # Of a camera at the first frame's place: relative, it is itself.
        camera=cameras() if case.camera else None,
        latent_noise=draw(2, FRAMES, HEIGHT // 8, WIDTH // 8, 4),
        image_noise=draw(3, HEIGHT, WIDTH, 3),
    )


def cameras() -> np.ndarray:
    """World to camera; the first is the world's origin."""
    angles = np.linspace(0.0, 0.3, FRAMES)
    rt = np.zeros((FRAMES, 12), np.float32)
    for row, angle in zip(rt, angles, strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        row[:9] = [cos, 0, sin, 0, 1, 0, -sin, 0, cos]
        row[9:] = angle, 0, -angle
    return rt


@functools.cache
def expected(name: str) -> Any:
    case = CASES[name]
    scheduler = EulerDiscreteScheduler.from_config(SVD_SCHEDULER)
    return oracle.sample(pairs_of(case).modules, scheduler, inputs_of(case), settings_of(case))


@functools.cache
def ours(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    case, given = CASES[name], inputs_of(CASES[name])
    networks, params, _, sampling = pairs_of(case)
    camera = cameras() if case.camera else np.zeros((FRAMES, 12), np.float32)
    batch = Batch(
        frames_uint8=None,
        first_frame_uint8=given.image_uint8[None],
        maps_uint8=given.maps_uint8[None],
        camera_rt=camera[None],
        camera_known=np.array([case.camera]),
        fps=np.full(1, FPS, np.float32),
    )
    noise = Noise(jnp.asarray(given.latent_noise[None]), jnp.asarray(given.image_noise[None]))
    program = generation.make_program(networks, sampling, one_device())
    with jax.default_matmul_precision("highest"):
        made = []
        for latents in generation.generate(program, params, batch, noise, sampling):
            made.append(np.array(latents[0]))
        frames = generation.decode(program, params, jnp.asarray(made[-1][None]), CHUNK)
    return made, frames[0]


@pytest.mark.parametrize(
    "name",
    [name if name == "corrected" else pytest.param(name, marks=pytest.mark.full) for name in CASES],
)
def test_every_step_and_every_frame_are_those_of_pytorch(name):
    theirs, (latents, frames) = expected(name), ours(name)
    assert len(latents) == len(theirs.latents) == STEPS
    worst = 0.0
    for got, want in zip(latents, theirs.latents, strict=True):
        worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
    levels = np.abs(frames.astype(int) - theirs.frames_uint8.astype(int)).max()
    print(f"{name}: latents {worst:.1e}, frames {levels}/255")
    assert worst <= LATENT_TOLERANCE
    assert levels <= MOST_LEVELS
    assert frames.std() > 5, "a picture of one colour proves nothing"


@pytest.mark.full
@pytest.mark.parametrize(("one", "other"), [("corrected", "official"), ("corrected", "camera")])
def test_what_is_compared_matters(one, other):
    """Settings, control and camera change the video by far more than the tolerance."""
    difference = (
        np.abs(ours(one)[0][-1] - ours(other)[0][-1]).max() / np.abs(ours(one)[0][-1]).max()
    )
    assert difference > 10 * LATENT_TOLERANCE


def test_chunks_of_the_decoder_matter():
    """So the comparison above is of the same chunks."""
    networks, params, _, sampling = pairs_of(CASES["corrected"])
    program = generation.make_program(networks, sampling, one_device())
    latents = jnp.asarray(ours("corrected")[0][-1][None])
    whole = generation.decode(program, params, latents)[0]
    assert np.abs(whole.astype(int) - ours("corrected")[1].astype(int)).max() > MOST_LEVELS
