"""Loads and saves the parameters of one network, always against an abstract target.

A weights folder holds one folder per component (`unet`, `vae`, `image_encoder`, `controlnet`), each
with `config.json`, as diffusers writes it, and an Orbax tree `params`. Names, shapes and types are
compared before a byte is read: merging a wrong tree would otherwise pass in silence.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from posetraj_jax import json_file, tree
from posetraj_jax.errors import UserError, listed

PARAMS, CONFIG = "params", "config.json"
HOW_TO_CONVERT = "python -m convert_weights.svd_to_flax SVD_FOLDER WEIGHTS_FOLDER"
GROUP_BYTES = 256_000_000
"""Leaves are made and written in groups of this size; two groups are in memory at a time."""

CHOSEN_BY_THE_RUN = ("temporal_context",)
"""Fields of a configuration that weights may be used with whatever they are."""

Config = TypeVar("Config")


def save(params: tree.Tree, component_config: Mapping[str, Any], folder: Path) -> None:
    """Writes one component into a new or empty folder; inside `new_folder`, for all or nothing.

    Args:
      params: leaves are arrays of this host, or have `shape`, `dtype` and an `__array__` that makes
        the numbers: it is called once, shortly before they are written.

    Raises:
      UserError: there is something in the folder already.
      OSError: the disk refuses.
    """
    folder = Path(folder).absolute()
    require_plain_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(
            f"cannot write weights to {folder}",
            expected="a new or an empty folder",
            got="one with files",
            fix="choose another folder, or remove this one",
        )
    (folder / CONFIG).write_text(json.dumps(component_config, indent=2, sort_keys=True) + "\n")
    writer = _LeafHandler()
    # In a thread of its own: an interrupt must not leave Orbax writing behind who cleans up.
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(_write, params, folder / PARAMS, writer).result()
        finally:
            writer.stopped = True


def _write(params: tree.Tree, folder: Path, writer: "_LeafHandler") -> None:
    leaves = {path: _Leaf(leaf) for path, leaf in tree.flatten(params).items()}
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler()), (_Leaf, writer)
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(folder, args=ocp.args.PyTreeSave(tree.unflatten(leaves)))
    except (ValueError, RuntimeError) as error:  # a full disk, as Orbax reports it
        writer.require_success()
        raise OSError(f"{type(error).__name__}: {error}") from error
    writer.require_success()


def require_plain_path(folder: Path) -> None:
    """Refuses a path that Orbax takes for a pattern: it would drop what it wrote, in silence.

    Raises:
      UserError: the absolute path has such characters.
    """
    folder = Path(folder).absolute()
    if found := sorted(set(str(folder)) & set("[]*?")):
        raise UserError(
            f"cannot write parameters below {folder}",
            expected="a path without [ ] * ?",
            got=" ".join(found),
            fix="choose another folder, or rename the one with these characters",
        )


def load(folder: Path, target: tree.Tree, item: str = PARAMS) -> tree.Tree:
    """Reads one component directly onto its devices.

    Args:
      folder: the component's folder, such as `WEIGHTS/unet`.
      target: ShapeDtypeStructs of the config's network, with the type and the sharding that each
        leaf shall have; the folder must hold exactly these leaves, in any floating type.
      item: which tree of the folder; a run's checkpoints have `params` and `ema`.

    Raises:
      UserError: no such folder, or leaves missing, unexpected or of another shape, all named.
    """
    folder = Path(folder).absolute()
    with _reading(folder, item):
        _require_fit(folder, target, _stored(folder / item))
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder / item, target)


def stored_types(folder: Path, abstract: tree.Tree, item: str = PARAMS) -> tree.Tree:
    """The leaves of a component as ShapeDtypeStructs, in the types they are stored in.

    Raises:
      UserError: as `load`, which this does everything of but the reading.
    """
    folder = Path(folder).absolute()
    with _reading(folder, item):
        stored = _stored(folder / item)
        _require_fit(folder, abstract, stored)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stored)


def stored_paths(folder: Path, item: str = PARAMS) -> frozenset[str]:
    """The paths of the leaves of a component.

    Raises:
      UserError: no such folder, or not readable.
    """
    folder = Path(folder).absolute()
    with _reading(folder, item):
        return frozenset(tree.flatten(_stored(folder / item)))


def load_config(folder: Path, config_cls: type[Config]) -> Config:
    """The configuration of the network whose parameters are in `folder`, from its config.json.

    Further fields of the file, by which diffusers builds its own classes, are ignored.

    Raises:
      UserError: the file cannot be read or does not describe such a network.
    """
    path = Path(folder) / CONFIG
    fix = f"make the folder again, with: {HOW_TO_CONVERT}"
    given = json_file.read_object(path, fix)
    names = [field.name for field in dataclasses.fields(config_cls)]
    try:
        return config_cls(**{name: _hashable(given[name]) for name in names})
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot use {path}",
            expected=f"a {config_cls.__name__} with {', '.join(names)}",
            got=f"{type(error).__name__}: {error}",
            fix=fix,
        ) from error


def require_config(folder: Path, config: Any) -> None:
    """Holds the config.json of `folder` against the network that its parameters will be used in.

    Equal shapes are not enough: 14 and 25 frames, or heads of another width, have the same.

    Raises:
      UserError: fields differ, all named, or the file cannot be read.
    """
    stored = dataclasses.asdict(load_config(folder, type(config)))
    problems = [
        f"{name}: {stored[name]!r}, not {value!r}"
        for name, value in dataclasses.asdict(config).items()
        if stored[name] != value and name not in CHOSEN_BY_THE_RUN
    ]
    if problems:
        raise UserError(
            f"the weights in {folder} are of another configuration",
            expected="what this model.variant says",
            got=listed(problems),
            fix="give weights of this model.variant, or change model.variant",
        )


def unsharded(abstract: tree.Tree, dtype: Any = None) -> tree.Tree:
    """The same ShapeDtypeStructs for `load`, whole on the first device.

    Args:
      dtype: of all leaves; each its own if None.
    """
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=where), abstract
    )


def in_type(abstract: tree.Tree, dtype: Any) -> tree.Tree:
    """The same ShapeDtypeStructs of another type, for `load`."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype), sharding=leaf.sharding),
        abstract,
    )


