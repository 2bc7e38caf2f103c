"""Fits small windows of one picture to another, free to move, turn, stretch and change brightness.

Source: Shi and Tomasi, "Good features to track", 1994, the affine model; contrast and brightness
are taken out as in normalized correlation.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Array = np.ndarray

SMOOTHING_PX = 0.8
"""So that looking at every second pixel is enough."""
LONGEST_STEP_PX = 3.0
"""Of one iteration."""
BENDING = 0.05
"""How strongly a window holds to the shape it began with, compared with the picture."""
LEAST_CONTRAST = 1.0
"""Grey levels (standard deviation) below which a window shows nothing."""


class Smooth(NamedTuple):
    """A picture as the fit sees it."""

    picture: Float[Array, "h w 3"]
    slope_x: Float[Array, "h w 3"]
    slope_y: Float[Array, "h w 3"]


class Fitted(NamedTuple):
    """Windows found in another picture."""

    there: Float[Array, "p 2"]
    shape: Float[Array, "p 2 2"]
    """How each was turned and stretched."""
    alike: Float[Array, "p"]
    """Correlation of the window in both pictures, -1..1; 0 where there is nothing to see."""


def smooth(picture: UInt8[Array, "h w 3"]) -> Smooth:
    """Prepares a picture."""
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), SMOOTHING_PX)
    slopes = (cv2.Scharr(blurred, cv2.CV_32F, *axis, scale=1 / 32) for axis in ((1, 0), (0, 1)))
    return Smooth(blurred, *slopes)


def fit(
    before: Smooth,
    after: Smooth,
    start: Float[Array, "p 2"],
    there: Float[Array, "p 2"],
    shape: Float[Array, "p 2 2"],
    *,
    radius_px: int,
    iterations: int,
) -> Fitted:
    """Gauss-Newton from a guess of where each window is and what became of its shape.

    Args:
        start: middles of the windows, (x, y) from the centre of the first pixel, as in OpenCV.
        there: the same in the other picture, guessed.
        shape: the linear map from offsets in the first picture to those in the other, guessed.
        radius_px: half the side of a window.
        iterations: of Gauss and Newton.
    """
    side = np.arange(-radius_px, radius_px + 1, 2, dtype=np.float64)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    weights = np.exp(-0.5 * (grid**2).sum(axis=1) / (0.6 * radius_px) ** 2)[:, None]
    weights /= weights.sum() * 3  # channels
    basis = np.concatenate([np.ones((len(grid), 1)), grid / radius_px], axis=1)
    wanted, contrast = _normalized(_sampled(before.picture, start[:, None] + grid), weights)
    first_shape = shape
    for _ in range(iterations):
        places = there[:, None] + grid @ shape.swapaxes(1, 2)
        seen, seen_contrast = _normalized(_sampled(after.picture, places), weights)
        slopes = [_sampled(slope, places) for slope in (after.slope_x, after.slope_y)]
        bent = (shape - first_shape) * radius_px
        step = _gauss_newton((wanted - seen) * seen_contrast, slopes, weights, basis, bent)
        length = np.linalg.norm(step[:, :, 0], axis=1)[:, None, None]
        step *= np.minimum(1, LONGEST_STEP_PX / np.maximum(length, 1e-9))
        there, shape = there + step[:, :, 0], shape + step[:, :, 1:] / radius_px
    places = there[:, None] + grid @ shape.swapaxes(1, 2)
    seen, seen_contrast = _normalized(_sampled(after.picture, places), weights)
    alike = (weights * wanted * seen).sum(axis=(1, 2))
    alike[np.minimum(contrast, seen_contrast)[:, 0, 0] < LEAST_CONTRAST] = 0
    return Fitted(there, shape, alike)


def _gauss_newton(
    missing: Array, slopes: list[Array], weights: Array, basis: Array, bent: Array
) -> Float[Array, "p 2 3"]:
    """One step of x and y: how far to move, and how far to bend the edges of the window, pixels."""
    num_points = len(missing)
    squares = (basis[:, :, None] * basis[:, None, :]).reshape(len(basis), 9)
    slopes = [slope - 3 * (weights * slope).sum(axis=1, keepdims=True) for slope in slopes]
    normal = np.zeros((num_points, 2, 3, 2, 3))
    for row, column in ((0, 0), (0, 1), (1, 1)):
        block = (weights * slopes[row] * slopes[column]).sum(axis=2) @ squares
        normal[:, row, :, column] = normal[:, column, :, row] = block.reshape(-1, 3, 3)
    normal = normal.reshape(num_points, 6, 6)
    right = np.stack([(weights * slope * missing).sum(axis=2) @ basis for slope in slopes], axis=1)
    strength = 0.5 * (normal[:, 0, 0] + normal[:, 3, 3])[:, None]
    hold = np.array([0, BENDING, BENDING] * 2) * strength
    right -= hold.reshape(-1, 2, 3) * np.concatenate([np.zeros((num_points, 2, 1)), bent], axis=2)
    normal += (hold + 1e-3 * strength + 1e-6)[:, :, None] * np.eye(6)
    return np.linalg.solve(normal, right.reshape(-1, 6, 1)).reshape(-1, 2, 3)


def _sampled(picture: Array, places: Float[Array, "p n 2"]) -> Float[Array, "p n 3"]:
    if not len(places):
        return np.zeros((0, places.shape[1], 3))
    x, y = (np.ascontiguousarray(places[..., axis], np.float32) for axis in (0, 1))
    sampled = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled.astype(np.float64)


def _normalized(windows: Array, weights: Array) -> tuple[Array, Array]:
    """Windows less the mean of each channel, by their contrast; and the contrast."""
    windows = windows - 3 * (weights * windows).sum(axis=1, keepdims=True)
    contrast = np.sqrt((weights * windows**2).sum(axis=(1, 2), keepdims=True)) + 1e-3
    return windows / contrast, contrast
