"""The floor of the fast engine: tiles with grout, or a picture, seen by any camera; antialiased.

One colour per pixel, linear RGB. What is finer than a pixel is averaged by formula, not sampled.
"""

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from data_prep.objects.colour import linear
from data_prep.scenes import geometry
from data_prep.scenes.scene import Floor

Array = np.ndarray

TABLE = 64
"""Tiles along each side of the pattern of colours before it repeats."""
CLOUD_PIXELS, CLOUD_METRES = 512, 6.0
"""Of the pattern of wear before it repeats."""
CLOUD_SIZE = 1.0
"""Metres across a light or dark place."""
CLOUD_RANGE = (0.8, 1.1)
"""How much darker and lighter worn stone is."""
SEED = 20250322
"""Of both patterns: the same floor in every clip, as everything else of a clip is in its scene."""


def floor_points(k: Float[Array, "3 3"], rt: Float[Array, "3 4"], width: int, height: int):
    """Where each pixel's centre meets z = 0: x, y [h w] in metres, and the metres across a pixel.

    Meaningless at and above the horizon, where 1 / depth is 0 (`annotations.floor_inverse_depth`).
    """
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(k).T @ rt[:, :3]
    eye = geometry.camera_centre(rt)
    fall = np.maximum(-rays[..., 2], 1e-6)
    depth = eye[2] / fall
    across = depth * np.linalg.norm(rays, axis=-1) / fall / np.sqrt(k[0, 0] * k[1, 1])
    places = eye[:2] + depth[..., None] * rays[..., :2]
    return *(places[..., i].astype(np.float32) for i in (0, 1)), across.astype(np.float32)


def tiles(floor: Floor, x: Array, y: Array, across: Array) -> Float32[Array, "h w 3"]:
    """Square tiles, each of a colour between two, with grout between them."""
    shares = np.random.default_rng(SEED).random((TABLE, TABLE), np.float32)
    first, second = (np.array(colour, np.float32) for colour in floor.colours)
    column, row = np.floor(x / floor.tile), np.floor(y / floor.tile)
    share = shares[column.astype(np.int32) % TABLE, row.astype(np.int32) % TABLE]
    share = 0.5 + (share - 0.5) * _told_apart(floor.tile, across)
    colour = first + share[..., None] * (second - first)
    grout = _grout(floor, x, across) + _grout(floor, y, across)
    mixed = colour + np.minimum(grout, 1.0)[..., None] * (
        np.array(floor.grout_colour, np.float32) - colour
    )
    return mixed * _wear(x, y, across)[..., None]


def _grout(floor: Floor, along: Array, across: Array) -> Float32[Array, "h w"]:
    """The share of each pixel that lies on lines every `tile` metres."""
    offset = along / floor.tile
    away = np.abs(offset - np.rint(offset)) * floor.tile
    covered = np.clip((floor.grout / 2 - away) / across + 0.5, 0.0, 1.0)
    # A line thinner than a pixel covers no more of it than it is wide.
    return covered * np.minimum(floor.grout / across, 1.0)


def _clouds() -> Float32[Array, "n n"]:
    """Soft noise that repeats without a seam: white noise with the fine parts taken away."""
    frequency = np.fft.fftfreq(CLOUD_PIXELS, CLOUD_METRES / CLOUD_PIXELS)
    spectrum = np.hypot(frequency[:, None], frequency)
    spectrum[0, 0] = np.inf
    white = np.random.default_rng(SEED).standard_normal((CLOUD_PIXELS, CLOUD_PIXELS))
    soft = np.fft.ifft2(np.fft.fft2(white) / (1.0 + spectrum) ** 2).real
    return (soft / soft.std()).astype(np.float32)


_CLOUDS: list[Array] = []


def _wear(x: Array, y: Array, across: Array) -> Float32[Array, "h w"]:
    if not _CLOUDS:
        _CLOUDS.append(_clouds())
    scale = np.float32(CLOUD_PIXELS / CLOUD_METRES)
    noise = cv2.remap(
        _CLOUDS[0],
        np.mod(x * scale, CLOUD_PIXELS),
        np.mod(y * scale, CLOUD_PIXELS),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    low, high = CLOUD_RANGE
    noise = noise * _told_apart(CLOUD_SIZE, across)
    return np.clip((low + high) / 2 + noise * (high - low) / 4, low, high)


def _told_apart(size: float, across: Array) -> Float32[Array, "h w"]:
    """1 where pixels show things of this size, falling to 0 where they blend into their mean."""
    return np.clip(2.0 - 4.0 * across / np.float32(size), 0.0, 1.0)


def smaller_and_smaller(picture: UInt8[Array, "h w 3"]) -> list[Float32[Array, "_ _ 3"]]:
    """A picture in linear light, at its size, half of it, a quarter..."""
    levels = [linear(picture.astype(np.float32) / 255)]
    while min(levels[-1].shape[:2]) > 4:
        small = [max(1, size // 2) for size in levels[-1].shape[1::-1]]
        levels.append(cv2.resize(levels[-1], small, interpolation=cv2.INTER_AREA))
    return levels


class FloorPicture:
    """A picture laid over the floor again and again, in several sizes."""

    def __init__(self, picture: UInt8[Array, "h w 3"], metres: float):
        """`metres` is how wide one copy lies on the floor."""
        self._metres, self._levels = metres, smaller_and_smaller(picture)

    def colours(self, x: Array, y: Array, across: Array) -> Float32[Array, "h w 3"]:
        """The colour of each pixel, from the size whose pixels are as large as those on screen."""
        wide = self._levels[0].shape[1]
        fine = np.log2(np.maximum(across * wide / self._metres, 1.0))
        result = np.zeros((*x.shape, 3), np.float32)
        for number, level in enumerate(self._levels):
            last = number == len(self._levels) - 1
            share = 1.0 - np.abs(fine - number)
            share = np.clip(np.where((fine > number) & last, 1.0, share), 0.0, 1.0)
            if share.any():
                result += share[..., None].astype(np.float32) * self._looked_up(level, x, y)
        return result

    def _looked_up(self, level: Array, x: Array, y: Array) -> Float32[Array, "h w 3"]:
        height, width = level.shape[:2]
        tall = self._metres * self._levels[0].shape[0] / self._levels[0].shape[1]
        column = np.mod(x / self._metres, 1.0) * width - 0.5
        row = np.mod(-y / tall, 1.0) * height - 0.5
        return cv2.remap(level, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
