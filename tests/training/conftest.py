"""Networks small enough to compile in seconds, with every kind of block, and a batch for them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.diffusion.noise import NoiseOptions
from posetraj_jax.models.clip import CLIPVision, CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNet, ControlNetConfig
from posetraj_jax.models.networks import Networks
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.models.vae import VAE, VAEConfig
from posetraj_jax.nn.build import build
from posetraj_jax.published import ImageStatistics
from posetraj_jax.structs import Batch
from posetraj_jax.training import state as states
from posetraj_jax.training.optimizer import OptimizerOptions, make_optimizer
from posetraj_jax.training.step import StepOptions

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
    ConditioningOptions("pixels", 0.02, 127.0, "svd", "unit", 0.1, ImageStatistics()),
    NoiseOptions("cosine", 0.002, 700.0, 0.7, 1.6),
    OPTIM,
)


@pytest.fixture(scope="session")
def networks() -> Networks:
    """Two levels of 64 channels, one layer per block: every block type, few operations."""
    encoder = {
        "block_out_channels": (64, 64),
        "layers_per_block": 1,
        "num_attention_heads": (1, 1),
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 96,
    }
    control = ControlNetConfig(
        **encoder,
        conditioning_embedding_out_channels=(16, 32, 64, 64),
        residual_multiplicity=(1, 1, 1, 1),
    )
    return Networks(
        unet=build(UNet, UNetConfig(**encoder)),
        controlnet=build(ControlNet, control),
        vae=build(VAE, dataclasses.replace(VAEConfig.tiny(), block_out_channels=(32, 32, 32, 32))),
        image_encoder=build(CLIPVision, CLIPVisionConfig.tiny()),
    )


def make_batch(clips: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (clips, FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    batch = Batch(
        frames_uint8=frames,
        first_frame_uint8=frames[:, 0],
        maps_uint8=rng.integers(0, 256, frames.shape, dtype=np.uint8),
        camera_rt=np.zeros((clips, FRAMES, 12), np.float32),
        camera_known=np.zeros(clips, bool),
        fps=np.full(clips, 5.0, np.float32),
    )
    return jax.tree.map(jnp.asarray, batch)


@functools.cache
def start(networks: Networks, mesh, optim: OptimizerOptions = OPTIM):
    """A fresh state and frozen parameters on `mesh`; the ControlNet's zero convolutions redrawn.

    Zero convolutions would hide almost every gradient.
    """
    frozen = states.make_frozen(networks, mesh, "", jax.random.key(0))
    optimizer = make_optimizer(optim)
    create, _ = states.plan(networks, optimizer, mesh, copy_add_embedding=True)
    state = create(jax.random.key(1), frozen.unet)
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
