"""The real things, traced at full size without making a single parameter, and what they cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import step_flops
from benchmarks.step_flops import abstract_batch, abstract_frozen, shape
from posetraj_jax import config, config_file, generation, sharding, tree
from posetraj_jax.generation import SamplingOptions
from posetraj_jax.models.networks import build_networks, options_of
from posetraj_jax.published import ImageStatistics
from posetraj_jax.training import initial
from posetraj_jax.training.optimizer import make_optimizer
from posetraj_jax.training.options import step_options
from posetraj_jax.training.state import plan
from posetraj_jax.training.step import train_step
from tests.training.conftest import INITIAL

KEY = jax.eval_shape(lambda: jax.random.key(0))
LATENTS = (1, 14, 40, 72, 4)


def networks_of(c):
    return build_networks(options_of(config.flatten(c), jnp.bfloat16))


def test_stage_3_traces_at_full_size():
    """Camera, stills and all: one step of two clips at once, and the sampler."""
    c = config_file.load("stage3", {"optim.accumulate": "1"})
    networks, options = networks_of(c), step_options(c, ImageStatistics())
    optimizer, mesh = make_optimizer(options.optim), sharding.make_mesh(2, 4)
    _, state = plan(initial.abstract_params(networks, INITIAL), optimizer, mesh, averages=True)
    step = partial(train_step, networks=networks, optimizer=optimizer, options=options)
    frozen = abstract_frozen(networks)

    after, metrics = jax.eval_shape(step, state, frozen, abstract_batch(c, networks, clips=2), KEY)
    assert not tree.differences(state.params, after.params)
    assert not tree.differences(state.ema, after.ema)
    assert metrics["loss_spa"].shape == ()
    assert tree.num_params(state.params) == 682_090_401 - 23_697_920

    sampling = SamplingOptions(25, 1.0, 3.0, 0.002, 700.0, options.conditioning)
    program = generation.make_program(networks, sampling)
    parameters = frozen.with_part("controlnet", state.params)
    batch = abstract_batch(c, networks)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    noise = jax.eval_shape(program.draw, keys, batch)
    numbers = generation.scalars(sampling, 14)
    start = jax.eval_shape(program.begin, parameters, batch, noise, numbers)
    assert start.latents.shape == LATENTS
    assert start.cond.image_latents.shape == (2, 40, 72, 4)
    assert start.steady.controlnet.map_features.shape == (2, 14, 40, 72, 320)
    latents = jax.eval_shape(
        program.step, start.latents, shape(), shape(), parameters, start._replace(latents=None)
    )
    assert latents.shape == start.latents.shape
    frames = jax.eval_shape(program.decode, frozen.vae, latents)
    assert (frames.shape, frames.dtype) == ((1, 14, 320, 576, 3), np.uint8)


@pytest.mark.full
def test_stills_cost_little():
    """On the whole step from cached latents, where they weigh most."""
    fields = ({"spa.weight": "0"}, {}, {"spa.temporal": "active"})
    without, bypass, active = (step_flops.count("stage1", each, cached=True) for each in fields)
    bypass, active = bypass / without - 1, active / without - 1
    print(f"stills add to {without / 1e12:.3f} TF: bypass {bypass:.2%}, active {active:.2%}")
    assert 0.02 < bypass <= 0.055
    assert bypass < active <= 0.08
