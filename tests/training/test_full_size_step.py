"""The real things, traced at full size without making a single parameter, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import step_flops
from posetraj_jax import config, config_file, generation, tree
from posetraj_jax.generation import SamplingOptions
from posetraj_jax.models.networks import build_networks, options_of
from posetraj_jax.published import ImageStatistics
from posetraj_jax.training.options import step_options
from posetraj_jax.training.program import (
    BatchShape,
    abstract_batch,
    abstract_frozen,
    abstract_key,
    make_program,
)
from tests.meshes import mesh_of
from tests.training.conftest import INITIAL

LATENTS = (8, 14, 40, 72, 4)
SIGMA = jax.ShapeDtypeStruct((), np.float32)


def networks_of(c):
    return build_networks(options_of(config.flatten(c), jnp.bfloat16))


@pytest.mark.full
def test_stage_3_traces_at_full_size():
    """Camera, stills and all: one step of eight clips on eight devices, and the sampler."""
    c = config_file.load("stage3", {"optim.accumulate": "1"})
    networks, options, mesh = networks_of(c), step_options(c, ImageStatistics()), mesh_of(2, 4)
    program = make_program(networks, mesh, INITIAL, options)
    frozen = abstract_frozen(networks, mesh, INITIAL, jnp.bfloat16, cached=False)
    batch = abstract_batch(networks, mesh, BatchShape(8, 14, 320, 576, cached=False))

    state = program.state
    after, metrics = jax.eval_shape(program.step, state, frozen, batch, abstract_key(mesh))
    assert not tree.differences(state.params, after.params)
    assert not tree.differences(state.ema, after.ema)
    assert metrics["loss_spa"].shape == ()
    assert tree.num_params(state.params) == 682_090_401 - 23_697_920

    sampling = SamplingOptions(25, 1.0, 3.0, 0.002, 700.0, options.conditioning)
    sampler = generation.make_program(networks, sampling, mesh)
    parameters = frozen.with_part("controlnet", state.params)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 8))
    noise = jax.eval_shape(sampler.draw, keys, batch)
    numbers = generation.scalars(sampling, 14)
    start = jax.eval_shape(sampler.begin, parameters, batch, noise, numbers)
    assert start.latents.shape == LATENTS
    assert start.cond.image_latents.shape == (16, 40, 72, 4)
    assert start.steady.controlnet.map_features.shape == (16, 14, 40, 72, 320)
    latents = jax.eval_shape(
        sampler.step, start.latents, SIGMA, SIGMA, parameters, start._replace(latents=None)
    )
    assert latents.shape == start.latents.shape
    frames = jax.eval_shape(sampler.decode, frozen.vae, latents)
    assert (frames.shape, frames.dtype) == ((8, 14, 320, 576, 3), np.uint8)


@pytest.mark.full
def test_a_step_and_its_stills_cost_no_more_than_they_must():
    """On a whole step of stage 3 from cached latents, where stills weigh most."""
    fields = ({"spa.weight": "0"}, {}, {"spa.temporal": "active"})
    without, bypass, active = (step_flops.count("stage3", each, cached=True) for each in fields)
    print(f"bypass {bypass / 1e12:.2f} TF, active {active / 1e12:.2f} TF")
    assert 30e12 < bypass <= 34.2e12
    assert active <= 35.0e12
    bypass, active = bypass / without - 1, active / without - 1
    print(f"stills add to {without / 1e12:.3f} TF: bypass {bypass:.2%}, active {active:.2%}")
    assert 0.02 < bypass <= 0.055
    assert bypass < active <= 0.08
