"""How a camera moves: around the scene, towards it, past it, up. One eye and target per frame."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_prep.scenes import geometry
from data_prep.scenes.scene import Camera, as_matrix


class Flight(NamedTuple):
    """Where the camera is and what it looks at, frame by frame."""

    eyes: np.ndarray
    """[f 3] metres."""
    targets: np.ndarray
    """[f 3] metres."""


def _orbit(along: np.ndarray, rng: np.random.Generator) -> Flight:
    """Around the scene at one height, 35 to 50 degrees."""
    sweep = np.deg2rad(rng.uniform(35.0, 50.0))
    angles = (along - 0.5) * sweep - np.pi / 2
    circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1)
    return Flight(5.4 * circle + [0.0, 0.0, 2.4], np.tile([0.0, 0.0, 0.2], (len(along), 1)))


def _dolly(along: np.ndarray, rng: np.random.Generator) -> Flight:
    """Straight towards the scene, from 6.8 m to 4.6 m."""
    away = np.array([rng.uniform(-0.3, 0.3), -1.0, 0.42])
    distance = 6.8 - 2.2 * along
    targets = np.tile([0.0, 0.0, 0.2], (len(along), 1))
    return Flight(targets + distance[:, None] * away / np.linalg.norm(away), targets)


def _truck(along: np.ndarray, rng: np.random.Generator) -> Flight:
    """Sideways by 1.6 to 2 m without turning."""
    aside = (along - 0.5)[:, None] * [rng.uniform(1.6, 2.0), 0.0, 0.0]
    return Flight(np.array([0.0, -5.4, 2.2]) + aside, np.array([0.0, 0.0, 0.2]) + aside)


def _crane(along: np.ndarray, rng: np.random.Generator) -> Flight:
    """Up from the height of the objects to 3.4 m."""
    height = 0.9 + 2.5 * along
    eyes = np.stack([0 * along + rng.uniform(-0.8, 0.8), 0 * along - 5.2, height], axis=-1)
    return Flight(eyes, np.tile([0.0, 0.0, 0.3], (len(along), 1)))


MOTIONS: dict[str, Callable[[np.ndarray, np.random.Generator], Flight]] = {
    "orbit": _orbit,
    "dolly": _dolly,
    "truck": _truck,
    "crane": _crane,
}


def moving_cameras(
    motion: str, frames: int, k: np.ndarray, rng: np.random.Generator
) -> tuple[Camera, ...]:
    """One camera per frame; it starts and stops softly, in either direction for orbit and truck.

    Args:
        motion: one of MOTIONS.
        frames: how many.
        k: intrinsics [3 3] of all, pixels.
        rng: of direction and extent.
    """
    along = 0.5 - 0.5 * np.cos(np.pi * np.linspace(0.0, 1.0, frames))
    if motion in ("orbit", "truck") and rng.integers(2):
        along = 1.0 - along
    return tuple(
        Camera(as_matrix(k), as_matrix(geometry.looking_at_rt(eye, target)))
        for eye, target in zip(*MOTIONS[motion](along, rng), strict=True)
    )
