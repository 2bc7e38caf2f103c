"""Curves through control points: exact numbers, constant speed, and bounds for any points."""

from itertools import pairwise

import numpy as np
import pytest

from posetraj_jax.trajectories.spline import catmull_rom, evaluate, sample_spline, trace_spline

SEEDS = range(20)


def random_points(seed: int) -> np.ndarray:
    """2 to 7 control points [n 2] whose distances differ by up to 10^6."""
    rng = np.random.default_rng(seed)
    count = rng.integers(2, 8)
    lengths, angles = 10 ** rng.uniform(-3, 3, count), rng.uniform(0, 2 * np.pi, count)
    return np.cumsum(lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1), axis=0)


def along(count: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, count)


def test_two_points_make_a_straight_line_at_constant_speed():
    points, reached = sample_spline(np.array([[10.0, 20.0], [70.0, 100.0]]), along(5))
    np.testing.assert_allclose(points, [[10, 20], [25, 40], [40, 60], [55, 80], [70, 100]])
    np.testing.assert_array_equal(reached, [0, 0, 0, 0, 1])


def test_points_on_a_line_stay_on_it():
    control = np.array([[0.0, 0.0], [1.0, 2.0], [10.0, 20.0], [11.0, 22.0]])
    points, reached = sample_spline(control, along(12))
    np.testing.assert_allclose(points, along(12)[:, None] * [11, 22], atol=1e-3)
    np.testing.assert_array_equal(reached, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3])


def test_a_symmetric_curve_has_the_known_middle():
    """Uniform distances: the cubic of Catmull and Rom, (-a + 9 b + 9 c - d) / 16 in the middle."""
    control = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 1.0]])
    middle = evaluate(catmull_rom(control), np.array([1.5]))
    np.testing.assert_allclose(middle, (9 * control[1:2] + 9 * control[2:3] - [[2, 1]]) / 16)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_curve_passes_through_every_control_point_and_is_smooth(seed):
    control = random_points(seed)
    curve = catmull_rom(control)
    knots = np.arange(len(control), dtype=float)
    np.testing.assert_allclose(evaluate(curve, knots), control, atol=1e-9)
    trace = trace_spline(control)
    np.testing.assert_allclose(trace[::16], control, atol=1e-9)
    # In the curve's own time, the velocity is the same before and after a control point.
    small, at = 1e-7, knots[1:-1]
    before = (control[1:-1] - evaluate(curve, at - small)) / small / curve.knots[:-1, None]
    after = (evaluate(curve, at + small) - control[1:-1]) / small / curve.knots[1:, None]
    speed = np.hypot(*curve.velocities[1:-1].T)[:, None]
    assert (np.abs(before - after) <= 1e-3 * speed).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_speed_is_constant_between_frames(seed):
    control, frames, fine = random_points(seed), 14, 2000
    dense, _ = sample_spline(control, along((frames - 1) * fine + 1))
    pieces = np.hypot(*np.diff(dense, axis=0).T).reshape(frames - 1, fine).sum(axis=1)
    np.testing.assert_allclose(pieces, pieces.mean(), rtol=0.01)
    np.testing.assert_allclose(sample_spline(control, along(frames))[0], dense[::fine], atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_segment_stays_near_its_line_and_has_no_loop(seed):
    """At most a quarter of its length away, however short the segments beside it are."""
    control = random_points(seed)
    curve = catmull_rom(control)
    for number, (start, end) in enumerate(pairwise(control)):
        points = evaluate(curve, number + np.linspace(0, 1, 400, endpoint=False))
        length = np.hypot(*(end - start))
        across, forward = (end - start) / length, points - start
        on_line = np.clip(forward @ across, 0, length)
        away = np.hypot(*(forward - on_line[:, None] * across).T)
        assert away.max() <= 0.25 * length
        directions = np.diff(points, axis=0)
        turned = np.unwrap(np.arctan2(*directions.T[::-1]))
        assert np.ptp(turned) < 2 * np.pi


def test_times_are_kept_and_the_speed_is_constant_between_them():
    control = np.array([[0.0, 0.0], [40.0, 10.0], [50.0, 80.0], [90.0, 90.0]])
    times = np.array([0.0, 0.1, 0.7, 1.0])
    fine = 200
    dense, reached = sample_spline(control, along(10 * fine + 1), times)
    np.testing.assert_allclose(dense[[0, fine, 7 * fine, 10 * fine]], control, atol=1e-6)
    pieces = np.hypot(*np.diff(dense, axis=0).T).reshape(10, fine).sum(axis=1)
    np.testing.assert_allclose(pieces[1:7], pieces[1:7].mean(), rtol=0.01)
    np.testing.assert_allclose(pieces[7:], pieces[7:].mean(), rtol=0.01)
    assert pieces[0] > 1.5 * pieces[1]
    np.testing.assert_array_equal(reached[::fine], [0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3])


def test_the_same_point_twice_is_a_pause():
    control = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    waiting, reached = sample_spline(control, along(7), np.array([0.0, 1 / 3, 2 / 3, 1.0]))
    np.testing.assert_allclose(waiting[:, 0], [0, 5, 10, 10, 10, 15, 20], atol=1e-9)
    np.testing.assert_array_equal(reached, [0, 0, 1, 1, 2, 2, 3])
    passing, _ = sample_spline(control, along(5))
    np.testing.assert_allclose(passing[:, 0], [0, 5, 10, 15, 20], atol=1e-9)


def test_points_that_are_all_the_same_stay():
    points, reached = sample_spline(np.full((3, 2), 7.0), along(4))
    np.testing.assert_array_equal(points, np.full((4, 2), 7.0))
    np.testing.assert_array_equal(reached, [2, 2, 2, 2])


def test_one_frame_is_the_start():
    points, _ = sample_spline(random_points(0), along(1))
    np.testing.assert_allclose(points, random_points(0)[:1])


def test_back_and_forth_stays_on_the_line():
    points, _ = sample_spline(np.array([[0.0, 5.0], [10.0, 5.0], [0.0, 5.0]]), along(5))
    np.testing.assert_allclose(points, [[0, 5], [5, 5], [10, 5], [5, 5], [0, 5]], atol=1e-2)
