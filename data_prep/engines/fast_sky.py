"""A panorama as the sky of the fast engine: seen behind the floor, and as light from all sides."""

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float32

from data_prep.objects.colour import linear
from data_prep.scenes.scene import Light
from posetraj_jax.data.transforms import MAX_PIXELS, decode_rgb
from posetraj_jax.errors import UserError

Array = np.ndarray

RADIANCE_SUFFIX = ".hdr"
HEADER_BYTES = 4096
SIZE = re.compile(rb"\n-Y +([0-9]{1,9}) +\+X +([0-9]{1,9})\r?\n")
"""OpenCV reads rows from top to bottom only."""


class SkyPicture:
    """An equirectangular picture, its middle column towards +y, its first row straight up."""

    def __init__(self, radiance: Float32[Array, "h w 3"]):
        self._radiance = radiance

    @classmethod
    def read(cls, path: Path) -> "SkyPicture":
        """Reads a .hdr (Radiance), or a JPEG or PNG as sRGB.

        Raises:
            UserError: it cannot be read, or has more than MAX_PIXELS pixels.
        """
        if path.suffix.lower() != RADIANCE_SUFFIX:
            return cls(linear(decode_rgb(path.read_bytes(), str(path)).astype(np.float32) / 255))
        wrong = header_problem(path)
        picture = None
        if not wrong:
            picture = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
        if picture is None:
            raise UserError(
                f"A panorama cannot be read: {path}",
                expected=f"a whole Radiance picture (.hdr) of at most {MAX_PIXELS:,} pixels",
                got=wrong or "damage behind its header",
                fix="give another one, or copy it again",
            )
        return cls(np.ascontiguousarray(picture[..., ::-1], np.float32))

    def seen(self, directions: Float[Array, "h w 3"]) -> Float32[Array, "h w 3"]:
        """Radiance from unit directions."""
        height, width = self._radiance.shape[:2]
        turn = np.arctan2(directions[..., 0], directions[..., 1]) / (2 * np.pi) + 0.5
        fall = np.arccos(np.clip(directions[..., 2], -1.0, 1.0)) / np.pi
        column = (turn * width - 0.5).astype(np.float32)
        row = np.clip(fall * height - 0.5, 0, height - 1).astype(np.float32)
        return cv2.remap(self._radiance, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)

    def light(self, light: Light) -> Light:
        """The scene's sun with this sky: its means near the zenith and above the horizon."""
        half = max(2, len(self._radiance) // 2)
        zenith, horizon = self._radiance[: half // 2], self._radiance[half // 2 : half]
        means = (tuple(float(c) for c in part.mean(axis=(0, 1))) for part in (zenith, horizon))
        zenith_mean, horizon_mean = means
        return replace(light, sky_zenith=zenith_mean, sky_horizon=horizon_mean, sky_strength=1.0)


def header_problem(path: Path) -> str:
    """What is wrong with the first lines of a .hdr; empty if nothing is.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if not header.startswith(b"#?"):
        return f"no Radiance picture: it starts with {header[:8]!r}"
    size = SIZE.search(header)
    if size is None:
        return "a Radiance picture that does not give its size as `-Y rows +X columns`"
    height, width = (int(number) for number in size.groups())
    if not 0 < height * width <= MAX_PIXELS:
        return f"{width}x{height}, not between 1 and {MAX_PIXELS:,} pixels"
    return ""
