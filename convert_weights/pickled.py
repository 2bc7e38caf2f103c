"""Reads state dicts that torch.save wrote, without PyTorch and without running anything.

A pickle is a program. Only the few instructions that describe a dict of tensors are followed, by
the table below; what the program names is compared, never imported or called. PyTorch's own
restricted loader is no way out: a few hundred bytes make it fill any memory with an error message.
"""

import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np

from posetraj_jax.errors import UserError, listed

Kind = TypeVar("Kind")

TYPES = {
    "torch DoubleStorage": ("F64", np.dtype(np.float64)),
    "torch FloatStorage": ("F32", np.dtype(np.float32)),
    "torch HalfStorage": ("F16", np.dtype(np.float16)),
    "torch BFloat16Storage": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "torch LongStorage": ("I64", np.dtype(np.int64)),
    "torch IntStorage": ("I32", np.dtype(np.int32)),
    "torch CharStorage": ("I8", np.dtype(np.int8)),
    "torch ByteStorage": ("U8", np.dtype(np.uint8)),
}
"""What PyTorch, safetensors and numpy call the types of tensors."""
DICT, TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
NAMES = frozenset({DICT, TENSOR, PARAMETER, *TYPES})
"""All that the pickle of a state dict names."""
MOST_PICKLE_BYTES = 4_000_000
"""Of the instructions alone; the numbers lie beside them. 2 000 tensors take 300 kilobytes."""
UNREADABLE = (
    *(ValueError, IndexError, KeyError, struct.error),
    *(OSError, EOFError, RuntimeError, zipfile.BadZipFile),
)
"""What reading a damaged file can end with."""
PUSHED: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), lambda number: number),
    "BINUNICODE": str,
    "GLOBAL": lambda name: _Name(name),
}
"""Instructions that put something on the stack, and what, by their argument."""
POPPED = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}
POPPED |= {"BINPERSID": 1, "REDUCE": 2, "BUILD": 1}
"""Instructions that take so many things from the stack."""
POPPED_TO_MARK = frozenset({"TUPLE", "APPENDS", "SETITEMS"})
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of an entry in a zip file: the signature, and how long its name and its extra field are."""


class PickledTensor(NamedTuple):
    """A tensor whose numbers stay in the file until they are read."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors calls it."""
    read: Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class _Name:
    name: str


@dataclass(frozen=True, eq=False)
class _Storage:
    file: Path
    start: int
    """First byte in the file."""
    size: int
    """Numbers, not bytes."""
    dtype: str
    numpy_dtype: np.dtype


