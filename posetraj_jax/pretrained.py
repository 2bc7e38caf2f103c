"""The networks that come ready: published weights, or random ones for the small variants."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from posetraj_jax import sharding, weights
from posetraj_jax.models.networks import Networks, Parameters

READY = ("unet", "vae", "image_encoder")
"""The networks that are published: the ControlNet is copied from them."""


class Keys(NamedTuple):
    """The roots of all random numbers of a run, by what they are for."""

    frozen: Array
    """Frozen networks that no folder holds."""
    init: Array
    """What trains, before step 0."""
    train: Array
    """Every step."""


def root_keys(seed: int) -> Keys:
    """The keys of a run with this seed."""
    return Keys(*jax.random.split(jax.random.key(seed), 3))


def frozen_parameters(
    networks: Networks,
    mesh: Mesh,
    folder: str,
    key: Array,
    names: Sequence[str] = READY,
    dtype: Any = jnp.float32,
    placement: str = "sharded",
) -> Parameters:
    """The networks that come ready, sharded, straight onto their devices; no ControlNet.

    Args:
      folder: of converted weights; empty draws them at random, which only small variants may.
      key: of the random weights.
      names: which of the ready networks; the others are left empty.
      dtype: that every leaf gets.
      placement: "sharded" as what trains, or "replicated": every device holds everything.

    Raises:
      UserError: weights are missing, or of other networks.
    """
    nets = {name: getattr(networks, name) for name in names}
    if folder:
        folders = {name: Path(folder).expanduser() / name for name in names}
        for name, network in nets.items():
            weights.require_config(folders[name], network.config)
        targets = {
            name: weights.in_type(sharding.sharded(net.abstract(), mesh, placement), dtype)
            for name, net in nets.items()
        }
        trees = {name: weights.load(folders[name], targets[name]) for name in names}
    else:
        keys = dict(zip(READY, jax.random.split(key, len(READY)), strict=True))
        # Not under jit: compiling a thousand small draws takes far longer than making them.
        drawn = {name: network.init(keys[name]) for name, network in nets.items()}
        drawn = weights.cast(drawn, dtype)
        trees = sharding.put_whole(drawn, sharding.parameter_shardings(drawn, mesh, placement))
    return Parameters(**{name: trees.get(name, {}) for name in Parameters._fields})
