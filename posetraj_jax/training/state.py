"""What a run carries from step to step, what stays frozen, and how both begin."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from posetraj_jax import sharding, weights
from posetraj_jax.conditioning import Encoders
from posetraj_jax.models.controlnet import init_from_unet
from posetraj_jax.models.networks import Networks

Metrics = dict[str, Any]
"""Scalars of a step by name."""


class TrainState(NamedTuple):
    """All that training changes; donated to every step and saved in every checkpoint."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    ema: Any
    """Moving average of `params`; equal to them where it is off."""


class Frozen(NamedTuple):
    """Parameters that never change, in the compute type."""

    unet: Any
    vae: Any
    image_encoder: Any


def bind_encoders(networks: Networks, frozen: Frozen) -> Encoders:
    """The encoders as functions of pixels only."""
    return Encoders(
        moments=lambda pixels: networks.vae.apply(frozen.vae, pixels, method="encode"),
        embed=partial(networks.image_encoder.apply, frozen.image_encoder),
        scaling_factor=networks.vae.config.scaling_factor,
    )


def make_frozen(networks: Networks, mesh: Mesh, folder: str, key: Array) -> Frozen:
    """The frozen networks' parameters, sharded, in float32: the ControlNet is copied from them.

    Args:
      folder: of converted weights; empty draws them at random, which only the tiny variant may.
      key: of the random weights.
    """
    nets = Frozen(networks.unet, networks.vae, networks.image_encoder)
    if folder:
        folders = [Path(folder).expanduser() / name for name in Frozen._fields]
        for component, network in zip(folders, nets, strict=True):
            weights.require_config(component, network.config)
        targets = [_sharded(network.abstract(), mesh) for network in nets]
        return Frozen(*map(weights.load, folders, targets))
    keys = jax.random.split(key, len(nets))
    # Not under jit: compiling a thousand small draws takes far longer than making them.
    frozen = Frozen(*(network.init(k) for network, k in zip(nets, keys, strict=True)))
    return jax.device_put(frozen, sharding.parameter_shardings(frozen, mesh))


def plan(
    networks: Networks,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    copy_add_embedding: bool,
) -> tuple[Callable[[Array, Any], TrainState], TrainState]:
    """How the state before step 0 is made, and what it looks like.

    The ControlNet starts as a copy of the UNet's encoder; what the UNet lacks is drawn.

    Returns:
      `create(key, unet_params)`, which makes the state sharded, and the same state as
      ShapeDtypeStructs with their shardings, so that a checkpoint is read without making one first.
    """

    def create(key, unet_params):
        params = init_from_unet(
            networks.controlnet.init(key), unet_params, copy_add_embedding=copy_add_embedding
        )
        ema = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema)

    key = jax.eval_shape(lambda: jax.random.key(0))
    abstract = _sharded(jax.eval_shape(create, key, networks.unet.abstract()), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(create, out_shardings=shardings), abstract


def _sharded(abstract: Any, mesh: Mesh) -> Any:
    """The same ShapeDtypeStructs with the shardings of the path table."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        abstract,
        sharding.parameter_shardings(abstract, mesh),
    )
