"""The device mesh and where every array lives on it. Modules carry no sharding annotations.

Two axes: `data` splits only the batch, `fsdp` splits the batch and the parameters. "pjit" of older
JAX is `jax.jit` with these NamedShardings.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from posetraj_jax.errors import UserError
from posetraj_jax.tree import first_match

BATCH_AXES = ("data", "fsdp")

PARAMETER_TABLE: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # Path pattern → axes of the LAST dimensions; the first matching row holds.
    (r"(^|\.)kernel$", ("fsdp",)),  # output features of every linear layer and convolution
    (r"(^|\.)(position_embedding|class_embedding|mix_factor|bias|scale|embedding)$", ()),
    (r"(^|\.)(step|count|mu|nu|mini_step|gradient_step)$", ()),  # scalars of the optimizer
)


def make_mesh(data: int, fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh; `data = -1` takes all devices that `fsdp` leaves.

    Raises:
      UserError: the numbers do not multiply to the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    if data == -1:
        data = max(len(devices) // fsdp, 1)
    if data * fsdp != len(devices):
        raise UserError(
            "the mesh does not fit the devices",
            expected=f"mesh.data x mesh.fsdp = {len(devices)} devices",
            got=f"{data} x {fsdp} = {data * fsdp}",
            fix="set --config.mesh.fsdp to a divisor of the number of devices, mesh.data to -1",
        )
    # Auto on purpose: the default (Explicit) makes the temporal reshapes and gathers raise.
    return jax.make_mesh((data, fsdp), BATCH_AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Refuses a batch that does not divide over the mesh; raises UserError with both numbers."""
    shards = batch_shards(mesh)
    if batch_size % shards:
        raise UserError(
            "the batch does not divide over the devices",
            expected=f"batch_size a multiple of {shards} (mesh {dict(mesh.shape)})",
            got=f"batch_size = {batch_size}",
            fix=f"set --config.batch_size={-(-batch_size // shards) * shards}",
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, P(BATCH_AXES))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Moves this host's part of a batch to its devices, split along the first axis."""
    placement = batch_sharding(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(placement, np.asarray(leaf)), batch
    )


def parameter_shardings(tree: Any, mesh: Mesh) -> Any:
    """A tree of NamedShardings for parameters, or anything whose paths end like theirs.

    Args:
      tree: parameters, moments or a whole training state (arrays or ShapeDtypeStructs).

    Raises:
      LookupError: a leaf that no row of the table covers.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(path_of(path), leaf.shape, mesh)), tree
    )


def sharded(abstract: Any, mesh: Mesh) -> Any:
    """The same ShapeDtypeStructs with the shardings of the path table."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        abstract,
        parameter_shardings(abstract, mesh),
    )


def path_of(path: tuple[Any, ...]) -> str:
    """A key path of jax.tree_util as dotted names."""
    names = (getattr(p, "key", getattr(p, "name", getattr(p, "idx", p))) for p in path)
    return ".".join(str(name) for name in names)


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    axes = first_match(PARAMETER_TABLE, path)
    if not axes or not shape:
        return P()
    spec = [None] * (len(shape) - len(axes)) + list(axes)
    # An axis too narrow to split evenly (RGB, four latent channels) stays whole.
    fits = [axis and size % mesh.shape[axis] == 0 for axis, size in zip(spec, shape, strict=True)]
    return P(*(axis if fit else None for axis, fit in zip(spec, fits, strict=True)))
