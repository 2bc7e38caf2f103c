"""One picture of any kind → RGB of 8 bits, upright: what people see of it."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

Array = np.ndarray

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""What is read, by Pillow's names; its other readers are rarely needed, and some start programs."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""What is written."""
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's names for grey of 16 bits; the last one has 32, and often holds 16."""
GREATEST = (1 << 16) - 1
WHITE = (255, 255, 255, 255)


def rgb_of(image: Image.Image) -> UInt8[Array, "h w 3"]:
    """What a picture shows, upright as its camera says, what is transparent over white.

    16 bits become the higher 8 of them.

    Raises:
        ValueError: it has numbers whose range nobody knows: fractions, or more than 16 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("a picture of fractions: nobody knows which of them is white")
    if image.mode in SIXTEEN_BITS:
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return np.array(image.convert("RGB"))


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.array(image).astype(np.int64)
    if values.size and not (values.min() >= 0 and values.max() <= GREATEST):
        raise ValueError(f"grey from {values.min()} to {values.max()}, which is beyond 16 bits")
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if (clear := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey
