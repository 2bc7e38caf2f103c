"""Where points of a rigid object go, whose poses are known: how deep they lie decides.

A point of the first frame lies on a ray. Of all depths on it, that one is taken for which a small
window around the point, carried along with the surface, looks the same in the next frames.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from posetraj_jax.cameras.structure import Structure, agreeing, normalised

Array = np.ndarray

NEIGHBOURS = 12
"""Features around a point that tell about how deep it lies."""
DEPTHS, FINER = 33, 9
"""Depths that are tried, evenly in the inverse depth; then as many closely around the best."""
MARGIN = 0.25
"""How far beyond the neighbours' depths is looked, in their range."""
LOOKED_AT = 4
"""Frames nearest to the first that are compared with it."""
FAR_WEIGHT = 0.15
"""What a depth as far from its neighbours' as they are apart costs, in correlation."""


class Surface(NamedTuple):
    """Points with the surface around them, as the first frame shows it."""

    seeds: Float[Array, "p 2"]
    """Pixels of the first frame."""
    inverse: Float[Array, "p 3"]
    """Inverse depth there, and how it changes per pixel to the right and down."""


def predicted(
    scene: Structure, surface: Surface, offsets: Float[Array, "p n 2"]
) -> Float[Array, "f p n 2"]:
    """Where what is seen `offsets` pixels from the points in the first frame goes; NaN unposed."""
    pixels = surface.seeds[:, None] + offsets
    rays = np.concatenate([normalised(pixels, scene.k), np.ones((*pixels.shape[:2], 1))], axis=2)
    inverse = surface.inverse[:, :1] + (offsets * surface.inverse[:, None, 1:]).sum(axis=2)
    inverse = np.maximum(inverse, 0.2 * surface.inverse[:, :1])
    first = rays / inverse[..., None]
    world = (first - scene.translations[0]) @ scene.rotations[0]
    there = np.einsum("fij,pnj->fpni", scene.rotations, world) + scene.translations[:, None, None]
    with np.errstate(all="ignore"):
        found = there[..., :2] / there[..., 2:] * np.diag(scene.k)[:2] + scene.k[:2, 2]
    found[(there[..., 2] <= 0) | ~scene.posed[:, None, None]] = np.nan
    return found


def located(
    scene: Structure,
    tracks_px: Float[Array, "f p 2"],
    pictures: Sequence[Float[Array, "h w 3"]],
    seeds: Float[Array, "q 2"],
    radius_px: int,
) -> Surface | None:
    """The surface around points of the first frame; None if too few features are seen there.

    Args:
        scene: its poses and features; the first frame must be posed.
        tracks_px: the features.
        pictures: smooth, of all frames, nothing but the object on them.
        seeds: pixels of the first frame.
        radius_px: half the side of the windows that are compared.
    """
    near = _neighbours(scene, tracks_px, seeds)
    if near is None:
        return None
    coarse, low, high = near
    others = np.flatnonzero(scene.posed)[1 : 1 + LOOKED_AT]
    if not len(others):
        return Surface(seeds, coarse)
    side = np.arange(-radius_px, radius_px + 1, 2, dtype=np.float64)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    part = scene._replace(
        rotations=scene.rotations[[0, *others]],
        translations=scene.translations[[0, *others]],
        posed=scene.posed[[0, *others]],
    )
    shown = [pictures[t] for t in (0, *others)]
    step = (high - low) / (DEPTHS - 1)
    best, most = coarse.copy(), np.full(len(seeds), -np.inf)
    for slopes in (coarse[:, 1:], 0 * coarse[:, 1:]):
        tried = low[:, None] + step[:, None] * np.arange(DEPTHS)
        for _ in range(2):
            alike = _alike(part, shown, seeds, tried, slopes, grid)
            alike -= FAR_WEIGHT * np.abs(tried - coarse[:, :1]) / (high - low)[:, None]
            chosen = alike.argmax(axis=1)
            where, value = tried[np.arange(len(seeds)), chosen], alike.max(axis=1)
            tried = where[:, None] + step[:, None] * np.linspace(-1, 1, FINER)
        better = value > most
        best[better] = np.concatenate([where[:, None], slopes], axis=1)[better]
        most = np.maximum(most, value)
    return Surface(seeds, best)


