"""Whether pictures for floors and skies can be used, from their first bytes: before any work."""

import warnings
from pathlib import Path

from PIL import Image

from data_prep.engines import fast_sky
from posetraj_jax.data.transforms import MAX_PIXELS

OPEN_EXR = ".exr"
STARTS = {
    ".png": b"\x89PNG",
    ".jpg": b"\xff\xd8\xff",
    ".jpeg": b"\xff\xd8\xff",
    ".hdr": b"#?",
    OPEN_EXR: b"v/1\x01",
}
"""How files start; a picture may have the suffix of another kind, but not be no picture."""


def problem_for_cycles(path: Path) -> str:
    """Why Blender cannot read a picture; empty if it can, or if only Blender can tell."""
    start = _start(path)
    if isinstance(start, str):
        return start
    if path.suffix.lower() in STARTS and not start.startswith(tuple(STARTS.values())):
        return f"no picture: it starts with {start!r}"
    return ""


def problem_for_fast(path: Path, *, sky: bool) -> str:
    """Why the engine fast cannot read a picture of a floor or a sky; empty if nothing is wrong.

    Pixels are not decoded, so damage behind the header is not found.
    """
    start = _start(path)
    if isinstance(start, str):
        return start
    suffix = path.suffix.lower()
    if suffix == OPEN_EXR or start == STARTS[OPEN_EXR]:
        return "an OpenEXR picture, which is read by the engine cycles only"
    if suffix == fast_sky.RADIANCE_SUFFIX:
        return fast_sky.header_problem(path) if sky else "a .hdr is for skies, not for floors"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        return f"more than {MAX_PIXELS:,} pixels"
    except (OSError, SyntaxError, ValueError, EOFError):
        return f"no JPEG or PNG picture: it starts with {start!r}"
    if width * height > MAX_PIXELS:
        return f"{width}x{height}, more than {MAX_PIXELS:,} pixels"
    return ""


def _start(path: Path) -> bytes | str:
    """The first bytes of a regular file, or why they cannot be had."""
    if not path.is_file():  # a pipe or a device may never end
        return "not a file" if path.exists() else "no such file"
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return start or "an empty file"
