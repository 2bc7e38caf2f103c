import numpy as np
import pytest

from posetraj_jax.trajectories import floor_paths

LENGTHS = {"circle": np.pi * 1.1, "S": 2 * np.pi * 0.49, "line": 2.2}


def test_circle_is_half_a_circle_of_radius_1_1():
    path = floor_paths.make_path("circle", 0.0, 3)
    np.testing.assert_allclose(path.points, [[1.1, 0], [0, 1.1], [-1.1, 0]], atol=1e-12)
    np.testing.assert_allclose(path.tangents, [[0, 1], [-1, 0], [0, -1]], atol=1e-12)


def test_s_is_two_half_circles():
    path = floor_paths.make_path("S", 0.0, 5)
    r = 0.49
    np.testing.assert_allclose(
        path.points, [[r, 0], [0, r], [-r, 0], [-2 * r, -r], [-3 * r, 0]], atol=1e-12
    )
    np.testing.assert_allclose(
        path.tangents, [[0, 1], [-1, 0], [0, -1], [-1, 0], [0, 1]], atol=1e-12
    )


def test_s_spans_1_96_and_phase_turns_it():
    straight, turned = (floor_paths.make_path("S", phase, 14).points for phase in (0.0, 0.7))
    assert np.linalg.norm(straight[-1] - straight[0]) == pytest.approx(4 * 0.49)
    cos, sin = np.cos(0.7), np.sin(0.7)
    np.testing.assert_allclose(turned, straight @ [[cos, sin], [-sin, cos]], atol=1e-12)


@pytest.mark.parametrize("curve", floor_paths.CURVES)
def test_steps_along_the_arc_are_equal(curve):
    count, fine = 14, 500
    dense = floor_paths.make_path(curve, 1.3, (count - 1) * fine + 1).points
    steps = np.linalg.norm(np.diff(dense, axis=0), axis=1).reshape(count - 1, fine).sum(axis=1)
    length = LENGTHS.get(curve, steps.sum())
    np.testing.assert_allclose(steps, length / (count - 1), rtol=1e-4)
    np.testing.assert_allclose(
        dense[::fine], floor_paths.make_path(curve, 1.3, count).points, atol=1e-6
    )


@pytest.mark.parametrize("curve", floor_paths.CURVES)
@pytest.mark.parametrize("backwards", [False, True])
def test_tangents_are_the_direction_of_travel(curve, backwards):
    path = floor_paths.make_path(curve, 0.4, 2001, backwards=backwards)
    moved = np.diff(path.points, axis=0)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    # A chord has the mean direction of the tangents at its ends.
    between = path.tangents[:-1] + path.tangents[1:]
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    np.testing.assert_allclose(moved, between, atol=2e-3)


def test_backwards_swaps_the_ends():
    forth, back = (floor_paths.make_path("S", 2.0, 14, backwards=b) for b in (False, True))
    np.testing.assert_array_equal(forth.points, back.points[::-1])


def test_ellipse_line_spiral_and_eight_have_their_shapes():
    ellipse = floor_paths.make_path("ellipse", 0.7, 50).points
    np.testing.assert_allclose((ellipse / [1.1, 0.55]) ** 2 @ [1, 1], 1, atol=1e-9)
    line = floor_paths.make_path("line", 0.7, 3).points
    np.testing.assert_allclose(line[2], 1.1 * np.array([np.cos(0.7), np.sin(0.7)]))
    spiral = floor_paths.make_path("spiral", 0.7, 50).points
    radii = np.linalg.norm(spiral, axis=1)
    assert (np.diff(radii) < 0).all()
    np.testing.assert_allclose(radii[[0, -1]], [1.1, 0.35])
    eight = floor_paths.make_path("eight", 0.7, 51).points
    np.testing.assert_allclose(eight[0], eight[-1], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(eight, axis=1).max(), 1.1, atol=1e-6)
    np.testing.assert_allclose(eight.mean(axis=0), eight[0] / 51, atol=1e-2)


def test_headings():
    path = floor_paths.make_path("circle", 0.0, 3)
    np.testing.assert_array_equal(floor_paths.heading_directions(path, "tangent"), path.tangents)
    np.testing.assert_array_equal(floor_paths.heading_directions(path, "centre"), -path.points)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="zigzag"):
        floor_paths.make_path("zigzag", 0.0, 14)
    with pytest.raises(ValueError, match="sideways"):
        floor_paths.heading_directions(floor_paths.make_path("S", 0.0, 14), "sideways")


@pytest.mark.parametrize("angle", [-4.0, -np.pi, 0.5, np.pi])
def test_arcs_of_any_angle_and_radius(angle):
    arc = floor_paths.circle_path(0.3, 41, radius=0.6, angle=angle)
    np.testing.assert_allclose(np.linalg.norm(arc.points, axis=1), 0.6)
    np.testing.assert_allclose(
        arc.tangents[0], np.sign(angle) * np.array([-np.sin(0.3), np.cos(0.3)])
    )
    turned = np.unwrap(np.arctan2(*arc.points.T[::-1]))
    assert turned[-1] - turned[0] == pytest.approx(angle)

    both = floor_paths.s_path(0.3, 81, radius=0.6, angle=angle)
    np.testing.assert_allclose(both.points[:41], arc.points, atol=1e-12)
    # The second arc is the first one turned by half a turn about the point where they meet.
    np.testing.assert_allclose(
        both.points[40:], 2 * both.points[40] - both.points[40::-1], atol=1e-12
    )
    np.testing.assert_allclose(both.tangents[40:], both.tangents[40::-1], atol=1e-12)


def test_lines_of_any_length():
    line = floor_paths.line_path(0.3, 5, length=0.8).points
    np.testing.assert_allclose(np.linalg.norm(np.diff(line, axis=0), axis=1), 0.2)
    np.testing.assert_allclose(line[2], 0, atol=1e-12)
