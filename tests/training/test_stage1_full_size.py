"""The real thing, `configs/stage1.py`, traced at full size without making a single parameter."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from posetraj_jax import config_file, generation, sharding, tree
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.diffusion.noise import NoiseOptions
from posetraj_jax.generation import SamplingOptions
from posetraj_jax.models.networks import ModelOptions, build_networks
from posetraj_jax.published import ImageStatistics
from posetraj_jax.structs import Batch
from posetraj_jax.training import state as states
from posetraj_jax.training.optimizer import OptimizerOptions, make_optimizer
from posetraj_jax.training.step import StepOptions, train_step

KEY = jax.eval_shape(lambda: jax.random.key(0))


def in_bfloat16(abstract):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), abstract)


def abstract_batch(clips: int, c) -> Batch:
    size = (c.data.num_frames, c.data.height, c.data.width, 3)
    frames = jax.ShapeDtypeStruct((clips, *size), np.uint8)
    return Batch(
        frames_uint8=frames,
        first_frame_uint8=jax.ShapeDtypeStruct((clips, *size[1:]), np.uint8),
        maps_uint8=frames,
        camera_rt=jax.ShapeDtypeStruct((clips, size[0], 12), np.float32),
        camera_known=jax.ShapeDtypeStruct((clips,), bool),
        fps=jax.ShapeDtypeStruct((clips,), np.float32),
    )


def test_stage_1_traces_at_full_size():
    c = config_file.load("stage1")
    networks = build_networks(ModelOptions(**{**c.model, "dtype": jnp.bfloat16}))
    frozen = states.Frozen(
        *(in_bfloat16(n.abstract()) for n in (networks.unet, networks.vae, networks.image_encoder))
    )
    optim = OptimizerOptions(**c.optim)
    conditioning = ConditioningOptions(**c.conditioning, image_statistics=ImageStatistics())
    optimizer, mesh = make_optimizer(optim), sharding.make_mesh(2, 4)
    _, state = states.plan(networks, optimizer, mesh, copy_add_embedding=True)
    options = StepOptions(conditioning, NoiseOptions(**c.diffusion), optim)
    step = partial(train_step, networks=networks, optimizer=optimizer, options=options)

    after, metrics = jax.eval_shape(step, state, frozen, abstract_batch(2, c), KEY)
    assert not tree.differences(state.params, after.params)
    assert not tree.differences(state.ema, after.ema)
    assert metrics["loss"].shape == ()
    assert tree.num_params(state.params) == 682_021_537 - 23_697_920

    sampling = SamplingOptions(25, 1.0, 3.0, 0.002, 700.0, conditioning)
    program = generation.make_program(networks, partial(states.bind_encoders, networks), sampling)
    start = jax.eval_shape(program.begin, state.params, frozen, abstract_batch(1, c), KEY)
    assert start.latents.shape == (1, 14, 40, 72, 4)
    assert start.cond.image_embed.shape == (2, 1024)
    sigma = jax.ShapeDtypeStruct((), np.float32)
    latents = jax.eval_shape(
        program.step,
        start.latents,
        sigma,
        sigma,
        state.params,
        frozen.unet,
        start._replace(latents=None),
    )
    assert latents.shape == start.latents.shape
    frames = jax.eval_shape(program.decode, frozen.vae, latents)
    assert (frames.shape, frames.dtype) == ((1, 14, 320, 576, 3), np.uint8)