def load(file: Path) -> dict[str, PickledTensor]:
    """The tensors of a state dict, by name; none is read.

    Raises:
        UserError: The file is damaged, older than PyTorch 1.6, or holds anything but tensors.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            program, root = _read_program(archive)
            open_storage = partial(_open_storage, file, entries, root)
            content = _follow(program, open_storage)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, no dict")
        if others := [f"{n}" for n, t in content.items() if not isinstance(t, PickledTensor)]:
            raise ValueError("not only tensors:" + listed(others))
    except UNREADABLE as error:
        raise UserError(
            f"cannot read {file}",
            expected="a state dict as torch.save writes it: tensors by name and nothing else",
            got=f"{type(error).__name__}: {error}",
            fix="download the safetensors files instead, or save the model again with diffusers: "
            "save_pretrained(FOLDER, safe_serialization=True)",
        ) from error
    return content


def _read_program(archive: zipfile.ZipFile) -> tuple[bytes, str]:
    """The pickle, and the folder in the archive where it and the numbers are."""
    entries = archive.infolist()
    if packed := [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]:
        raise ValueError("compressed entries:" + listed(packed))
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE_BYTES:
        raise ValueError(f"not one data.pkl of at most {MOST_PICKLE_BYTES:,} bytes")
    root = pickles[0].filename.removesuffix("data.pkl")
    if (order := f"{root}byteorder") in archive.namelist():
        with archive.open(order) as opened:
            if opened.read(8) != b"little":
                raise ValueError("numbers in another byte order")
    program = archive.read(pickles[0])
    named = {name for op, name, _ in pickletools.genops(program) if op.name == "GLOBAL"}
    if wrong := sorted(named - NAMES):
        raise ValueError(
            "the pickle names more than tensors (nothing was executed):"
            + listed([name.replace(" ", ".") for name in wrong])
        )
    return program, root


def _follow(program: bytes, open_storage: Callable[[Any], _Storage]) -> Any:
    """What the program makes of dicts, lists, tuples, constants and tensors."""
    below: list[list[Any]] = []
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    items: list[Any] = []
    for instruction, argument, _ in pickletools.genops(program):
        name = instruction.name
        if name in POPPED_TO_MARK:
            items, stack = stack, below.pop()
        elif name in POPPED:
            items = [stack.pop() for _ in range(POPPED[name])][::-1]
        if name in PUSHED:
            stack.append(PUSHED[name](argument))
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name.startswith("TUPLE"):
            stack.append(tuple(items))
        elif name.startswith("APPEND"):
            _require(stack[-1], list).extend(items)
        elif name.startswith("SETITEM"):
            names = [_require(key, str) for key in items[::2]]
            _require(stack[-1], dict).update(zip(names, items[1::2], strict=True))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "BINPERSID":
            stack.append(open_storage(items[0]))
        elif name == "REDUCE":
            stack.append(_make(_require(items[0], _Name).name, _require(items[1], tuple)))
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "BUILD"):  # BUILD: notes of a dict, such as _metadata
            raise ValueError(f"{name}, which no dict of tensors needs")
    raise ValueError("no end")


def _make(name: str, arguments: tuple[Any, ...]) -> Any:
    """What calling `name` would make; the number of arguments is a part of the format."""
    if name == DICT and not arguments:
        return {}
    if name == PARAMETER and len(arguments) == 3:
        return _require(arguments[0], PickledTensor)
    if name == TENSOR and len(arguments) == 6:
        return _make_tensor(*arguments[:4])
    raise ValueError(f"{name.replace(' ', '.')} of {len(arguments)} arguments")


def _make_tensor(storage: Any, start: Any, shape: Any, strides: Any) -> PickledTensor:
    numbers = (start, *_require(shape, tuple), *_require(strides, tuple))
    if any(type(n) is not int or n < 0 for n in numbers) or len(shape) != len(strides):
        raise ValueError("a tensor without a sensible shape")
    last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    count = last + 1 if all(shape) else 0
    if start + count > _require(storage, _Storage).size:
        raise ValueError("a tensor beyond its storage")
    return PickledTensor(
        shape, storage.dtype, partial(_read, storage, start, count, shape, strides)
    )


def _open_storage(
    file: Path, entries: Mapping[str, zipfile.ZipInfo], root: str, described: Any
) -> _Storage:
    """Finds the numbers of a storage in the file.

    Args:
        described: ("storage", type, name of its entry, device, count).
    """
    kind, named, key, _, count = _require(described, tuple)
    dtype, numpy_dtype = TYPES[_require(named, _Name).name]
    if kind != "storage" or type(count) is not int:
        raise ValueError("something else than a storage")
    entry = entries[f"{root}data/{_require(key, str)}"]
    if not 0 <= count * numpy_dtype.itemsize <= entry.file_size:
        raise ValueError(f"{entry.filename} has too few bytes")
    with file.open("rb") as opened:
        opened.seek(entry.header_offset)
        signature, *lengths = LOCAL_HEADER.unpack(opened.read(LOCAL_HEADER.size))
    start = entry.header_offset + LOCAL_HEADER.size + sum(lengths)
    if signature != b"PK\3\4" or start + entry.file_size > file.stat().st_size:
        raise ValueError(f"{entry.filename} is not where it should be")
    return _Storage(file, start, count, dtype, numpy_dtype)


def _read(storage: _Storage, start: int, count: int, shape: Any, strides: Any) -> np.ndarray:
    dtype = storage.numpy_dtype
    numbers = np.fromfile(storage.file, dtype, count, offset=storage.start + start * dtype.itemsize)
    if numbers.size < count:
        raise OSError(f"{storage.file} was cut while it was read")
    return np.lib.stride_tricks.as_strided(
        numbers, shape, [n * dtype.itemsize for n in strides], writeable=False
    )


def _require(value: Any, kind: type[Kind]) -> Kind:
    if type(value) is not kind:
        raise ValueError(
            f"a {type(value).__name__} where a {kind.__name__.lstrip('_').lower()} should be"
        )
    return value
