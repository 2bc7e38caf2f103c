"""The floor paths of PoseTraj-10K: one half circle, or two that make an S.

Source: the official renderer. Differs: positions are exact points of the curve at equal steps of
arc length, where the official Follow-Path walks a 32-vertex polyline that holds the S's middle
point twice; the phase may be any angle (the official draws integers 0..90, used as radians).
"""

from typing import NamedTuple

import numpy as np

CIRCLE_RADIUS = 1.1
S_RADIUS = 0.49
CURVES = ("S", "circle")
HEADINGS = ("tangent", "centre")


class Path(NamedTuple):
    """A curve on the floor at equal steps of arc length, from its start to its end."""

    points: np.ndarray
    """[n 2] positions in metres."""
    tangents: np.ndarray
    """[n 2] unit directions of travel."""


def _arc(angles: np.ndarray, centre: np.ndarray, radius: float, turn: int) -> Path:
    """Points of a circle; `turn` is +1 when travelled counter-clockwise, -1 when clockwise."""
    radial = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    normal = np.stack([-radial[:, 1], radial[:, 0]], axis=-1)
    return Path(centre + radius * radial, turn * normal)


def circle_path(phase: float, count: int) -> Path:
    """Counter-clockwise half circle of radius 1.1 m about the origin, from angle `phase` (rad)."""
    angles = phase + np.pi * np.linspace(0.0, 1.0, count)
    return _arc(angles, np.zeros(2), CIRCLE_RADIUS, +1)


def s_path(phase: float, count: int) -> Path:
    """Two half circles of radius 0.49 m that join smoothly into an S.

    The first turns counter-clockwise about the origin from angle `phase` (rad), the second
    clockwise about -2 r (cos phase, sin phase); the ends are 4 r = 1.96 m apart.
    """
    along = np.linspace(0.0, 2.0, count)
    start = np.array([np.cos(phase), np.sin(phase)])
    first = _arc(phase + np.pi * along, np.zeros(2), S_RADIUS, +1)
    second = _arc(phase - np.pi * (along - 1.0), -2 * S_RADIUS * start, S_RADIUS, -1)
    chosen = (along <= 1.0)[:, None]
    return Path(*(np.where(chosen, a, b) for a, b in zip(first, second, strict=True)))


def make_path(curve: str, phase: float, count: int, *, backwards: bool = False) -> Path:
    """The path named `curve` ('S' or 'circle') with `count` >= 2 positions.

    `backwards` travels it from its end to its start (the official renderer never does).

    Raises:
        ValueError: another name or count.
    """
    if curve not in CURVES or count < 2:
        raise ValueError(f"expected a curve of {CURVES} with 2 or more points: {curve!r}, {count}")
    path = (s_path if curve == "S" else circle_path)(phase, count)
    return Path(path.points[::-1], -path.tangents[::-1]) if backwards else path


def heading_directions(path: Path, heading: str) -> np.ndarray:
    """Where the object's front points [n 2] at each position.

    'tangent' looks where the object goes; 'centre' looks at the origin all the time, as the
    official renderer does (there an object travels sideways on the circle).

    Raises:
        ValueError: another name.
    """
    if heading not in HEADINGS:
        raise ValueError(f"expected a heading of {HEADINGS}, got {heading!r}")
    return path.tangents if heading == "tangent" else -path.points
