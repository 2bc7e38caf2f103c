"""Visibility, depth and tracks from triangles alone."""

import numpy as np
import pytest

from data_prep.engines import annotations
from data_prep.engines.annotations import Surface
from data_prep.scenes import geometry
from data_prep.scenes.posetraj import SceneOptions, Thing, make_scene
from data_prep.scenes.scene import SceneObject, as_matrix

SIDES = (0.5, 1.0, 0.4)
CORNERS = geometry.box_corners(np.array([-0.25, -0.5, 0]), np.array([0.25, 0.5, 0.4]))
RINGS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
BOX = Surface(CORNERS, np.array([t for a, b, c, d in RINGS for t in ((a, b, c), (a, c, d))]))


@pytest.fixture
def scene():
    return make_scene(SceneOptions(frames=3, width=192, height=128), [Thing("x", "x", SIDES)], 0)


def standing(scene, *places):
    poses = [geometry.standing_pose(np.array(p), np.array([0.0, -1.0])) for p in places]
    objects = tuple(SceneObject("x", 1.0, (as_matrix(pose),) * scene.frames) for pose in poses)
    return scene.__class__(**{**vars(scene), "objects": objects})


def test_boxes_are_those_of_the_vertices(scene):
    notes = annotations.annotate(scene, [BOX], "test-1")
    pose = np.array(scene.objects[0].poses[1])
    np.testing.assert_allclose(notes["box_world"][1, 0], geometry.transform(pose, CORNERS))
    np.testing.assert_allclose(notes["object_pose"][1, 0], pose)
    assert notes["box_px"].shape == (3, 1, 8, 2)
    assert notes["engine"] == "test-1"
    low, high = notes["box_px"].min(axis=2), notes["box_px"].max(axis=2)
    np.testing.assert_allclose(notes["mesh_rect_px"], np.concatenate([low, high], axis=-1))
    assert np.abs(notes["alone_rect_px"] - notes["mesh_rect_px"]).max() <= 1.0
    assert notes["alone_pixels"].min() > 100
    assert not notes["thin_tips"].any()


def test_tracked_points_are_named_and_lie_on_the_object(scene):
    tracked = annotations.tracked_points(scene, [BOX])
    assert tracked.kinds[:2] == ("floor", "centre")
    assert set(tracked.kinds[2:]) == {"surface"}
    np.testing.assert_allclose(tracked.points[0], 0)
    np.testing.assert_allclose(tracked.points[1], [0, 0, 0.2])
    on_a_side = np.isclose(tracked.points[2:, None], [CORNERS.min(0), CORNERS.max(0)]).any((1, 2))
    assert on_a_side.all()
    assert len(tracked.points) == 2 + 6 + scene.surface_points


def test_what_faces_away_is_hidden_and_what_faces_the_camera_is_seen(scene):
    scene = standing(scene, (0.0, 0.0))
    k, rt = (np.array(getattr(scene.cameras[0], name)) for name in ("k", "rt"))
    corners = [geometry.transform(np.array(scene.objects[0].poses[0]), CORNERS)[BOX.triangles]]
    # The camera stands at -y: the box shows its front and its top.
    points = np.array([[0, -0.5, 0.2], [0, 0.5, 0.2], [0, 0, 0.4], [0, 0, 0.0], [0, 0.499, 0.39]])
    kinds = ("surface",) * 5
    tracked = annotations.TrackedPoints(kinds, kinds, points, np.zeros(5, np.int32))
    hidden = annotations.hidden(points, tracked, corners, k, rt)
    assert hidden.tolist() == [False, True, False, True, True]
    whole = tracked._replace(kinds=("floor",) * 5)  # these stand for all of their object
    assert not annotations.hidden(points, whole, corners, k, rt).any()


def test_another_object_hides_all_kinds_of_points(scene):
    scene = standing(scene, (0.0, 0.9), (0.0, -0.4))
    notes = annotations.annotate(scene, [BOX, BOX], "test-1")
    first = notes["track_objects"] == 0
    kinds = notes["track_kinds"]
    assert not notes["tracks_visible"][0, first & (kinds == "floor")].any()
    assert notes["tracks_visible"][0, ~first & (kinds == "centre")].all()


def test_points_outside_the_picture_are_not_visible(scene):
    notes = annotations.annotate(standing(scene, (30.0, 0.0)), [BOX], "test-1")
    assert not notes["tracks_visible"].any()
    assert notes["alone_pixels"].max() == 0


def test_depth_is_the_nearer_of_floor_and_object(scene):
    scene = standing(scene, (0.0, 0.0))
    depth, mask = annotations.depth_and_mask(scene, [BOX], 0)
    k, rt = (np.array(getattr(scene.cameras[0], name)) for name in ("k", "rt"))
    floor = 1 / annotations.floor_inverse_depth(k, rt, 192, 128)
    np.testing.assert_array_equal(depth[mask == 0], floor[mask == 0])
    assert (depth[mask == 1] < floor[mask == 1]).all()
    assert set(np.unique(mask)) == {0, 1}
    # The depth of a pixel of the floor: its point is really on z = 0.
    row, column = 120, 30
    ray = np.linalg.inv(k) @ [column + 0.5, row + 0.5, 1.0]
    place = geometry.camera_centre(rt) + depth[row, column] * (ray @ rt[:, :3])
    assert place[2] == pytest.approx(0, abs=1e-4)


def test_above_the_horizon_there_is_nothing(scene):
    level = geometry.looking_at_rt(np.array([0, -5, 1.0]), np.array([0, 0, 1.0]))
    k = np.array(scene.cameras[0].k)
    inverse = annotations.floor_inverse_depth(k, level, 192, 128)
    assert (inverse[:64] == 0).all()
    assert (inverse[64:] > 0).all()


def test_a_tip_thinner_than_a_pixel_is_known_as_such(scene):
    needle = np.array([[0, 0, 0], [0.001, 0, 0], [0, 0, 1.0]])
    vertices = np.concatenate([CORNERS * [1, 1, 0.5], needle])
    triangles = np.concatenate([BOX.triangles, [[8, 9, 10]]])
    notes = annotations.annotate(standing(scene, (0, 0)), [Surface(vertices, triangles)], "test-1")
    assert notes["thin_tips"][0, 0].tolist() == [False] * 5 + [True]
    assert notes["alone_rect_px"][0, 0, 1] > notes["mesh_rect_px"][0, 0, 1] + 5


def test_spread_points_are_far_from_each_other_and_repeat():
    points = annotations.spread_points(BOX, 8, seed=3)
    np.testing.assert_array_equal(points, annotations.spread_points(BOX, 8, seed=3))
    apart = np.linalg.norm(points[:, None] - points, axis=-1) + 10 * np.eye(8)
    assert apart.min() > 0.25
