"""The device mesh and where every array lives on it. Modules carry no sharding annotations.

Three axes: `data` splits only the batch, `fsdp` splits the batch and the parameters, `context`
splits a clip, by its frames or, where they do not divide, by its rows. "pjit" of older JAX is
`jax.jit` with these NamedShardings.
"""

import bisect
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from posetraj_jax.errors import UserError
from posetraj_jax.tree import first_match

DATA, FSDP, CONTEXT = "data", "fsdp", "context"
AXES = (DATA, FSDP, CONTEXT)
BATCH_AXES = (DATA, FSDP)

PARAMETER_TABLE: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # Path pattern → axes of the LAST dimensions; the first matching row holds.
    # Output features of every linear layer and convolution; columns of an adapter's factors.
    (r"(^|\.)(kernel|down|up)$", (FSDP,)),
    (r"(^|\.)(position_embedding|class_embedding|mix_factor|bias|scale|embedding)$", ()),
    (r"(^|\.)(step|count|mu|nu|mini_step|gradient_step)$", ()),  # scalars of the optimizer
)

MAX_FSDP = 16
"""Devices that `mesh.fsdp = 0` shares parameters over at most: XLA turns gathers of parts with
fewer rows than a TPU's tile into sums over all devices, at twice the bytes."""

WITHOUT_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""How a CPU's program is compiled: gradients of large convolutions take this library up to three
times as long as XLA's own code (`python -m benchmarks.cpu_convolutions`). The order in which that
code sums depends on the number of threads: results are bitwise the same where it is."""


@dataclass(frozen=True)
class MeshOptions:
    """The section `mesh` of the config; see there."""

    data: int = -1
    fsdp: int = 1
    context: int = 1
    slices: int = 1
    frozen: str = "sharded"

    def over(self, count: int) -> "MeshOptions":
        """The same with `data` and `fsdp` resolved for this number of devices.

        Raises:
          UserError: the numbers do not multiply to it.
        """
        # Parameters are shared within a slice only.
        shared = max(count // self.context // self.slices, 1)
        if self.data > 0:
            shared = max(shared * self.slices // self.data, 1)
        fsdp = self.fsdp or next(n for n in range(MAX_FSDP, 0, -1) if shared % n == 0)
        rest = fsdp * self.context
        data = max(count // rest, 1) if self.data == -1 else self.data
        if data * rest != count or data % self.slices:
            of_slices = f", mesh.data a multiple of mesh.slices = {self.slices}"
            raise UserError(
                "the mesh does not fit the devices",
                expected=f"mesh.data x mesh.fsdp x mesh.context = {count} devices"
                + (of_slices if self.slices > 1 else ""),
                got=f"{data} x {fsdp} x {self.context} = {data * rest}",
                fix="set --config.mesh.fsdp and mesh.context to divisors of the number of devices, "
                "mesh.data to -1",
            )
        return MeshOptions(data, fsdp, self.context, self.slices, self.frozen)


def make_mesh(options: MeshOptions, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh; neighbours on an axis are neighbours in the machine.

    Several TPU slices are joined along `data` only, whose one message per step may take the slow
    network between them.

    Raises:
      UserError: the numbers do not multiply to the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    o = options.over(len(devices))
    # Auto on purpose: the default (Explicit) makes the temporal reshapes and gathers raise.
    types = (AxisType.Auto,) * len(AXES)
    if o.slices == 1:
        shape = (o.data, o.fsdp, o.context)
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    within, between = (o.data // o.slices, o.fsdp, o.context), (o.slices, 1, 1)
    grid = mesh_utils.create_hybrid_device_mesh(
        within,
        between,
        devices,
        # Where devices know no slice, as on GPU and CPU, each process counts as one.
        process_is_granule=not hasattr(devices[0], "slice_index"),
    )
    return Mesh(grid, AXES, axis_types=types)


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


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


def jit(function: Callable[..., Any], mesh: Mesh, **options: Any) -> Any:
    """`jax.jit` of a function that knows the mesh it runs on, as `constrain` and `use_whole` need.

    At least one argument must lie on the mesh: from numpy arrays alone JAX makes a program for one
    device.
    """

    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    is_cpu = mesh.devices.flat[0].platform == "cpu"
    of_xla = WITHOUT_YNNPACK if is_cpu and _can_omit_ynnpack() else None
    return jax.jit(traced, compiler_options=of_xla, **options)


@functools.cache
def _can_omit_ynnpack() -> bool:
    """Whether this version of XLA knows the option: such experimental ones may go."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        try:
            jax.jit(lambda: 0, compiler_options=WITHOUT_YNNPACK).lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
    return True


