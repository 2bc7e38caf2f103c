"""Decodes the pictures that come with objects: within bounds, and never silently left out."""

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_prep.fanout.task import Rejected
from posetraj_jax.data.transforms import MAX_PIXELS

Array = np.ndarray

LARGEST_SIDE = 2048
"""Pixels; larger textures are scaled down to this."""
MOST_KEPT = 16 * LARGEST_SIDE**2
"""Pixels of all textures of an object together, after scaling: 268 MB."""
MOST_DECODED = 1_000_000_000
"""Pixels of all textures of an object together, before scaling."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "GIF", "TIFF")
"""Decoders that may run; others of Pillow start programs (EPS) or are hardly ever used."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError)


class Textures:
    """Decodes the pictures of one object and keeps count of them.

    Args:
        number: how many there will be at most; the more, the smaller each is made.
    """

    def __init__(self, number: int):
        self.side = LARGEST_SIDE
        while number * self.side**2 > MOST_KEPT and self.side > 1:
            self.side //= 2
        self._pixels = 0

    def decode(self, data: bytes, name: str) -> UInt8[Array, "h w 4"]:
        """sRGB and alpha, scaled down to at most `side` pixels a side.

        Raises:
            Rejected: naming the texture: no picture of FORMATS, damaged, more than MAX_PIXELS
                pixels, or more than MOST_DECODED with those before.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(data), formats=FORMATS)
                self._count(image.width, image.height, name)
                image.draft(None, (self.side, self.side))  # JPEG: decodes at a fraction
                return _rgba(image, self.side)
        except Image.DecompressionBombError as error:
            reason = f"{error}".split("limit")[0].strip().removesuffix("exceeds").strip()
            raise Rejected(f"texture {name}: {reason}, more than {MAX_PIXELS:,} pixels") from error
        except UNREADABLE as error:
            reason = f"{type(error).__name__}: {error}".split("<")[0][:120].strip()
            raise Rejected(
                f"texture {name}: {len(data):,} bytes that are no whole picture ({reason})"
            ) from error

    def _count(self, width: int, height: int, name: str) -> None:
        self._pixels += width * height
        if width * height > MAX_PIXELS:
            raise Rejected(f"texture {name}: {width}x{height}, more than {MAX_PIXELS:,} pixels")
        if self._pixels > MOST_DECODED:
            raise Rejected(f"textures of more than {MOST_DECODED:,} pixels in all")


def _rgba(image: Image.Image, side: int) -> UInt8[Array, "h w 4"]:
    if image.mode.startswith("I") or image.mode == "F":
        image = _as_grey(image)
    elif image.mode not in ("RGB", "RGBA", "L"):
        has_alpha = image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info
        image = image.convert("RGBA" if has_alpha else "RGB")
    if max(image.size) > side:
        scale = side / max(image.size)
        size = tuple(max(1, round(length * scale)) for length in image.size)
        # Of RGBA, Pillow weighs colours by alpha, so hidden colours do not bleed in.
        image = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    return np.array(image.convert("RGBA"))


def _as_grey(image: Image.Image) -> Image.Image:
    """Pictures of 16 bits or floats, which Pillow would clip and not scale, with 8 bits."""
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values) * 65535.0
    return Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8))
