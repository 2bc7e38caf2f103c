"""The pictures of a video: found, decoded one at a time, scaled, encoded as a record keeps them.

At no time is more than one picture of the original size in memory.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from data_prep.fanout.task import Rejected
from posetraj_jax.data.transforms import decode_rgb, image_header, resize_frames
from posetraj_jax.data.vipseg import SUFFIXES
from posetraj_jax.errors import UserError

Array = np.ndarray
Size = tuple[int, int]
"""(height, width) in pixels."""

ID_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
"""Pillow's names of pictures with one whole number per pixel; of 'P' it is the palette's index."""
MOST_SEGMENTS = 255
"""Numbers that an 8-bit mask has besides 0."""
MOST_PROBLEMS = 4
"""How many problems of one video are told."""


@dataclass(frozen=True)
class Storage:
    """How pictures are stored: at one size, or by their short side, or as they are."""

    height: int
    """Pixels; the aspect ratio is not kept, as in training. 0 = by `short_side`."""
    width: int
    short_side: int
    """Pixels; the aspect ratio is kept, and nothing is made larger. 0 = the original size."""
    jpeg_quality: int
    """1 to 95."""

    def size_of(self, original: Size) -> Size:
        """The stored size of a picture."""
        if self.height:
            return self.height, self.width
        if not self.short_side:
            return original
        scale = min(1.0, self.short_side / min(original))
        return round(original[0] * scale), round(original[1] * scale)


class StoredFrames(NamedTuple):
    """The pictures of a video as a record keeps them."""

    jpegs: tuple[bytes, ...]
    original: Size
    size: Size


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder in plain string sort; none if there is no such folder."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(
        (path for path in found if not path.name.startswith(".")), key=lambda path: path.name
    )


def problems_of(pictures: Sequence[Path], masks: Sequence[Path], min_frames: int) -> list[str]:
    """What is wrong with the files of a video by their names; without masks, nothing with them."""
    count = len(pictures)
    problems = [] if count else ["no pictures"]
    if 0 < count < min_frames:
        problems.append(f"short: {count} frames of at least {min_frames}")
    names, wanted = ([path.stem for path in paths] for paths in (masks, pictures))
    if names and len(names) != count:
        problems.append(f"{count} pictures but {len(names)} masks")
    elif names and names != wanted:
        first = next(i for i in range(count) if names[i] != wanted[i])
        problems.append(f"mask {masks[first].name} where {pictures[first].name} has none")
    return problems


def each_decoded(
    paths: Sequence[Path], decode: Callable[[bytes, str], Array], size: Size | None = None
) -> Iterator[tuple[Path, Array]]:
    """Decodes pictures one after the other, all of one size; gives each with its path.

    Args:
        paths: the pictures.
        decode: `decode_rgb` or `decode_ids`.
        size: that they must have; None = that of the first.

    Raises:
        Rejected: at the end, naming the pictures that cannot be decoded or differ in size.
    """
    problems = []
    for path in paths:
        try:
            picture = decode(path.read_bytes(), path.name)
        except UserError as error:
            problems.append(f"{error.what}, {error.got}")
            continue
        size = size or picture.shape[:2]
        if picture.shape[:2] == size:
            yield path, picture
        else:
            height, width = picture.shape[:2]
            problems.append(f"{path.name} is {width}x{height}, not {size[1]}x{size[0]}")
    reject(problems)


def reject(problems: Sequence[str]) -> None:
    """Raises Rejected if there are problems; says the first few of them."""
    if problems:
        more = f"; and {len(problems) - MOST_PROBLEMS} more" if problems[MOST_PROBLEMS:] else ""
        raise Rejected("; ".join(problems[:MOST_PROBLEMS]) + more)


def store_frames(paths: Sequence[Path], storage: Storage) -> StoredFrames:
    """Decodes, scales (Lanczos) and encodes the frames of a video, one at a time.

    Raises:
        Rejected: pictures that cannot be decoded or differ in size.
    """
    jpegs, original, size = [], (0, 0), (0, 0)
    for path, frame in each_decoded(paths, decode_rgb):
        original = frame.shape[:2]
        size = storage.size_of(original)
        jpegs.append(as_jpeg(path, frame, storage))
    return StoredFrames(tuple(jpegs), original, size)


def as_jpeg(path: Path, frame: UInt8[Array, "h w 3"], storage: Storage) -> bytes:
    """A picture as it is stored, given its file and what is in it.

    Scaled as training scales (Lanczos); a JPEG that keeps its size stays as it is, byte by byte.
    """
    size = storage.size_of(frame.shape[:2])
    if size == frame.shape[:2] and image_header(data := path.read_bytes(), path.name)[2] == "JPEG":
        return data
    scaled = resize_frames(frame[None], *size, "lanczos")[0]
    buffer = io.BytesIO()
    Image.fromarray(scaled).save(buffer, "JPEG", quality=storage.jpeg_quality, optimize=True)
    return buffer.getvalue()


def decode_ids(data: bytes, where: str) -> Int32[Array, "h w"]:
    """Decodes a PNG of one whole number per pixel, of 1, 8 or 16 bits, with palette or without.

    Raises:
        UserError: naming `where`, if it is no such picture, too large or truncated.
    """
    _, _, kind = image_header(data, where)
    with Image.open(io.BytesIO(data)) as image:
        try:
            if kind != "PNG" or image.mode not in ID_MODES:
                raise ValueError(f"a {kind} of mode {image.mode}")
            return np.asarray(image).astype(np.int32)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"A mask cannot be used: {where}",
                expected="a whole PNG of one channel, 8 or 16 bits: a number for each segment",
                got=str(error),
                fix="copy this mask again",
            ) from error


def nearest(ids: Int32[Array, "h w"], size: Size) -> Int32[Array, "height width"]:
    """Scales numbers of segments: each pixel gets that of the pixel its centre lies in."""
    rows, columns = (
        (2 * np.arange(count) + 1) * old // (2 * count)
        for count, old in zip(size, ids.shape, strict=True)
    )
    return ids[rows[:, None], columns]


class Segments:
    """Numbers the segments of a video: those with a track in their order, then others as met."""

    def __init__(self, ids: Sequence[int], background: Sequence[int]):
        self.ids = list(ids)
        """As the dataset calls them."""
        self._background = set(background) - set(ids)

    def to_png(self, ids: Int32[Array, "h w"]) -> bytes:
        """The mask of a frame as a record keeps it: number of the segment + 1, 0 = background.

        Raises:
            Rejected: more segments than a mask can tell apart.
        """
        met = np.unique(ids).tolist()
        self.ids += sorted(set(met) - set(self.ids) - self._background)
        if len(self.ids) > MOST_SEGMENTS:
            raise Rejected(f"more than {MOST_SEGMENTS} segments in its masks")
        values = np.array([0 if i in self._background else self.ids.index(i) + 1 for i in met])
        mask = values[np.searchsorted(met, ids)].astype(np.uint8)
        data = io.BytesIO()
        Image.fromarray(mask).save(data, "PNG", optimize=True)
        return data.getvalue()