def current_mesh() -> AbstractMesh | None:
    """The mesh of what is traced now, if it has more than one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def constrain(x: Float[Array, "b f n *rest"]) -> Float[Array, "b f n *rest"]:
    """Says where activations live: clips over the batch axes, each split by frames or by rows.

    `n` is rows or tokens. A clip whose frames and rows both do not divide by `context` stays whole.
    Outside of a mesh this does nothing.
    """
    mesh = current_mesh()
    return x if mesh is None else _placed(x, video_spec(x.shape))


def constrain_positions(x: Float[Array, "b f n *rest"]) -> Float[Array, "b f n *rest"]:
    """The same for what needs all frames of a position: split by positions."""
    mesh = current_mesh()
    if mesh is None or mesh.shape[CONTEXT] == 1:
        return x
    return _placed(x, position_spec(x.shape))


def position_spec(shape: tuple[int, ...]) -> P:
    """Where arrays [b f n ...] live that `constrain_positions` has placed."""
    mesh = current_mesh()
    by_positions = CONTEXT if _divides(shape[2], mesh) else None
    return P(_batch_axes(shape[0], mesh), None, by_positions)


def attention_specs(shape: tuple[int, ...]) -> tuple[P, P]:
    """Where queries [b f n ...] of attention within frames live, and where keys and values do.

    Clips that are split by rows are split by queries here, and every device has all keys.
    """
    of_queries = video_spec(shape)
    return of_queries, P(*of_queries[:2])


def video_spec(shape: tuple[int, ...]) -> P:
    """Where arrays [b f n ...] live that `constrain` has placed."""
    mesh = current_mesh()
    by_frames = _divides(shape[1], mesh)
    by_rows = not by_frames and _divides(shape[2], mesh)
    axes = _batch_axes(shape[0], mesh)
    return P(axes, CONTEXT if by_frames else None, CONTEXT if by_rows else None)


def _divides(size: int, mesh: AbstractMesh) -> bool:
    """Whether `context` splits an axis into parts of more than one entry.

    XLA's partitioner doubles gradients of convolutions along parts of a single one.
    """
    parts = mesh.shape[CONTEXT]
    return size % parts == 0 and size > parts


def _batch_axes(clips: int, mesh: AbstractMesh) -> tuple[str, ...] | None:
    """None for clips that do not divide, as when a single one is sampled: all devices make it."""
    return BATCH_AXES if clips % batch_shards(mesh) == 0 else None


def _placed(x: Array, spec: P) -> Array:
    return jax.lax.with_sharding_constraint(x, spec)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, P(BATCH_AXES))


class HostRows(NamedTuple):
    """The part of a batch that the devices of one process need."""

    rows: tuple[int, ...]
    """Rising; two processes whose devices share clips have the same."""
    batch_size: int
    """Of all processes together."""


def rows_of_host(batch_size: int, mesh: Mesh) -> HostRows:
    """Which clips of a batch this process must read."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    rows = {row for (part,) in indices.values() for row in range(batch_size)[part]}
    return HostRows(tuple(sorted(rows)), batch_size)


def put_batch(batch: Any, mesh: Mesh, held: HostRows | None = None) -> Any:
    """Moves a batch to its devices, split along the first axis.

    Args:
      batch: numpy arrays, or None in their place.
      held: which part of it `batch` is; None: the whole of it, the same in every process.
    """
    placement = batch_sharding(mesh)

    def put(leaf: np.ndarray) -> Array:
        rows, total = held or HostRows(tuple(range(len(leaf))), len(leaf))

        def part(index: tuple[slice, ...]) -> np.ndarray:
            wanted = range(total)[index[0]]
            first = bisect.bisect_left(rows, wanted.start)  # the rows of a device lie together
            return leaf[first : first + len(wanted)]

        return jax.make_array_from_callback((total, *leaf.shape[1:]), placement, part)

    return jax.tree.map(lambda leaf: put(np.asarray(leaf)), batch)


def put_whole(tree: Any, shardings: Any) -> Any:
    """Moves arrays that every process has whole, and equal, to where `shardings` says."""

    def put(leaf: Any, where: NamedSharding) -> Array:
        numbers = np.asarray(leaf)
        return jax.make_array_from_callback(numbers.shape, where, lambda index: numbers[index])

    return jax.tree.map(put, tree, shardings)


def parameter_shardings(tree: Any, mesh: Mesh, placement: str = "sharded") -> Any:
    """A tree of NamedShardings for parameters, or anything whose paths end like theirs.

    Args:
      tree: parameters, moments or a whole training state (arrays or ShapeDtypeStructs).
      placement: "sharded" as the table says, or "replicated": every device holds everything.

    Raises:
      LookupError: a leaf that no row of the table covers.
    """
    if placement == "replicated":
        return jax.tree.map(lambda leaf: replicated(mesh), tree)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, parameter_spec(path_of(path), leaf.shape, mesh)),
        tree,
    )


def sharded(abstract: Any, mesh: Mesh, placement: str = "sharded") -> Any:
    """The same ShapeDtypeStructs with the shardings of the path table, or all "replicated"."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        abstract,
        parameter_shardings(abstract, mesh, placement),
    )


def everywhere(abstract: Any, like: Any) -> Any:
    """The same ShapeDtypeStructs, whole on every device that the leaves of `like` lie on."""
    where = jax.tree.leaves(like)[0].sharding
    where = replicated(where.mesh) if isinstance(where, NamedSharding) else where
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), abstract
    )


def path_of(path: tuple[Any, ...]) -> str:
    """A key path of jax.tree_util as dotted names."""
    names = (getattr(p, "key", getattr(p, "name", getattr(p, "idx", p))) for p in path)
    return ".".join(str(name) for name in names)


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
    """Where one leaf of this path and shape lives."""
    axes = first_match(PARAMETER_TABLE, path)
    if not axes or not shape:
        return P()
    spec = [None] * (len(shape) - len(axes)) + list(axes)
    # An axis too narrow to split evenly (RGB, four latent channels) stays whole.
    fits = [axis and size % mesh.shape[axis] == 0 for axis, size in zip(spec, shape, strict=True)]
    return P(*(axis if fit else None for axis, fit in zip(spec, fits, strict=True)))
