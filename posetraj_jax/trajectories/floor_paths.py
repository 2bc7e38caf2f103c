"""The floor paths of PoseTraj-10K: one half circle, or two that make an S; and some more.

Source: the official renderer. Differs: positions are exact points of the curve at equal steps of
arc length, where the official Follow-Path walks a 32-vertex polyline that holds the S's middle
point twice; the phase may be any angle (the official draws integers 0..90, used as radians). The
official renderer knows an ellipse and a line too, but never draws them; spiral and figure-eight are
ours.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

CIRCLE_RADIUS = 1.1
S_RADIUS = 0.49
FLATNESS = 0.5
SPIRAL_END, SPIRAL_TURNS = 0.35, 1.25
FINE_STEPS, TANGENT_STEP = 4_000, 1e-5
ROTATIONAL = ("S", "circle")
"""The curves of PoseTraj-10K."""
CURVES = (*ROTATIONAL, "ellipse", "line", "spiral", "eight")
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


def circle_path(
    phase: float, count: int, *, radius: float = CIRCLE_RADIUS, angle: float = np.pi
) -> Path:
    """Part of a circle about the origin, from angle `phase` (rad) over `angle` (rad).

    It is travelled counter-clockwise, or clockwise where `angle` is negative.
    """
    angles = phase + angle * np.linspace(0.0, 1.0, count)
    return _arc(angles, np.zeros(2), radius, +1 if angle > 0 else -1)


def s_path(phase: float, count: int, *, radius: float = S_RADIUS, angle: float = np.pi) -> Path:
    """Two arcs of one radius that join smoothly into an S; half circles in the dataset.

    The first turns counter-clockwise about the origin from angle `phase` (rad) over `angle`, the
    second as far clockwise; the other way round where `angle` is negative. The ends of two half
    circles are 4 r apart: 1.96 m in the dataset.
    """
    along = np.linspace(0.0, 2.0, count)
    turn = +1 if angle > 0 else -1
    # Both centres and the point where the arcs meet are on one line, in this direction.
    beyond = phase + (angle - np.pi)
    meeting = -np.array([np.cos(beyond), np.sin(beyond)])
    first = _arc(phase + angle * along, np.zeros(2), radius, turn)
    second = _arc(beyond - angle * (along - 1.0), 2 * radius * meeting, radius, -turn)
    chosen = (along <= 1.0)[:, None]
    return Path(*(np.where(chosen, a, b) for a, b in zip(first, second, strict=True)))


def ellipse_path(phase: float, count: int) -> Path:
    """Half of an ellipse about the origin, 1.1 m by 0.55 m, from parameter `phase` (rad)."""
    return _by_arc_length(
        lambda s: (
            CIRCLE_RADIUS
            * np.stack([np.cos(phase + np.pi * s), FLATNESS * np.sin(phase + np.pi * s)], axis=-1)
        ),
        count,
    )


def line_path(phase: float, count: int, *, length: float = 2 * CIRCLE_RADIUS) -> Path:
    """Straight through the origin, which lies in the middle, in direction `phase` (rad)."""
    direction = np.array([np.cos(phase), np.sin(phase)])
    along = length / 2 * np.linspace(-1.0, 1.0, count)
    return Path(along[:, None] * direction, np.tile(direction, (count, 1)))


def spiral_path(phase: float, count: int) -> Path:
    """Counter-clockwise inwards, one turn and a quarter, from 1.1 m to 0.35 m off the origin."""

    def spiral(s: np.ndarray) -> np.ndarray:
        radius = CIRCLE_RADIUS + s * (SPIRAL_END - CIRCLE_RADIUS)
        angle = phase + 2 * np.pi * SPIRAL_TURNS * s
        return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)

    return _by_arc_length(spiral, count)


def eight_path(phase: float, count: int) -> Path:
    """A whole figure-eight 2.2 m long, through the origin, turned by `phase` (rad).

    Gerono's lemniscate, from its far end; start and end are one point.
    """

    def eight(s: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * s
        x, y = CIRCLE_RADIUS * np.cos(angle), CIRCLE_RADIUS * np.sin(angle) * np.cos(angle)
        return np.stack(
            [np.cos(phase) * x - np.sin(phase) * y, np.sin(phase) * x + np.cos(phase) * y], axis=-1
        )

    return _by_arc_length(eight, count)


def _by_arc_length(curve: Callable[[np.ndarray], np.ndarray], count: int) -> Path:
    """Points of a curve, given on 0..1, at equal steps of its length."""
    fine = np.linspace(0.0, 1.0, FINE_STEPS + 1)
    points = curve(fine)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    places = np.interp(np.linspace(0.0, length[-1], count), length, fine)
    ahead = curve(places + TANGENT_STEP) - curve(places - TANGENT_STEP)
    return Path(curve(places), ahead / np.linalg.norm(ahead, axis=1, keepdims=True))


MAKERS: dict[str, Callable[[float, int], Path]] = {
    "S": s_path,
    "circle": circle_path,
    "ellipse": ellipse_path,
    "line": line_path,
    "spiral": spiral_path,
    "eight": eight_path,
}


def make_path(curve: str, phase: float, count: int, *, backwards: bool = False) -> Path:
    """The path named `curve`, one of CURVES, with `count` >= 2 positions.

    `backwards` travels it from its end to its start (the official renderer never does).

    Raises:
        ValueError: another name or count.
    """
    if curve not in CURVES or count < 2:
        raise ValueError(f"expected a curve of {CURVES} with 2 or more points: {curve!r}, {count}")
    path = MAKERS[curve](phase, count)
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
