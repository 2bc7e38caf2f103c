"""A config's compiled training step with random numbers for all that it works on."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from posetraj_jax import sharding
from posetraj_jax.models.networks import build_networks
from posetraj_jax.published import ImageStatistics
from posetraj_jax.training.options import initial_options, model_options, step_options
from posetraj_jax.training.program import (
    BatchShape,
    abstract_batch,
    abstract_frozen,
    abstract_key,
    make_program,
)


class Step(NamedTuple):
    """A compiled step and what it runs on."""

    compiled: Any
    arguments: list[Any]
    """The state first, which every run replaces."""

    def run(self) -> float:
        """Takes a step; its seconds."""
        begin = time.perf_counter()
        self.arguments[0], _ = jax.block_until_ready(self.compiled(*self.arguments))
        return time.perf_counter() - begin


def make_step(c: ConfigDict, mesh: Mesh) -> Step:
    """The step of a validated config on a mesh; it trains on small random numbers."""
    model = model_options(c, mesh.devices.flat[0].platform)
    networks = build_networks(model)
    start, options = initial_options(c), step_options(c, ImageStatistics())
    program = make_program(networks, mesh, start, options)
    cached = bool(c.data.latents)
    frozen = abstract_frozen(
        networks, mesh, start, model.dtype, cached=cached, placement=c.mesh.frozen
    )
    clips = c.batch_size * c.optim.accumulate
    shape = BatchShape(clips, c.data.num_frames, c.data.height, c.data.width, cached)
    batch = abstract_batch(networks, mesh, shape)
    compiled = program.step.lower(program.state, frozen, batch, abstract_key(mesh)).compile()
    params, frozen, batch = jax.tree.map(_random, (program.state.params, frozen, batch))
    key = jax.device_put(jax.random.key(0), sharding.replicated(mesh))
    return Step(compiled, [program.begin(params), frozen, batch, key])


def _random(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Numbers of the leaf's type, where it says."""
    rng = np.random.default_rng(leaf.size)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        numbers = rng.integers(0, 256, leaf.shape)
    else:
        numbers = rng.uniform(0.0, 0.05, leaf.shape)
    return jax.device_put(numbers.astype(leaf.dtype), leaf.sharding)
