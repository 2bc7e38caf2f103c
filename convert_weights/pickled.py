"""Reads state dicts that torch.save wrote, without trusting them. Needs PyTorch, imported late.

A pickle is a program. Before PyTorch's restricted loader sees it, its instructions are listed and
held against the few that a state dict of plain tensors consists of: PyTorch's own list also lets
a pickle ask for as much memory as it likes.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from posetraj_jax.errors import UserError, listed

TENSOR_PARTS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *(f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Long")),
    }
)
"""All that the pickle of a state dict names."""
INDIRECT = frozenset({"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
"""Instructions that name things in ways torch.save does not use."""
MOST_PICKLE_BYTES = 64_000_000
"""Of the instructions alone; the numbers lie beside them. 2 000 tensors take 300 kilobytes."""
UNREADABLE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError),
    *(OSError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError),
)
"""What reading a damaged file can end with."""
DTYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class PickledTensor(NamedTuple):
    """A tensor whose numbers stay in the memory-mapped file until they are read."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors calls it; PyTorch's own name for types that are no weights."""
    read: Callable[[], np.ndarray]


def load(file: Path) -> dict[str, PickledTensor]:
    """The tensors of a state dict, by name.

    Raises:
        UserError: PyTorch is not installed; the file is damaged, older than PyTorch 1.6, or holds
            anything but tensors. Nothing in it is ever executed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"cannot read {file}",
            expected="PyTorch, which alone reads pickled tensors",
            got=str(error),
            fix="pip install torch, or give safetensors files instead",
        ) from error
    try:
        _require_only_tensors(file)
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
        others = [str(n) for n, t in content.items() if not isinstance(t, torch.Tensor)]
        if others or not all(isinstance(name, str) for name in content):
            raise ValueError("not only tensors by name:" + listed(others))
    except UNREADABLE as error:
        raise _unfit(file, f"{type(error).__name__}: {error}") from error
    return {name: _describe(tensor) for name, tensor in content.items()}


def _require_only_tensors(file: Path) -> None:
    """Raises ValueError or OSError unless `file` is a zip of a harmless pickle and raw numbers."""
    if not zipfile.is_zipfile(file):
        raise ValueError("no zip file, as PyTorch writes since version 1.6; or a truncated one")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError("compressed entries:" + listed(packed))
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE_BYTES:
            raise ValueError(f"not one data.pkl of at most {MOST_PICKLE_BYTES:,} bytes")
        program = archive.read(pickles[0])
    named = [f"{arg}" for op, arg, _ in pickletools.genops(program) if op.name == "GLOBAL"]
    indirect = [op.name for op, _, _ in pickletools.genops(program) if op.name in INDIRECT]
    if wrong := sorted({name for name in named if name not in TENSOR_PARTS} | set(indirect)):
        raise ValueError(
            "the pickle asks for more than tensors (nothing was executed):"
            + listed([name.replace(" ", ".") for name in wrong])
        )


def _describe(tensor: Any) -> PickledTensor:
    name = str(tensor.dtype).removeprefix("torch.")
    return PickledTensor(tuple(tensor.shape), DTYPE_NAMES.get(name, name), lambda: _numbers(tensor))


def _numbers(tensor: Any) -> np.ndarray:
    if str(tensor.dtype) == "torch.bfloat16":  # numpy has no such type: the bits, renamed
        import torch

        return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _unfit(file: Path, got: str) -> UserError:
    return UserError(
        f"cannot read {file}",
        expected="a state dict as torch.save writes it: tensors and nothing else",
        got=got,
        fix="download the safetensors files instead, or save the model again with diffusers: "
        "save_pretrained(FOLDER, safe_serialization=True)",
    )
