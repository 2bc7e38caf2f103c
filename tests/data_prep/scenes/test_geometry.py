import numpy as np
import pytest

from data_prep.scenes import geometry


def test_official_view_projects_as_the_official_renderer():
    k, rt = geometry.official_k(720, 480), geometry.official_rt()
    points = np.array([[0, 0, 0], [1.1, 0, 0], [0, -1.1, 0]], float)
    pixels = geometry.project(points, k, rt)
    np.testing.assert_allclose(pixels[0], [360, 293.727], atol=1e-3)
    np.testing.assert_allclose(pixels[1, 0], 570.524, atol=1e-3)
    np.testing.assert_allclose(pixels[2, 1], 408.672, atol=1e-3)
    np.testing.assert_allclose(geometry.depth(points[0], rt), 5.2251, atol=1e-4)


def test_smaller_picture_is_the_same_view_stretched():
    rt = geometry.official_rt()
    points = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    large = geometry.project(points, geometry.official_k(720, 480), rt)
    small = geometry.project(points, geometry.official_k(576, 320), rt)
    np.testing.assert_allclose(small, large * [576 / 720, 320 / 480])
    np.testing.assert_allclose(
        geometry.official_k(576, 320), [[800, 0, 288], [0, 2000 / 3, 160], [0, 0, 1]]
    )


def test_camera_rt_is_rigid_and_knows_its_centre():
    rt = geometry.official_rt()
    np.testing.assert_allclose(rt[:, :3] @ rt[:, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rt[:, :3]) == pytest.approx(1)
    np.testing.assert_allclose(geometry.camera_centre(rt), (0, -4.7, 2.3), atol=1e-12)


def test_camera_looks_straight_down_at_tilt_0():
    rt = geometry.tilted_camera_rt((0, 0, 5), 0)
    # Right in the picture is +x, down is -y.
    pixels = geometry.project(
        np.array([[0, 0, 0], [1, 0, 0], [0, 1.0, 0]]), np.diag([100.0, 100, 1]), rt
    )
    np.testing.assert_allclose(pixels, [[0, 0], [20, 0], [0, -20]], atol=1e-12)


@pytest.mark.parametrize(
    ("eye", "target"),
    [((0, -4.7, 2.3), (0, 0, 0)), ((3, 2, 0.5), (-1, 0.5, 2)), ((0, 1, 1), (0, 0, 1))],
)
def test_a_looking_camera_is_rigid_upright_and_has_its_target_in_the_middle(eye, target):
    rt = geometry.looking_at_rt(np.array(eye, float), np.array(target, float))
    np.testing.assert_allclose(rt[:, :3] @ rt[:, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rt[:, :3]) == pytest.approx(1)
    np.testing.assert_allclose(geometry.camera_centre(rt), eye, atol=1e-12)
    k = geometry.square_pixel_k(640, 360, 35)
    above = np.array(target) + np.array([0, 0, 0.1])
    (x, y), (x_above, y_above) = geometry.project(np.array([target, above]), k, rt)
    assert (x, y) == pytest.approx((320, 180))
    assert x_above == pytest.approx(320)
    assert y_above < 179


def test_a_camera_that_looks_down_is_the_official_one():
    down = np.array([0.0, np.sin(np.deg2rad(67)), -np.cos(np.deg2rad(67))])
    eye = np.array([0, -4.7, 2.3])
    np.testing.assert_allclose(
        geometry.looking_at_rt(eye, eye + 3 * down), geometry.official_rt(), atol=1e-12
    )


@pytest.mark.parametrize("target", [(1, 2, 9), (1, 2, 3)])
def test_a_vertical_view_is_refused(target):
    with pytest.raises(ValueError, match="upright"):
        geometry.looking_at_rt(np.array([1.0, 2, 3]), np.array(target, float))


def test_a_lens_as_long_as_its_sensor_is_wide_has_the_width_as_focal_length():
    k = geometry.square_pixel_k(640, 360, 36)
    np.testing.assert_allclose(k, [[640, 0, 320], [0, 640, 180], [0, 0, 1]])


@pytest.mark.parametrize("direction", [(0, -1), (1, 0), (0, 2), (-3, 0), (1, 1)])
def test_front_of_a_standing_object_looks_along_the_direction(direction):
    pose = geometry.standing_pose(np.array([2.0, 3.0]), np.array(direction, float))
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    front = geometry.transform(pose, np.array([0.0, -1.0, 0.0])) - [2, 3, 0]
    np.testing.assert_allclose(front, [*np.array(direction) / np.hypot(*direction), 0], atol=1e-12)


def test_a_heading_without_length_is_refused():
    with pytest.raises(ValueError, match="heading"):
        geometry.standing_pose(np.zeros(2), np.zeros(2))


def test_corner_numbers_are_4z_2y_x():
    corners = geometry.box_corners(np.zeros(3), np.array([1, 2, 3]))
    assert [tuple(corners[i]) for i in (0, 1, 2, 4, 7)] == [
        (0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 3), (1, 2, 3),
    ]  # fmt: skip


def test_edges_and_faces_follow_the_corner_numbers():
    corners = geometry.box_corners(np.zeros(3), np.array([1, 10, 100]))
    lengths = [np.abs(corners[a] - corners[b]).sum() for a, b in geometry.BOX_EDGES]
    assert sorted(lengths) == [1] * 4 + [10] * 4 + [100] * 4
    for side, face in enumerate(geometry.BOX_FACES):
        expected = (0, 0, 0)[side // 2] if side % 2 == 0 else (1, 10, 100)[side // 2]
        assert set(corners[list(face), side // 2]) == {expected}


def test_inside_picture_counts_the_margin():
    pixels = np.array([[0, 0], [4, 4], [96, 46], [97, 40], [100, 50], [101, 20]], float)
    assert geometry.inside_picture(pixels, 100, 50).tolist() == [True] * 5 + [False]
    inner = geometry.inside_picture(pixels, 100, 50, margin=4)
    assert inner.tolist() == [False, True, True, False, False, False]
