"""The compiled program of a run, and everything it works on as shapes: nothing here is computed."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from posetraj_jax import sharding, weights
from posetraj_jax.models.networks import Networks, Parameters
from posetraj_jax.pretrained import READY
from posetraj_jax.structs import CAMERA_NUMBERS, Batch, Encoded
from posetraj_jax.training import initial
from posetraj_jax.training.optimizer import make_optimizer
from posetraj_jax.training.origin import InitialOptions
from posetraj_jax.training.state import TrainState, lay_out
from posetraj_jax.training.step import StepOptions, train_step

STEP_ARGUMENTS = ("state", "frozen", "batch", "key")


class TrainProgram(NamedTuple):
    """What a run compiles."""

    begin: Callable[[Any], TrainState]
    """params → the state before step 0, donating them"""
    step: Callable[..., tuple[TrainState, dict[str, Any]]]
    """(state, frozen, batch, key) → state, metrics; donates the state. A `jax.jit` function."""
    state: TrainState
    """ShapeDtypeStructs with shardings."""


class BatchShape(NamedTuple):
    """What decides the shapes of a batch."""

    clips: int
    frames: int
    height: int
    width: int
    cached: bool
    """Whether latents come from the cache."""


def make_program(
    networks: Networks, mesh: Mesh, start: InitialOptions, options: StepOptions
) -> TrainProgram:
    """Builds the program of these networks on this mesh; it is compiled when first called."""
    optimizer = make_optimizer(options.optim)
    params = initial.abstract_params(networks, start)
    begin, state = lay_out(params, optimizer, mesh, averages=options.optim.ema_decay > 0)
    step = partial(train_step, networks=networks, optimizer=optimizer, options=options)
    # The next state lies where this one does: left to choose, XLA spreads some of it otherwise, and
    # the second step is another program, which is compiled again and was never planned.
    places = jax.tree.map(lambda leaf: leaf.sharding, state), sharding.replicated(mesh)
    compiled = sharding.jit(step, mesh, donate_argnums=0, out_shardings=places)
    return TrainProgram(begin, compiled, state)


def abstract_frozen(
    networks: Networks,
    mesh: Mesh,
    start: InitialOptions,
    dtype: Any,
    *,
    cached: bool,
    placement: str = "sharded",
) -> Parameters:
    """All that is frozen, in the type it is computed in, as ShapeDtypeStructs with shardings.

    Args:
      cached: whether latents come from the cache, so that nothing encodes images.
      placement: `mesh.frozen` of the config.
    """
    trees = {name: getattr(networks, name).abstract() for name in READY}
    frozen = initial.without_trained(Parameters(controlnet={}, **trees), {}, start)
    if cached:
        frozen = frozen._replace(image_encoder={})
    placed = sharding.sharded(frozen, mesh, placement)
    frozen = Parameters(*(weights.in_type(tree, dtype) for tree in placed))
    base = initial.abstract_base(networks, mesh, start, dtype, placement)
    return frozen._replace(controlnet=base)


def abstract_batch(networks: Networks, mesh: Mesh, shape: BatchShape) -> Batch:
    """What the data pipeline hands to a step, as ShapeDtypeStructs with shardings."""
    where = sharding.batch_sharding(mesh)

    def array(*sizes: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((shape.clips, *sizes), dtype, sharding=where)

    f, h, w = shape.frames, shape.height, shape.width
    frames = array(f, h, w, 3, dtype=np.uint8)
    moments = array(f, h // 8, w // 8, networks.vae.config.latent_channels, dtype=jnp.bfloat16)
    embed = array(networks.image_encoder.config.projection_dim, dtype=jnp.bfloat16)
    return Batch(
        frames_uint8=None if shape.cached else frames,
        first_frame_uint8=array(h, w, 3, dtype=np.uint8),
        maps_uint8=frames,
        camera_rt=array(f, CAMERA_NUMBERS),
        camera_known=array(dtype=bool),
        fps=array(),
        encoded=Encoded(moments, moments, embed) if shape.cached else None,
    )


def abstract_key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    """The root key of a run."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.replicated(mesh))