def _neighbours(
    scene: Structure, tracks_px: Array, seeds: Array
) -> tuple[Float[Array, "q 3"], Float[Array, "q"], Float[Array, "q"]] | None:
    """Inverse depths and their slopes by the features around points, and where to look."""
    good = np.flatnonzero(agreeing(scene, tracks_px)[0])
    if len(good) < NEIGHBOURS:
        return None
    depth = (scene.points[good] @ scene.rotations[0].T + scene.translations[0])[:, 2]
    inverse, places = 1.0 / depth, tracks_px[0, good]
    apart = np.linalg.norm(places[None] - seeds[:, None], axis=2)
    order = np.argsort(apart, axis=1, kind="stable")[:, :NEIGHBOURS]
    offset = places[order] - seeds[:, None]
    values, apart = inverse[order], np.take_along_axis(apart, order, axis=1)
    middle = np.median(values, axis=1)
    spread = np.percentile(inverse, 98) - np.percentile(inverse, 2) + 1e-9
    weight = 1.0 / (4.0 + apart)
    columns = np.concatenate([np.ones((*offset.shape[:2], 1)), offset], axis=2)
    prior = np.diag([0.0, 1.0, 1.0]) * 4.0
    for _ in range(3):
        weighted = weight[..., None] * columns
        left = weighted.swapaxes(1, 2) @ columns + prior
        right = weighted.swapaxes(1, 2) @ (values - middle[:, None])[..., None]
        fit = np.linalg.solve(left, right)[..., 0]
        error = np.abs((columns * fit[:, None]).sum(axis=2) + middle[:, None] - values)
        weight = 1.0 / (4.0 + apart) / (1.0 + (error / (0.05 * spread)) ** 2)
    fit[:, 0] += middle
    room = MARGIN * (values.max(axis=1) - values.min(axis=1)) + 0.05 * spread
    return fit, values.min(axis=1) - room, values.max(axis=1) + room


def _alike(
    scene: Structure, pictures: list, seeds: Array, tried: Array, slopes: Array, grid: Array
) -> Float[Array, "q d"]:
    """How much windows look the same in all frames if the points lie at these inverse depths."""
    count, depths = tried.shape
    weights = np.exp(-0.5 * (grid**2).sum(axis=1) / (0.6 * grid.max()) ** 2)
    weights /= weights.sum() * 3
    inverse = np.concatenate([tried[..., None], np.repeat(slopes[:, None], depths, axis=1)], axis=2)
    surface = Surface(np.repeat(seeds, depths, axis=0), inverse.reshape(-1, 3))
    offsets = np.broadcast_to(grid, (count * depths, *grid.shape))
    places = np.nan_to_num(predicted(scene, surface, offsets), nan=-1e4)
    wanted = _normalized(_sampled(pictures[0], (seeds[:, None] + grid)), weights)
    wanted = np.repeat(wanted, depths, axis=0)
    total = np.zeros(count * depths)
    for picture, where in zip(pictures[1:], places[1:], strict=True):
        seen = _normalized(_sampled(picture, where), weights)
        total += np.maximum((weights[:, None] * wanted * seen).sum(axis=(1, 2)), 0) ** 2
    return (total / (len(pictures) - 1)).reshape(count, depths)


def _sampled(picture: Array, places: Array) -> Array:
    x, y = (np.ascontiguousarray(places[..., axis] - 0.5, np.float32) for axis in (0, 1))
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _normalized(windows: Array, weights: Array) -> Array:
    windows = windows - 3 * (weights[:, None] * windows).sum(axis=1, keepdims=True)
    contrast = np.sqrt((weights[:, None] * windows**2).sum(axis=(1, 2), keepdims=True))
    return windows / (contrast + 1.0)