def cast(params: Any, dtype: Any) -> Any:
    """Casts every leaf of a tree, or of a tuple of trees, to a floating type."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), params)


class _Leaf:
    """A leaf of any kind, so that Orbax leaves the moment of reading it to `_LeafHandler`."""

    def __init__(self, source: Any):
        self.source, self.shape, self.dtype = source, tuple(source.shape), np.dtype(source.dtype)
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))
        self.nbytes = self.size * self.dtype.itemsize


class _LeafHandler(ocp.type_handlers.NumpyHandler):
    """Makes leaves and writes them group by group.

    Orbax would copy all of a tree's arrays before it writes the first: three times the tree's size
    in memory. While one group is written the next one is made.
    """

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)  # nobody else holds these arrays
        self.stopped = False
        """Set from outside: whatever is left to be made is not wanted any more."""
        self._failures: list[Exception] = []

    async def serialize(
        self, values: Sequence[_Leaf], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[Any]:
        args = args or [ocp.SaveArgs()] * len(values)
        writing = []
        for group in _groups(values):
            arrays = [np.asarray(leaf.source) for leaf in values[group]]
            _finish(writing)
            self.require_success()
            writing = await super().serialize(arrays, infos[group], args[group])
            del arrays
        return writing

    async def _open_and_write(self, *args: Any) -> None:
        # Orbax would leave at the first failure, while other writes go on in the background.
        try:
            await super()._open_and_write(*args)
        except Exception as error:
            self._failures.append(error)

    def require_success(self) -> None:
        """Raises an OSError if a write has failed, or nobody waits for them any more."""
        if self.stopped:
            raise InterruptedError("stopped")
        for error in self._failures:
            raise OSError(f"{type(error).__name__}: {error}") from error


def _groups(leaves: Sequence[_Leaf]) -> Iterator[slice]:
    """Consecutive leaves of about GROUP_BYTES together."""
    first = num_bytes = 0
    for end, leaf in enumerate(leaves, start=1):
        num_bytes += leaf.nbytes
        if num_bytes >= GROUP_BYTES or end == len(leaves):
            yield slice(first, end)
            first, num_bytes = end, 0


def _finish(writing: Sequence[Any]) -> None:
    for future in writing:
        future.result()


@contextmanager
def _reading(folder: Path, item: str) -> Iterator[None]:
    """Turns what Orbax says about a tree that it cannot read into a UserError."""
    if not (folder / item).is_dir():
        raise UserError(
            f"no weights in {folder}",
            expected=f"a folder with {item}/",
            got="nothing" if not folder.exists() else "other files",
            fix=f"make them with: {HOW_TO_CONVERT}",
        )
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # TensorStore raises this very class for a damaged file
        raise UserError(
            f"cannot read the weights in {folder}",
            expected=f"a complete Orbax tree in {item}/",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            fix=f"copy the folder again, or make it with: {HOW_TO_CONVERT}",
        ) from error


def _stored(path: Path) -> tree.Tree:
    # Not through a Checkpointer, which warns that a part of a checkpoint is no whole one.
    return ocp.StandardCheckpointHandler().metadata(path).tree


def _require_fit(folder: Path, target: tree.Tree, stored: tree.Tree) -> None:
    problems = tree.differences(target, stored, dtypes=False)
    if problems:
        raise UserError(
            f"the weights in {folder} do not fit the config's network",
            expected=f"the {len(tree.flatten(target))} leaves of this configuration",
            got=listed(problems),
            fix="give weights of this model.variant, or change model.variant",
        )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
