"""What happens to the pictures of a clip: decode within bounds, window, resize. All uint8."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from posetraj_jax.errors import UserError

Array = np.ndarray

MAX_PIXELS = 64_000_000
RESIZE_KINDS = ("lanczos", "bilinear")


def image_header(data: bytes, where: str) -> tuple[int, int, str]:
    """Reads (height, width, format) of an encoded picture without decoding it.

    Raises:
        UserError: naming `where`, if the bytes are no picture or it has more than MAX_PIXELS pixels
            (a small file can unpack to any size, so this comes before every decoding).
    """
    with _open(data, where) as image:
        return image.height, image.width, image.format or "unknown"


def decode_rgb(data: bytes, where: str) -> UInt8[Array, "h w 3"]:
    """Decodes one picture to RGB; an alpha channel is dropped, as the official loader does.

    Raises:
        UserError: naming `where`, if the picture is too large, truncated or no picture.
    """
    with _open(data, where) as image:
        try:
            return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"A picture cannot be decoded: {where}",
                expected="a whole JPEG or PNG picture",
                got=f"{len(data)} bytes of {image.format}, {error}",
                fix="make this clip again, or delete it from the data",
            ) from error


def decode_frames(pictures: Mapping[str, bytes]) -> UInt8[Array, "f h w 3"]:
    """Decodes the pictures of a window, given what to call each in a message and its bytes.

    Raises:
        UserError: naming a picture that cannot be decoded or has another size than the first.
    """
    frames = [decode_rgb(data, where) for where, data in pictures.items()]
    for where, frame in zip(pictures, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise other_size(where, frame, frames[0].shape[:2])
    return np.stack(frames)


def other_size(where: str, frame: Array, expected: tuple[int, int]) -> UserError:
    """The error of a clip whose pictures differ in size: `frame` [... h w 3] from (h, w)."""
    return UserError(
        f"The pictures of a clip differ in size: {where}",
        expected=f"{expected[1]}x{expected[0]}, as the first",
        got=f"{frame.shape[-2]}x{frame.shape[-3]}",
        fix="make this clip again, or delete it from the data",
    )


def decode_files(paths: Sequence[Path]) -> UInt8[Array, "f h w 3"]:
    """Decodes picture files of one size.

    Raises:
        UserError: as `decode_frames`.
    """
    return decode_frames({str(path): path.read_bytes() for path in paths})


def _open(data: bytes, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"A picture cannot be read: {where}",
            expected=f"a JPEG or PNG picture of at most {MAX_PIXELS} pixels",
            got=f"{len(data)} bytes, {error}",
            fix="make this clip again, or delete it from the data",
        ) from error
    if image.height * image.width > MAX_PIXELS:
        raise UserError(
            f"A picture is too large: {where}",
            expected=f"at most {MAX_PIXELS} pixels",
            got=f"{image.width}x{image.height}",
            fix="scale the pictures down; training uses a fraction of that size",
        )
    return image


def window_start(num_frames: int, length: int, rng: np.random.Generator | None) -> int:
    """Chooses the first frame of a window of `length` consecutive frames.

    Uniform over 0 .. num_frames - length, both included; the first window without a generator.

    Source: the official loader draws the same range with Python's global generator.
    Differs: the generator belongs to the record and epoch, so a restart draws the same.
    """
    if num_frames < length:
        raise ValueError(f"a window of {length} frames does not fit into {num_frames}")
    return 0 if rng is None else int(rng.integers(num_frames - length + 1))


def resize_frames(
    frames: UInt8[Array, "f h w 3"], height: int, width: int, kind: str
) -> UInt8[Array, "f height width 3"]:
    """Resizes every frame to height x width; the aspect ratio is not kept, as officially.

    Args:
        frames: RGB frames.
        height: target rows.
        width: target columns.
        kind: 'lanczos' is antialiased (Pillow), for training and sampling alike; 'bilinear' has no
            antialiasing, as the official training (its sampling uses Lanczos, so the two differ).

    Differs: official training resizes floats; 'bilinear' rounds the same values to 8 bits.
    """
    if frames.shape[1:3] == (height, width):
        return frames
    if kind == "lanczos":
        resize = _lanczos
    elif kind == "bilinear":
        resize = _bilinear
    else:
        raise ValueError(f"resize is one of {RESIZE_KINDS}, not {kind!r}")
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for target, frame in zip(out, frames, strict=True):
        target[:] = resize(frame, height, width)
    return out


def _lanczos(frame: Array, height: int, width: int) -> Array:
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))


def _bilinear(frame: Array, height: int, width: int) -> Array:
    # In float: OpenCV's 8-bit path uses weights of 11 bits and can be off by one.
    wide = cv2.resize(frame.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.rint(wide).astype(np.uint8)
