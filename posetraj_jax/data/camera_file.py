"""Reads the camera of a video from `camera.npy` as TRAM saves it, and runs nothing that is in it.

The file holds a pickled dict. A pickle is a program, so only the few instructions that describe
dicts, lists, numbers and arrays are followed, and what they make is a note of ours: which of
numpy's functions is named, and with what. Arrays are made from these notes afterwards, by this
module, once shape and number of bytes are known to agree.
"""

import io
import math
import pickle
import stat
import struct
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float64

from posetraj_jax.errors import UserError

Array = np.ndarray

ROTATION, TRANSLATION = "pred_cam_R", "pred_cam_T"
FOCAL, CENTRE = "img_focal", "img_center"
MOST_BYTES = 2_000_000
"""Ten thousand frames of all that TRAM saves. Following one byte can take a hundred bytes."""
MAGIC = b"\x93NUMPY\x01\x00"
HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
"""What every version of numpy writes before the pickle of a dict."""
NOT_ROTATION = 1e-3
"""How far R^T R may be from the identity, in any entry."""
OFF_CENTRE_PX = 1.0
"""How far the principal point may be from the middle of the picture."""
FARTHEST_CAMERA_M = 1e4
"""From the origin: no video goes there, and float32 still tells a millimetre apart."""

NUMPY_NAMES = frozenset(
    {
        *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
        *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
    }
)
"""All that the pickle of a dict of arrays and numbers names, by old and new versions of numpy."""
NUMBER_BYTES = {"f2": 2, "f4": 4, "f8": 8}
"""Types of the numbers that are read, and how long they are."""
INSTRUCTIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT"),
    *("BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL"),
)
"""Instructions that are followed as Python's own reader does."""
UNREADABLE = (
    *(OSError, EOFError, pickle.UnpicklingError, struct.error),
    *(ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError),
)
"""What following a damaged pickle can end with."""


class Camera(NamedTuple):
    """A camera in each frame of a video: the point x of its own axes is at R x + T in the world.

    Axes as in OpenCV (x right, y down, z forward), metres.
    """

    rotations: Float64[Array, "f 3 3"]
    translations: Float64[Array, "f 3"]


def read_camera(path: Path) -> Camera:
    """Reads `pred_cam_R` [f 3 3] and `pred_cam_T` [f 3], camera to world; ignores other keys.

    Raises:
        UserError: naming the file and what is wrong with it: not such a file, more than MOST_BYTES,
            a pickle that names anything but numpy's arrays, a field that is missing, of another
            shape or not finite, or a matrix that is no rotation.

    Source: the official loader, which unpickles the file.
    Differs: nothing is executed; a translation that is not finite is refused, where the official
        loader silently sets those of all frames to zero.
    """
    try:
        content = _follow(_pickle_in(path))
        rotations = _numbers(content, ROTATION, (3, 3))
        translations = _numbers(content, TRANSLATION, (3,))
        _check(rotations, translations)
    except UNREADABLE as error:
        raise UserError(
            f"A camera cannot be used: {path}",
            expected=f"what np.save makes of a dict with {ROTATION} [f 3 3], rotations, and "
            f"{TRANSLATION} [f 3], finite, in at most {MOST_BYTES:,} bytes",
            got=f"{type(error).__name__}: {error}".removeprefix("ValueError: "),
            fix="estimate this camera again, or delete the file: the video then has no camera",
        ) from error
    return Camera(rotations, translations)


def read_intrinsics(path: Path, size: tuple[int, int]) -> Float64[Array, "3 3"] | None:
    """Reads `img_focal` and `img_center`, in pixels of the pictures that TRAM was given.

    Args:
        path: of a file that `read_camera` reads.
        size: (height, width) of the pictures that the intrinsics shall be of.

    Returns:
        K; None if the file has no such numbers, or they are of pictures of another size: TRAM takes
        the middle for the principal point, so another principal point means other pictures.
    """
    try:
        content = _follow(_pickle_in(path))
        (focal,), centre = (_few_numbers(content[name], name) for name in (FOCAL, CENTRE))
        off = np.abs(np.array(centre) - (size[1] / 2, size[0] / 2)).max()
    except UNREADABLE:
        return None
    if len(centre) != 2 or not off <= OFF_CENTRE_PX or not 0 < focal < math.inf:
        return None
    return np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])


