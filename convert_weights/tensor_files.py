"""Opens the files of a PyTorch checkpoint: names, shapes and types at once, numbers when asked for.

A component's folder holds one file or shards with an index, in safetensors or pickled, in full
precision or as the fp16 variant. Nothing here knows what the tensors mean.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from convert_weights import pickled
from posetraj_jax import json_file
from posetraj_jax.errors import UserError, listed

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The types that weights come in, by their names in safetensors; float32 holds all of them."""
PICKLES = (".bin", ".pt", ".pth")
"""Suffixes of files that torch.save wrote; any other is taken for safetensors."""
WHOLE = "copy or download it again, whole; a git-lfs pointer is only a line of text"


class StoredTensor(NamedTuple):
    """A tensor in an open file; its numbers are read when numpy asks for them."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors calls it: F32, F16, …"""
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes in the file; 0 for types that are no weights."""
        return math.prod(self.shape) * (DTYPES[self.dtype].itemsize if self.dtype in DTYPES else 0)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


def layout(stem: str) -> tuple[str, ...]:
    """Names of files that hold, or index, a component's tensors, in the order of preference.

    Safetensors before pickles, and full precision before half.
    """
    pickle = "pytorch_model" if stem == "model" else stem
    kinds = ((stem, "safetensors"), (pickle, "bin"))
    return tuple(
        name
        for stem, suffix in kinds
        for variant in ("", ".fp16")
        for name in (f"{stem}{variant}.{suffix}", f"{stem}.{suffix}.index{variant}.json")
    )


def find(folder: Path, stem: str) -> Path | None:
    """The file that holds, or indexes, the tensors in `folder`; None if there is none."""
    return next((folder / name for name in layout(stem) if (folder / name).is_file()), None)


def open_tensors(file: Path) -> dict[str, StoredTensor]:
    """All tensors that `file` holds or indexes, memory-mapped; only headers are read.

    Raises:
        UserError: A file is missing, damaged, or not what its index says.
    """
    if file.suffix != ".json":
        return _open_file(file)
    places = json_file.read_object(file, WHOLE).get("weight_map")
    if not isinstance(places, Mapping) or not all(map(_is_beside, places.values())):
        raise _unfit(file, ["others"], "weight_map: tensors and files in the same folder")
    shards = {name: _open_file(file.with_name(name)) for name in sorted(set(places.values()))}
    found = {(tensor, name) for name, tensors in shards.items() for tensor in tensors}
    if wrong := sorted(f"{tensor} in {name}" for tensor, name in found ^ set(places.items())):
        raise _unfit(file, wrong, "the tensors of its files, each once; not on one side only")
    return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}


def _is_beside(name: object) -> bool:
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name


def _open_file(file: Path) -> dict[str, StoredTensor]:
    if not os.path.isfile(file):  # not Path.is_file, which raises where a name is no name
        raise UserError(
            f"cannot read {file}",
            expected="a file with tensors, which the index beside it names",
            got="something else" if os.path.lexists(file) else "no such file",
            fix=WHOLE,
        )
    return _open_pickle(file) if file.suffix in PICKLES else _open_safetensors(file)


def _open_safetensors(file: Path) -> dict[str, StoredTensor]:
    try:
        opened = safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"cannot read {file}",
            expected="a complete safetensors file",
            got=f"{type(error).__name__}: {error}",
            fix=WHOLE,
        ) from error
    tensors = {}
    for name in opened.keys():  # noqa: SIM118 - it is no dict
        part = opened.get_slice(name)
        shape, read = tuple(part.get_shape()), _reader(opened, name)
        tensors[name] = StoredTensor(name, shape, part.get_dtype(), read)
    return tensors


def _reader(opened: safe_open, name: str) -> Callable[[], np.ndarray]:
    return lambda: opened.get_tensor(name)


def _open_pickle(file: Path) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(name, tensor.shape, tensor.dtype, tensor.read)
        for name, tensor in pickled.load(file).items()
    }


def _unfit(path: Path, problems: Sequence[str], expected: str) -> UserError:
    return UserError(f"cannot use {path}", expected=expected, got=listed(problems), fix=WHOLE)
