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
from posetraj_jax.nn.build import Network
from posetraj_jax.structs import Precision

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


def make_frozen(
    networks: Networks, mesh: Mesh, precision: Precision, folder: str, key: Array
) -> Frozen:
    """The frozen networks' parameters in the compute type, sharded.

    Args:
      folder: of converted weights; empty draws them at random, which only the tiny variant may.
      key: of the random weights.
    """
    nets = Frozen(networks.unet, networks.vae, networks.image_encoder)
    if folder:
        return Frozen(
            *(
                _load(Path(folder) / name, network, mesh, precision)
                for name, network in zip(Frozen._fields, nets, strict=True)
            )
        )

    keys = jax.random.split(key, len(nets))
    # Not under jit: compiling a thousand small draws takes far longer than making them.
    drawn = (network.init(k) for network, k in zip(nets, keys, strict=True))
    frozen = Frozen(*(weights.cast(params, precision.frozen) for params in drawn))
    return jax.device_put(frozen, sharding.parameter_shardings(frozen, mesh))


def _load(folder: Path, network: Network, mesh: Mesh, precision: Precision) -> Any:
    abstract = network.abstract()
    target = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, precision.frozen, sharding=where),
        abstract,
        sharding.parameter_shardings(abstract, mesh),
    )
    return weights.load(folder, target)


def plan(
    networks: Networks,
    unet_params: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    copy_add_embedding: bool,
) -> tuple[Callable[[Array], TrainState], TrainState]:
    """How the state before step 0 is made, and what it looks like.

    The ControlNet starts as a copy of the UNet's encoder; what the UNet lacks is drawn.

    Returns:
      `create(key)`, which makes the state sharded, and the same state as ShapeDtypeStructs with
      their shardings, so that a checkpoint can be read without making a state first.
    """

    def init(key, unet_params):
        unet_params = weights.cast(unet_params, jnp.float32)
        params = init_from_unet(
            networks.controlnet.init(key), unet_params, copy_add_embedding=copy_add_embedding
        )
        ema = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema)

    shapes = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), unet_params)
    shardings = sharding.parameter_shardings(shapes, mesh)
    abstract = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )
    compiled = jax.jit(init, out_shardings=shardings)
    return lambda key: compiled(key, unet_params), abstract
