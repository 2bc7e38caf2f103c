"""A smooth curve through control points, and places on it by arc length.

Source: centripetal Catmull-Rom: C. Yuksel, S. Schaefer, J. Keyser, "Parameterization and
applications of Catmull-Rom curves", Computer-Aided Design 43 (2011). Between two control points it
never makes a loop or a cusp, and it stays near the straight line, however unequal the distances.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray

SAME_PX = 1e-6
"""Control points that are nearer to each other make one place: where the track waits."""
FEWEST_STEPS, MOST_STEPS, STEPS_IN_ALL = 16, 512, 65_536
"""Straight pieces that a segment's length is measured with."""
DRAWN_IN_ALL = 4_096
"""Straight pieces that are drawn, or one for each segment."""
SAME_TIME = 1e-9


class Curve(NamedTuple):
    """Cubic segments between distinct control points."""

    points: Float[Array, "n 2"]
    velocities: Float[Array, "n 2"]
    """Derivatives at the control points."""
    knots: Float[Array, "m"]
    """How long each of the n - 1 segments takes."""


def sample_spline(
    control: Float[Array, "n 2"], moments: Float[Array, "f"], times: Float[Array, "n"] | None = None
) -> tuple[Float[Array, "f 2"], Int[Array, "f"]]:
    """Points of the curve through control points, and the last control point reached so far.

    Args:
        control: at least one.
        moments: in [0, 1], from the start of the curve to its end.
        times: when each control point is reached, increasing from 0 to 1; the speed is constant
            from one to the next. None: constant speed all along.
    """
    distinct = _distinct(control)
    curve = catmull_rom(control[distinct])
    fine, length = measure(curve)
    at_distinct = np.interp(np.arange(len(curve.points)), fine, length)
    at_control = at_distinct[np.cumsum(distinct) - 1]
    if times is None:
        place = moments * length[-1]
        reached = np.searchsorted(at_control, place + SAME_PX, side="right") - 1
    else:
        place = np.interp(moments, times, at_control)
        reached = np.searchsorted(times, moments + SAME_TIME, side="right") - 1
    return evaluate(curve, np.interp(place, length, fine)), reached


def trace_spline(control: Float[Array, "n 2"]) -> Float[Array, "m 2"]:
    """Points along the whole curve, near enough to each other to be drawn as lines."""
    curve = catmull_rom(control[_distinct(control)])
    segments = len(curve.points) - 1
    pieces = int(np.clip(DRAWN_IN_ALL // max(1, segments), 1, FEWEST_STEPS))
    return evaluate(curve, np.arange(segments * pieces + 1) / pieces)


def _distinct(control: Array) -> Array:
    """Which control points are not where the one before is."""
    return np.concatenate([[True], np.hypot(*np.diff(control, axis=0).T) > SAME_PX])


def catmull_rom(points: Float[Array, "n 2"]) -> Curve:
    """The centripetal curve through points, each different from the one before.

    Beyond either end it goes on as the mirror image of the first and of the last segment.
    """
    if len(points) == 1:
        return Curve(points, np.zeros((1, 2)), np.zeros(0))
    ends = 2 * points[[0, -1]] - points[[1, -2]]
    steps = np.diff(np.concatenate([ends[:1], points, ends[1:]]), axis=0)
    knots = np.sqrt(np.hypot(*steps.T))
    before, after = knots[:-1, None], knots[1:, None]
    velocities = (
        steps[:-1] / before - (steps[:-1] + steps[1:]) / (before + after) + steps[1:] / after
    )
    return Curve(points, velocities, knots[1:-1])


def evaluate(curve: Curve, at: Float[Array, "m"]) -> Float[Array, "m 2"]:
    """Points of the curve; 0 is the first control point, 1 the second, and so on."""
    if len(curve.points) == 1:
        return np.repeat(curve.points, len(at), axis=0)
    segment = np.clip(at.astype(int), 0, len(curve.points) - 2)
    s, knot = (at - segment)[:, None], curve.knots[segment][:, None]
    start, end = curve.points[segment], curve.points[segment + 1]
    out, into = curve.velocities[segment] * knot, curve.velocities[segment + 1] * knot
    rest = 1 - s
    return (
        (1 + 2 * s) * rest**2 * start
        + s * rest**2 * out
        + (3 - 2 * s) * s**2 * end
        - rest * s**2 * into
    )


def measure(curve: Curve) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """Many places along the curve, all control points among them, and the arc length up to each."""
    segments = len(curve.points) - 1
    if not segments:
        return np.zeros(1), np.zeros(1)
    steps = int(np.clip(STEPS_IN_ALL // segments, FEWEST_STEPS, MOST_STEPS))
    fine = np.arange(segments * steps + 1) / steps
    pieces = np.hypot(*np.diff(evaluate(curve, fine), axis=0).T)
    return fine, np.concatenate([[0.0], np.cumsum(pieces)])
