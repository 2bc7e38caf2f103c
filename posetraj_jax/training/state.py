"""What a run carries from step to step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from posetraj_jax import sharding

Metrics = dict[str, Any]
"""Scalars of a step by name."""


class TrainState(NamedTuple):
    """All that training changes; donated to every step and saved in every checkpoint."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    ema: Any
    """Moving average of `params`; {} where none is kept."""

    @property
    def averaged(self) -> Any:
        """What evaluation, sampling and the next stage use."""
        return self.ema or self.params


def lay_out(
    params: Any, optimizer: optax.GradientTransformation, mesh: Mesh, *, averages: bool
) -> tuple[Callable[[Any], TrainState], TrainState]:
    """How the state before step 0 is made, and what it looks like.

    Args:
      params: what trains, as ShapeDtypeStructs.
      averages: whether a moving average is kept.

    Returns:
      `begin(params)`, which makes the state sharded, and the same state as ShapeDtypeStructs with
      their shardings, so that a checkpoint is read without making one first.
    """

    def begin(params):
        ema = jax.tree.map(jnp.copy, params) if averages else {}
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema)

    abstract = sharding.sharded(jax.eval_shape(begin, params), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(begin, out_shardings=shardings, donate_argnums=0), abstract