def _pickle_in(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
        raise ValueError("not a file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    start = len(MAGIC) + 2
    end = start + int.from_bytes(content[len(MAGIC) : start], "little")
    if not content.startswith(MAGIC) or content[start:end].rstrip() != HEADER:
        raise ValueError("not what np.save makes of a dict")
    return content[end:]


class _Name(NamedTuple):
    """A function or type of numpy that a pickle names."""

    name: str


class _Made:
    """What a pickle would have numpy make."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple):
        self.name, self.arguments = name, arguments
        self.state: Any = None


class _Instructions(dict):
    """What to do for an instruction, by its code; for all others, say so."""

    def __missing__(self, code: int):
        raise ValueError(f"the pickle has the instruction {bytes([code])!r}, which no array needs")


class _Follower(pickle._Unpickler):
    """Python's own reader that is written in Python: the one in C can be made to fill any memory.

    It makes texts, numbers, lists, tuples, dicts and notes, and nothing else.
    """

    dispatch: ClassVar = _Instructions(
        {
            getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
            for name in INSTRUCTIONS
        }
    )

    def find_class(self, module: str, name: str) -> _Name:
        """Notes a name of numpy's; nothing is imported."""
        if (module, name) not in NUMPY_NAMES:
            named = f"{module}.{name}"[:100]
            raise ValueError(
                f"the pickle names {named!r}, which no array needs (nothing was executed)"
            )
        return _Name(name)

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Name or type(arguments) is not tuple:
            raise ValueError("the pickle calls what is no function")
        self.append(_Made(function.name, arguments))

    def _build(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) is not _Made:
            raise ValueError("the pickle changes what is no array")
        self.stack[-1].state = state

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set({key: value} if type(key) is str else None)

    def _set_items(self) -> None:
        items = self.pop_mark()
        texts = all(type(key) is str for key in items[::2])
        self._set(dict(zip(items[::2], items[1::2], strict=True)) if texts else None)

    def _set(self, items: dict[str, Any] | None) -> None:
        # Other keys than texts may take for ever to compare: tuples of tuples of tuples...
        if items is None or type(self.stack[-1]) is not dict:
            raise ValueError("the pickle fills what is no dict of texts")
        self.stack[-1].update(items)

    dispatch |= {
        pickle.REDUCE[0]: _reduce,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
    }


class _Noted(NamedTuple):
    """An array as the pickle describes it; nothing of it is sure but the types."""

    shape: tuple
    kind: str
    """Such as 'f4'."""
    order: str
    """'<', '>' or '|'."""
    fortran: bool
    content: Any
    """Bytes, or a list for an array of objects."""


def _noted(made: Any) -> _Noted:
    match made:
        case _Made(name="_reconstruct", state=(_, tuple() as shape, kind, bool() as f, inside)):
            match kind:
                case _Made(name="dtype", arguments=(str() as code, *_), state=(_, str() as o, *_)):
                    return _Noted(shape, code, o, f, inside)
    raise ValueError("no array")


def _follow(program: bytes) -> dict[str, Any]:
    """The dict in the pickle, with notes in place of arrays."""
    match _noted(_Follower(io.BytesIO(program)).load()):
        case _Noted((), "O8", content=[dict() as content]):
            return content
    raise ValueError("the pickle holds no dict")


def _numbers(content: dict[str, Any], name: str, axes: tuple[int, ...]) -> Array:
    """An array [f *axes] as float64, made only if its shape agrees with its bytes."""
    if name not in content:
        raise ValueError(f"{name}: missing")
    try:
        shape, kind, order, fortran, data = _noted(content[name])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    small = all(type(n) is int and 0 <= n <= MOST_BYTES for n in shape)
    if not small or len(shape) != 1 + len(axes) or shape[1:] != axes or not shape[0]:
        got = shape if small and len(shape) <= 8 else "none that an array can have"
        raise ValueError(f"{name}: shape {got}")
    if kind not in NUMBER_BYTES or order not in ("<", ">"):
        raise ValueError(f"{name}: numbers of type {(order + kind)[:20]!r}, not floats")
    num_bytes = math.prod(shape) * NUMBER_BYTES[kind]
    if type(data) is not bytes or len(data) != num_bytes:
        raise ValueError(f"{name}: not the {num_bytes:,} bytes of its shape {shape}")
    array = np.frombuffer(data, order + kind).reshape(shape, order="F" if fortran else "C")
    return array.astype(np.float64)


def _few_numbers(value: Any, name: str) -> list[float]:
    """The numbers in a list, in an array with one axis, or one number by itself."""
    match value:
        case list():
            return [_number(item) for item in value]
        case _Made(name="_reconstruct"):
            return _numbers({name: value}, name, ()).tolist()
    return [_number(value)]


def _number(value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    match value:
        case _Made(name="scalar", arguments=(_Made(name="dtype") as dtype, bytes() as data)):
            match dtype:
                case _Made(arguments=(str() as kind, *_), state=(_, str() as order, *_)):
                    if NUMBER_BYTES.get(kind) == len(data) and order in ("<", ">"):
                        return float(np.frombuffer(data, order + kind)[0])
    raise ValueError("no number")


def _check(rotations: Array, translations: Array) -> None:
    """Raises ValueError for what no camera can be."""
    if len(rotations) != len(translations):
        raise ValueError(
            f"{ROTATION} has {len(rotations)} frames, {TRANSLATION} {len(translations)}"
        )
    with np.errstate(all="ignore"):
        off = np.abs(rotations.swapaxes(1, 2) @ rotations - np.eye(3)).max(axis=(1, 2))
        turned = (off <= NOT_ROTATION) & (np.linalg.det(rotations) > 0)
    for name, good, what in (
        (ROTATION, np.isfinite(rotations).all(axis=(1, 2)), "not finite"),
        (ROTATION, turned, "no rotation"),
        (TRANSLATION, np.isfinite(translations).all(axis=1), "not finite"),
        (
            TRANSLATION,
            (np.abs(translations) <= FARTHEST_CAMERA_M).all(axis=1),
            f"beyond {FARTHEST_CAMERA_M:g} m",
        ),
    ):
        if not good.all():
            raise ValueError(
                f"{name}: {what} in {(~good).sum()} of {len(good)} frames, first in frame "
                f"{good.argmin()}"
            )
