"""A model of the narrowest networks, for tests."""

import functools

import jax
import jax.numpy as jnp

from posetraj_jax import config, sharding
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.models.networks import ModelOptions, Parameters, build_networks
from posetraj_jax.published import ImageStatistics, SigmaRange
from posetraj_jax.sampling import TINY, Model
from posetraj_jax.tree import flatten, unflatten
from tests.meshes import mesh_of


@functools.cache
def micro_model(devices: int = 1) -> Model:
    """Random networks whose ControlNet does something: its zero convolutions are redrawn."""
    networks = build_networks(ModelOptions("micro", (1,) * 4))
    keys = jax.random.split(jax.random.key(0), 4)
    drawn = [network.init(key) for network, key in zip(networks, keys, strict=True)]
    parameters = Parameters(*drawn)._replace(controlnet=_awake(drawn[1]))
    mesh = mesh_of(-1, 1, devices=jax.devices()[:devices])
    placed = jax.device_put(parameters, sharding.parameter_shardings(parameters, mesh))
    options = ConditioningOptions(
        **config.default().conditioning, image_statistics=ImageStatistics()
    )
    said = {"weights": TINY, "controlnet": ""}
    return Model(networks, placed, mesh, options, SigmaRange(), said)


def _awake(controlnet):
    """Zeros become small numbers."""
    key = jax.random.key(1)
    flat = {
        path: leaf if jnp.any(leaf) else 0.05 * jax.random.normal(key, leaf.shape)
        for path, leaf in flatten(controlnet).items()
    }
    return unflatten(flat)
