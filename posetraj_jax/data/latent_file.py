"""The file of one clip's cached latents: what the frozen encoders say of every frame of it.

safetensors. For each kind of frames that the clip has (clean, boxed), named `KIND.mean` and so on:
the moments of the VAE's posterior and CLIP's embedding in bfloat16, a thumbnail by which the frame
is known again, and a checksum of these four.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401 - teaches numpy bfloat16, by which safetensors calls its type
import numpy as np
import safetensors.numpy
from jaxtyping import Float, UInt8, UInt32
from safetensors import SafetensorError, safe_open

from posetraj_jax.data.lazy_clip import FRAME_KINDS
from posetraj_jax.errors import UserError, listed
from posetraj_jax.structs import PIXELS_PER_LATENT

Array = np.ndarray

MAKE_LATENTS = "python -m data_prep.encode_latents --config CONFIG, with the fields of this run"
THUMBNAIL = 8
"""Cells of a thumbnail along either side; frame sizes are multiples of it."""
MOST_DIFFERENT = 2
"""Grey levels between thumbnails of one frame: two decoders of JPEG differ by 1 here and there."""

FIELDS = {
    # name: (axes, type as safetensors calls it)
    "mean": ("f h w c", "BF16"),
    "logvar": ("f h w c", "BF16"),
    "image_embed": ("f d", "BF16"),
    "thumbnail": (f"f {THUMBNAIL} {THUMBNAIL} 3", "U8"),
    "crc32": ("f", "U32"),
}


class EncodedFrames(NamedTuple):
    """Consecutive frames of one kind."""

    mean: Float[Array, "f h8 w8 c"]
    """Of the VAE's posterior, unscaled latents; bfloat16, as the next two."""
    logvar: Float[Array, "f h8 w8 c"]
    image_embed: Float[Array, "f d"]
    thumbnail: UInt8[Array, "f 8 8 3"]


class Contents(NamedTuple):
    """What is in a file, from its header alone."""

    kinds: tuple[str, ...]
    num_frames: int
    size: tuple[int, int]
    """(height, width) of the frames, pixels."""


def write(path: Path, kinds: Mapping[str, EncodedFrames]) -> None:
    """Writes the file of a clip: equal numbers give equal bytes, and it appears when it is whole.

    Raises:
        OSError: the system refuses.
    """
    tensors = {}
    for kind, frames in kinds.items():
        named = frames._asdict() | {"crc32": _checksums(frames)}
        # safetensors writes the memory behind an array, whatever its strides are.
        tensors |= {f"{kind}.{name}": np.ascontiguousarray(x) for name, x in named.items()}
    partial = partial_of(path)
    try:
        partial.write_bytes(safetensors.numpy.save(tensors))
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_of(path: Path) -> Path:
    """Where a file is while it is written; `partial_of(folder / "*")` is a pattern for all."""
    return path.with_name(f".{path.name}.partial")


def read_contents(path: Path) -> Contents:
    """Reads the header of a file and checks that it is whole.

    Raises:
        UserError: it is not there, damaged, or something else.
    """
    with _open(path) as file:
        return _contents(path, file)


def read(path: Path, kind: str, start: int, count: int) -> EncodedFrames:
    """Reads a window of one kind of frames, and nothing else of the file.

    Raises:
        UserError: as `read_contents`; no such frames; or numbers that have changed since they were
            written.
    """
    with _open(path) as file:
        contents = _contents(path, file)
        if kind not in contents.kinds or start + count > contents.num_frames:
            got = f"{' and '.join(contents.kinds)} frames 0 to {contents.num_frames - 1}"
            raise _unfit(path, f"{kind} frames {start} to {start + count - 1}", got)
        arrays = {name: file.get_slice(f"{kind}.{name}")[start : start + count] for name in FIELDS}
    checksums = arrays.pop("crc32")
    frames = EncodedFrames(**arrays)
    wrong = np.flatnonzero(_checksums(frames) != checksums)
    if len(wrong):
        raise _unfit(path, "numbers with their checksums", f"others in frame {start + wrong[0]}")
    return frames


def thumbnails(frames: UInt8[Array, "f h w 3"]) -> UInt8[Array, "f 8 8 3"]:
    """The mean colours of 8 x 8 cells: enough to tell a clip from another of the same name."""
    f, h, w, _ = frames.shape
    rows, columns = h // THUMBNAIL, w // THUMBNAIL
    # Whole rows first: ten times as fast as one mean over both axes, and the same numbers.
    strips = frames.reshape(f * THUMBNAIL, rows, w * 3).sum(axis=1, dtype=np.uint32)
    cells = strips.reshape(f, THUMBNAIL, THUMBNAIL, columns, 3).sum(axis=3, dtype=np.uint64)
    return np.rint(cells / (rows * columns)).astype(np.uint8)


def is_same_picture(one: UInt8[Array, "8 8 3"], other: UInt8[Array, "8 8 3"]) -> bool:
    """Whether two thumbnails are of one frame, up to what decoders differ by."""
    return int(np.abs(one.astype(int) - other).max()) <= MOST_DIFFERENT


def _checksums(frames: EncodedFrames) -> UInt32[Array, "f"]:
    sums = np.zeros(len(frames.mean), np.uint32)
    for index, parts in enumerate(zip(*frames, strict=True)):
        sums[index] = zlib.crc32(b"".join(part.tobytes() for part in parts))
    return sums


@contextmanager
def _open(path: Path) -> Iterator[safe_open]:
    """The file, memory-mapped; whatever is wrong with it becomes a UserError."""
    if not path.is_file():  # a pipe or a device may never end
        raise _unfit(path, "a file of cached latents", "no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise _unfit(path, "a complete safetensors file", f"{error}") from error


def _contents(path: Path, file: safe_open) -> Contents:
    """Names, shapes and types are exactly those that `write` gives."""
    names = set(file.keys())
    kinds = tuple(kind for kind in FRAME_KINDS if f"{kind}.mean" in names)
    wanted = {f"{kind}.{name}": FIELDS[name] for kind in kinds for name in FIELDS}
    problems = [f"{name}: not on both sides" for name in sorted(names ^ wanted.keys())]
    sizes: dict[str, int] = {}  # of the axes, as the first tensor with such an axis has it
    for name in (name for name in wanted if name in names):
        (axes, dtype), part = wanted[name], file.get_slice(name)
        shape, letters = part.get_shape(), axes.split()
        expected = [
            int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            for letter, size in zip(letters, shape, strict=False)
        ]
        if len(shape) != len(letters) or shape != expected or not math.prod(shape):
            problems.append(f"{name}: shape {shape}, expected [{axes}] = {expected}")
        if part.get_dtype() != dtype:
            problems.append(f"{name}: type {part.get_dtype()}, expected {dtype}")
    if problems or not kinds:
        raise _unfit(path, "the tensors of cached latents", listed(problems) or "none of them")
    size = sizes["h"] * PIXELS_PER_LATENT, sizes["w"] * PIXELS_PER_LATENT
    return Contents(kinds, sizes["f"], size)


def _unfit(path: Path, expected: str, got: str) -> UserError:
    return UserError(
        f"Cached latents cannot be read: {path}",
        expected=expected,
        got=got,
        fix=f"delete this file and make it again: {MAKE_LATENTS}",
    )
