"""Networks small enough to compile in seconds, with every kind of block, and a batch for them."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import pretrained
from posetraj_jax.conditioning import CameraOptions, ConditioningOptions
from posetraj_jax.diffusion.noise import NoiseOptions
from posetraj_jax.models.controlnet import NARROW, ControlNet, ControlNetConfig
from posetraj_jax.models.networks import ModelOptions, Networks, Parameters, build_networks
from posetraj_jax.models.stages import MICRO
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.nn.build import build
from posetraj_jax.published import ImageStatistics
from posetraj_jax.structs import Batch, Conditioning
from posetraj_jax.training import initial
from posetraj_jax.training.loss import NoisedClips, SpatialPromotion
from posetraj_jax.training.optimizer import OptimizerOptions, make_optimizer
from posetraj_jax.training.origin import InitialOptions
from posetraj_jax.training.state import lay_out
from posetraj_jax.training.step import StepOptions
from tests import parity

FRAMES, HEIGHT, WIDTH = 2, 64, 64

OPTIM = OptimizerOptions(
    lr=1e-3,
    warmup_steps=2,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.01,
    clip_norm=1.0,
    accumulate=1,
    ema_decay=0.9,
)
OPTIONS = StepOptions(
    trained="controlnet",
    conditioning=ConditioningOptions("pixels", 0.02, 127.0, "svd", "unit", 0.1, ImageStatistics()),
    noise=NoiseOptions("cosine", 0.002, 700.0, 0.7, 1.6),
    spa=SpatialPromotion(0.5, 1, "bypass", "single_frame", "spatial"),
    optim=OPTIM,
)
WITH_CAMERA = dataclasses.replace(OPTIONS.conditioning, camera=CameraOptions("relative", 0.5))
INITIAL = InitialOptions(
    stage=1,
    init_from="",
    init_stages=(1,),
    trainable="all",
    rank=0,
    weights="",
    seed=0,
    copy_add_embedding=True,
)


@pytest.fixture(scope="session")
def networks() -> Networks:
    """Two levels of 64 channels, one layer per block: every block type, few operations."""
    return build_networks(ModelOptions("micro", (1, 1, 1, 1)))


@pytest.fixture(scope="session")
def camera_networks() -> Networks:
    """The same with a camera branch."""
    return build_networks(ModelOptions("micro", (1, 1, 1, 1), camera=True))


def make_batch(clips: int, seed: int = 0, frames: int = FRAMES) -> Batch:
    """Random pictures; every clip has a camera, which turns about the vertical axis."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (clips, frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    batch = Batch(
        frames_uint8=pictures,
        first_frame_uint8=pictures[:, 0],
        maps_uint8=rng.integers(0, 256, pictures.shape, dtype=np.uint8),
        camera_rt=turning_camera(clips, frames, rng),
        camera_known=np.ones(clips, bool),
        fps=np.full(clips, 5.0, np.float32),
    )
    return jax.tree.map(jnp.asarray, batch)


def turning_camera(clips: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    angles = rng.uniform(-1.0, 1.0, (clips, frames))
    cos, sin, zero, one = np.cos(angles), np.sin(angles), 0 * angles, 1 + 0 * angles
    rotation = np.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], axis=-1)
    translation = rng.normal(size=(clips, frames, 3))
    return np.concatenate([rotation, translation], axis=-1).astype(np.float32)


class Narrow(NamedTuple):
    """Networks and what the loss needs of a batch, encoders left out."""

    networks: Networks
    params: Any
    """Of the ControlNet."""
    frozen: Parameters
    clips: NoisedClips


@functools.cache
def narrow() -> Narrow:
    """One level of UNet and ControlNet: all that mixes space and time, and the camera.

    Everything is redrawn that starts at zero; two clips of three frames have cameras.
    """
    width = MICRO | {"block_out_channels": (64,), "num_attention_heads": (1,)}
    control = ControlNetConfig(
        **width,
        conditioning_embedding_out_channels=NARROW,
        residual_multiplicity=(1, 1),
        camera=True,
    )
    unet, controlnet = build(UNet, UNetConfig(**width)), build(ControlNet, control)
    networks = Networks(unet, controlnet, vae=None, image_encoder=None)
    frozen = Parameters(parity.redrawn(unet, seed=1), {}, None, None)
    return Narrow(networks, parity.redrawn(controlnet, seed=2), frozen, _noised_clips())


def _noised_clips() -> NoisedClips:
    cond = Conditioning(
        image_embed=parity.draw(3, 2, 64),
        image_latents=parity.draw(4, 2, 4, 8, 4),
        maps_pixels=np.sign(parity.draw(5, 2, 3, 32, 64, 3)),
        time_ids=np.array([[4.0, 127.0, 0.02]] * 2, np.float32),
        camera_rt=parity.draw(6, 2, 3, 12),
    )
    order = np.array([[2, 0, 1], [1, 2, 0]], np.int32)
    clips = NoisedClips(
        parity.draw(7, 2, 3, 4, 8, 4),
        parity.draw(8, 2, 3, 4, 8, 4),
        np.array([0.3, 3.0]),
        cond,
        order,
    )
    return jax.tree.map(jnp.asarray, clips)


@functools.cache
def start(
    networks: Networks,
    mesh,
    optim: OptimizerOptions = OPTIM,
    options: InitialOptions = INITIAL,
):
    """A fresh state and frozen parameters on `mesh`; the ControlNet's zero convolutions redrawn.

    Zero convolutions would hide almost every gradient.
    """
    frozen = pretrained.frozen_parameters(networks, mesh, "", jax.random.key(0))
    optimizer = make_optimizer(optim)
    shapes = initial.abstract_params(networks, options)
    begin, _ = lay_out(shapes, optimizer, mesh, averages=optim.ema_decay > 0)
    key = jax.random.key(1)
    params, _ = initial.initial_params(networks, frozen, None, mesh, key, options, {})
    state = begin(params)
    frozen = initial.without_trained(frozen, {}, options)
    return state._replace(params=redrawn(state.params)), frozen, optimizer


def redrawn(params):
    """All-zero leaves replaced by N(0, 0.05), keeping their sharding."""

    def redraw(path, leaf):
        if float(jnp.abs(leaf).max()) > 0:
            return leaf
        seed = sum(map(ord, jax.tree_util.keystr(path)))
        noise = 0.05 * jax.random.normal(jax.random.key(seed), leaf.shape, leaf.dtype)
        return jax.device_put(noise, leaf.sharding)

    return jax.tree_util.tree_map_with_path(redraw, params)


def abstract_of(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
