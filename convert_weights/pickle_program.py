"""Follows the program that a pickle is, as far as it describes tensors, and runs nothing.

Only the few instructions that describe a dict of tensors are followed, by the tables below; what
the program names is compared, never imported or called.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import ml_dtypes
import numpy as np

from posetraj_jax.errors import listed

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
TENSOR_OF_2017, PARAMETER = "torch._utils _rebuild_tensor", "torch._utils _rebuild_parameter"
NAMES = frozenset({DICT, TENSOR, TENSOR_OF_2017, PARAMETER, *TYPES})
"""All that the pickle of a state dict names."""
PUSHED: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), lambda number: number),
    **dict.fromkeys(("BINUNICODE", "BINSTRING", "SHORT_BINSTRING"), str),
    "GLOBAL": lambda name: Name(name),
}
"""Instructions that put something on the stack, and what, by their argument."""
POPPED = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}
POPPED |= {"BINPERSID": 1, "REDUCE": 2, "BUILD": 1}
"""Instructions that take so many things from the stack."""
POPPED_TO_MARK = frozenset({"TUPLE", "APPENDS", "SETITEMS"})


class PickledTensor(NamedTuple):
    """A tensor whose numbers stay in the file until they are read."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors calls it."""
    read: Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class Name:
    """Something that the program names; nothing is imported for it."""

    name: str


@dataclass(frozen=True, eq=False)
class Storage:
    """Where the numbers of one tensor or several lie in a file."""

    file: Path
    start: int
    """First byte in the file."""
    size: int
    """Numbers, not bytes."""
    dtype: str
    numpy_dtype: np.dtype


def follow(program: BinaryIO, open_storage: Callable[[Any], Storage]) -> Any:
    """What the program makes of dicts, lists, tuples, constants and tensors.

    It is read to its end and no farther. Everything that it names is compared first.

    Args:
        open_storage: Told what the program says of a storage; its type is a `Name`.

    Raises:
        ValueError, IndexError, KeyError: The program does something else.
    """
    start = program.tell()
    named = {name for op, name, _ in pickletools.genops(program) if op.name == "GLOBAL"}
    if wrong := sorted(named - NAMES):
        raise ValueError(
            "the pickle names more than tensors (nothing was executed):"
            + listed([name.replace(" ", ".") for name in wrong])
        )
    program.seek(start)
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
            require(stack[-1], list).extend(items)
        elif name.startswith("SETITEM"):
            names = [require(key, str) for key in items[::2]]
            require(stack[-1], dict).update(zip(names, items[1::2], strict=True))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "BINPERSID":
            stack.append(open_storage(items[0]))
        elif name == "REDUCE":
            stack.append(_make(require(items[0], Name).name, require(items[1], tuple)))
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "BUILD"):  # BUILD: notes of a dict, such as _metadata
            raise ValueError(f"{name}, which no dict of tensors needs")
    raise ValueError("no end")


def _make(name: str, arguments: tuple[Any, ...]) -> Any:
    """What calling `name` would make; the number of arguments is a part of the format."""
    if name == DICT and not arguments:
        return {}
    if name == DICT and len(arguments) == 1:  # as Python 2 wrote it
        pairs = [require(pair, list) for pair in require(arguments[0], list)]
        return {require(key, str): value for key, value in pairs}
    if name == PARAMETER and len(arguments) == 3:
        return require(arguments[0], PickledTensor)
    if (name, len(arguments)) in ((TENSOR, 6), (TENSOR_OF_2017, 4)):
        return _make_tensor(*arguments[:4])
    raise ValueError(f"{name.replace(' ', '.')} of {len(arguments)} arguments")


def _make_tensor(storage: Any, start: Any, shape: Any, strides: Any) -> PickledTensor:
    numbers = (start, *require(shape, tuple), *require(strides, tuple))
    if any(type(n) is not int or n < 0 for n in numbers) or len(shape) != len(strides):
        raise ValueError("a tensor without a sensible shape")
    last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    count = last + 1 if all(shape) else 0
    if start + count > require(storage, Storage).size:
        raise ValueError("a tensor beyond its storage")
    return PickledTensor(
        shape, storage.dtype, partial(_read, storage, start, count, shape, strides)
    )


def _read(storage: Storage, start: int, count: int, shape: Any, strides: Any) -> np.ndarray:
    dtype = storage.numpy_dtype
    numbers = np.fromfile(storage.file, dtype, count, offset=storage.start + start * dtype.itemsize)
    if numbers.size < count:
        raise OSError(f"{storage.file} was cut while it was read")
    return np.lib.stride_tricks.as_strided(
        numbers, shape, [n * dtype.itemsize for n in strides], writeable=False
    )


def require(value: Any, kind: type[Kind]) -> Kind:
    """The value, if it is just of this kind; else a ValueError."""
    if type(value) is not kind:
        raise ValueError(
            f"a {type(value).__name__} where a {kind.__name__.lstrip('_').lower()} should be"
        )
    return value
