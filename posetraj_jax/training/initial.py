"""Where parameters come from before step 0: published weights, the UNet, an earlier stage."""

import re
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from posetraj_jax import fingerprint, sharding, tree, weights
from posetraj_jax.data import latents
from posetraj_jax.data.pipeline import DataOptions
from posetraj_jax.errors import UserError
from posetraj_jax.models import adapter
from posetraj_jax.models.controlnet import init_from_unet
from posetraj_jax.models.networks import Networks, Parameters
from posetraj_jax.training.optimizer import split
from posetraj_jax.training.origin import InitialOptions, Origin

NEW_IN_A_STAGE = r"^controlnet_cond_embedding\.(cc_projection|camera_embedding)\."
"""Parameters that an earlier stage may lack; they start as their network says."""


def without_cached(frozen: Parameters, data: DataOptions, dtype: Any) -> Parameters:
    """What is still needed of the frozen networks if a run reads latents: not the image encoder.

    Args:
      dtype: that the encoders compute in.

    Raises:
      UserError: the latents come from other encoders.
    """
    if not data.latents:
        return frozen
    digest = fingerprint.of_encoders(frozen, dtype)
    latents.require_settings(data.latents, latents.fingerprint(data.encoding, digest))
    return frozen._replace(image_encoder={})


def abstract_params(networks: Networks, options: InitialOptions) -> Any:
    """What trains, as ShapeDtypeStructs."""
    whole = getattr(networks, options.trained).abstract()
    if options.rank:
        return adapter.abstract(whole, options.rank)
    return split(whole, options.trainable)[0]


def abstract_base(
    networks: Networks, mesh: Mesh, options: InitialOptions, dtype: Any, placement: str
) -> Any:
    """What an adapter stands beside, as ShapeDtypeStructs with shardings; {} without one."""
    if not options.rank:
        return {}
    _, base = adapter.split(networks.controlnet.abstract())
    return weights.in_type(sharding.sharded(base, mesh, placement), dtype)


def without_trained(frozen: Parameters, base: Any, options: InitialOptions) -> Parameters:
    """The frozen parameters alone: without the part of a ready network that trains.

    Args:
      frozen: the networks that come ready, whole.
      base: what an adapter of the ControlNet stands beside, {} without one.
    """
    if options.trained == "controlnet":
        return frozen._replace(controlnet=base)
    rest = split(getattr(frozen, options.trained), options.trainable)[1]
    return frozen._replace(**{options.trained: rest})


def initial_params(
    networks: Networks,
    frozen: Parameters,
    origin: Origin | None,
    mesh: Mesh,
    key: Array,
    options: InitialOptions,
    base: Any,
) -> tuple[Any, Any]:
    """What trains, before step 0, sharded, float32; prints what `origin` does not have.

    The ControlNet starts as a copy of the UNet's encoder, and what the UNet lacks is drawn; the
    UNet starts as published. `origin`, an earlier run, replaces either. An adapter's factors start
    with a product of zero.

    Args:
      base: as `abstract_base` gives it.

    Returns:
      What trains, and what `base` describes.

    Raises:
      UserError: `origin` lacks parameters that no stage adds, or has more.
    """
    trains = sharding.sharded(abstract_params(networks, options), mesh)
    if not options.rank:
        return _start(networks, frozen, origin, trains, key, options), {}
    own, factors = adapter.split(trains)
    started = _start(networks, frozen, origin, tree.merged(own, base), key, options)
    own, base = adapter.split(started)
    drawn = adapter.draw_factors(factors, jax.random.fold_in(key, 1))
    drawn = jax.device_put(drawn, sharding.parameter_shardings(drawn, mesh))
    return tree.merged(own, drawn), base


def _start(
    networks: Networks,
    frozen: Parameters,
    origin: Origin | None,
    wanted: Any,
    key: Array,
    options: InitialOptions,
) -> Any:
    """The leaves of `wanted` from where they come from."""
    if origin is None:
        return _fresh(networks, frozen, wanted, key, options)
    stored, new = _in_and_not_in(origin, wanted)
    loaded = origin.saved.load(stored)
    print(f"starts from {origin.saved.folder} ({origin.saved.item})")
    if not new:
        return loaded
    print(f"not in there, so newly initialised: {', '.join(tree.flatten(new))}")
    return tree.merged(loaded, _fresh(networks, frozen, new, key, options))


def require_one_host(options: InitialOptions) -> None:
    """Refuses an adapter on several hosts; what it stands beside is written by one process."""
    if options.rank and jax.process_count() > 1:
        raise UserError(
            "an adapter trains on one host only",
            expected="one process, or adapter.rank = 0",
            got=f"{jax.process_count()} processes, adapter.rank = {options.rank}",
            fix="set --config.adapter.rank=0: several hosts hold the whole ControlNet",
        )


def require_fit(origin: Origin | None, networks: Networks, options: InitialOptions) -> None:
    """Refuses an `origin` that `initial_params` could not read; no number is read.

    Raises:
      UserError: as there.
    """
    if origin is not None:
        whole = getattr(networks, options.trained).abstract()
        target, _ = _in_and_not_in(origin, split(whole, options.trainable)[0])
        origin.saved.types(target)


def _in_and_not_in(origin: Origin, abstract: Any) -> tuple[Any, Any]:
    """The leaves that `origin` must have, and those that a stage adds to it."""
    stored = origin.saved.paths()
    old, new = {}, {}
    for path, leaf in tree.flatten(abstract).items():
        added = path not in stored and re.search(NEW_IN_A_STAGE, path)
        (new if added else old)[path] = leaf
    return tree.unflatten(old), tree.unflatten(new)


def _fresh(
    networks: Networks, frozen: Parameters, wanted: Any, key: Array, options: InitialOptions
) -> Any:
    """The leaves of `wanted`, sharded and typed as it says; no others are drawn."""
    if options.trained == "unet":
        return split(frozen.unet, options.trainable)[0]

    def make(key, unet):
        drawn = networks.controlnet.init(key)
        whole = init_from_unet(drawn, unet, copy_add_embedding=options.copy_add_embedding)
        flat = tree.flatten(whole)
        leaves = tree.flatten(wanted).items()
        return tree.unflatten({path: flat[path].astype(leaf.dtype) for path, leaf in leaves})

    shardings = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    return jax.jit(make, out_shardings=shardings)(key, frozen.unet)
