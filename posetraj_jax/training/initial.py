"""Where parameters come from before step 0: published weights, the UNet, an earlier stage."""

import re
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from posetraj_jax import sharding, tree, weights
from posetraj_jax.models.controlnet import init_from_unet
from posetraj_jax.models.networks import Networks, Parameters
from posetraj_jax.training.optimizer import split
from posetraj_jax.training.origin import InitialOptions, Origin

READY = ("unet", "vae", "image_encoder")
"""The networks that are published: the ControlNet is copied from them."""
NEW_IN_A_STAGE = r"^controlnet_cond_embedding\.(cc_projection|camera_embedding)\."
"""Parameters that an earlier stage may lack; they start as their network says."""


def frozen_parameters(networks: Networks, mesh: Mesh, folder: str, key: Array) -> Parameters:
    """The networks that come ready, sharded, in float32; no ControlNet.

    Args:
      folder: of converted weights; empty draws them at random, which only small variants may.
      key: of the random weights.

    Raises:
      UserError: weights are missing, or of other networks.
    """
    nets = [getattr(networks, name) for name in READY]
    if folder:
        folders = [Path(folder).expanduser() / name for name in READY]
        for component, network in zip(folders, nets, strict=True):
            weights.require_config(component, network.config)
        targets = [sharding.sharded(network.abstract(), mesh) for network in nets]
        trees = dict(zip(READY, map(weights.load, folders, targets), strict=True))
    else:
        keys = jax.random.split(key, len(nets))
        # Not under jit: compiling a thousand small draws takes far longer than making them.
        drawn = {name: net.init(k) for name, net, k in zip(READY, nets, keys, strict=True)}
        trees = jax.device_put(drawn, sharding.parameter_shardings(drawn, mesh))
    return Parameters(**trees, controlnet={})


def abstract_params(networks: Networks, options: InitialOptions) -> Any:
    """What trains, as ShapeDtypeStructs."""
    return split(getattr(networks, options.trained).abstract(), options.trainable)[0]


def without_trained(frozen: Parameters, options: InitialOptions) -> Parameters:
    """The frozen parameters alone, where a part of a ready network trains."""
    rest = split(getattr(frozen, options.trained), options.trainable)[1]
    return frozen._replace(**{options.trained: rest})


def initial_params(
    networks: Networks,
    frozen: Parameters,
    origin: Origin | None,
    mesh: Mesh,
    key: Array,
    options: InitialOptions,
) -> Any:
    """What trains, before step 0, sharded, float32; prints what `origin` does not have.

    The ControlNet starts as a copy of the UNet's encoder, and what the UNet lacks is drawn; the
    UNet starts as published. `origin`, an earlier run, replaces either.

    Raises:
      UserError: `origin` lacks parameters that no stage adds, or has more.
    """
    abstract = sharding.sharded(abstract_params(networks, options), mesh)
    if origin is None:
        return _fresh(networks, frozen, abstract, key, options)
    flat, stored = tree.flatten(abstract), weights.stored_paths(origin.folder, origin.item)
    new = [path for path in flat if path not in stored and re.search(NEW_IN_A_STAGE, path)]
    target = tree.unflatten({path: leaf for path, leaf in flat.items() if path not in new})
    loaded = weights.load(origin.folder, target, origin.item)
    print(f"starts from {origin.folder} ({origin.item})")
    if not new:
        return loaded
    print(f"not in there, so newly initialised: {', '.join(new)}")
    fresh = tree.flatten(_fresh(networks, frozen, abstract, key, options))
    return tree.merged(loaded, tree.unflatten({path: fresh[path] for path in new}))


def _fresh(
    networks: Networks, frozen: Parameters, abstract: Any, key: Array, options: InitialOptions
) -> Any:
    if options.trained == "unet":
        return split(frozen.unet, options.trainable)[0]

    def make(key, unet):
        drawn = networks.controlnet.init(key)
        return init_from_unet(drawn, unet, copy_add_embedding=options.copy_add_embedding)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(make, out_shardings=shardings)(key, frozen.unet)
