"""The focal length, where the motion of the camera tells it."""

import numpy as np
from jaxtyping import Float

from posetraj_jax.cameras.bundle import focal_deviation
from posetraj_jax.cameras.reconstruct import reconstructed, trial
from posetraj_jax.cameras.structure import Structure, agreeing, cost
from posetraj_jax.cameras.turning import turning

Array = np.ndarray

ASSUMED = 1.0
"""Focal length by the larger side: 53 degrees from one side of the picture to the other."""
STARTS = (1.0, 0.6, 1.7)
"""Focal lengths, by the larger side, from which the right one is sought."""
SHORTEST, LONGEST = 0.35, 4.0
"""No camera is believed to have a shorter or longer one, by the larger side."""
CERTAIN = 0.02
"""The standard deviation of the logarithm below which an estimate is believed. It is computed as if
noise were independent; in truth it is a few times as much."""
GRID = np.geomspace(SHORTEST, LONGEST, 15)
NARROWED = 12
"""Steps of golden section after the grid."""
TOLD = 1.1
"""How many times the lowest cost a focal length 1.15 times as long or short must cost."""


def assumed_k(size: tuple[int, int]) -> Float[Array, "3 3"]:
    """Intrinsics [3 3] with square pixels and the assumed focal length; `size` is (h, w)."""
    return _k(size, ASSUMED)


def _k(size: tuple[int, int], by_side: float) -> Array:
    height, width = size
    f = by_side * max(size)
    return np.array([[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]])


def of_moving(
    tracks_px: Float[Array, "f p 2"], size: tuple[int, int], pair: tuple[int, int]
) -> tuple[Structure | None, str]:
    """The best structure, and whether its focal length was `estimated` or `assumed`."""
    likely = ASSUMED * max(size)
    found = [trial(tracks_px, _k(size, start), pair, likely) for start in STARTS]
    tried = [each for each in found if each is not None and _plausible(each[1].k, size)]
    if tried:
        k = min(tried, key=lambda each: each[0])[1].k
        scene = reconstructed(tracks_px, k, pair, likely_focal=likely)
        if scene is not None and _told(scene, tracks_px, size):
            return scene, "estimated"
    return reconstructed(tracks_px, assumed_k(size), pair), "assumed"


def _told(scene: Structure, tracks_px: Array, size: tuple[int, int]) -> bool:
    """Whether the focal length of a whole structure can be believed."""
    if not (scene.posed.all() and _plausible(scene.k, size)):
        return False
    return focal_deviation(scene, tracks_px, agreeing(scene, tracks_px)) < CERTAIN


def _plausible(k: Array, size: tuple[int, int]) -> bool:
    return bool(SHORTEST <= k[0, 0] / max(size) <= LONGEST)


def of_turning(
    tracks_px: Float[Array, "f p 2"], size: tuple[int, int]
) -> tuple[Float[Array, "3 3"], str]:
    """Intrinsics for which a camera that only turns explains most, and where they are from."""
    seen = np.isfinite(tracks_px[..., 0])

    def price(log_focal: float) -> float:
        k = _k(size, float(np.exp(log_focal)))
        return cost(turning(tracks_px, k).residuals_px, seen)

    logs = np.log(GRID)
    prices = [price(each) for each in logs]
    best = int(np.argmin(prices))
    if best in (0, len(GRID) - 1):
        return assumed_k(size), "assumed"
    low, high = logs[best - 1], logs[best + 1]
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    for _ in range(NARROWED):
        one, two = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, two) if price(one) < price(two) else (one, high)
    middle = (low + high) / 2
    beside = min(price(middle + step) for step in (-np.log(1.15), np.log(1.15)))
    if beside < TOLD * price(middle):
        return assumed_k(size), "assumed"
    return _k(size, float(np.exp(middle))), "estimated"
