import json

import numpy as np
import pytest

from data_prep.scenes import geometry
from data_prep.scenes.posetraj import FRAMES, HEIGHT, WIDTH, make_scenes
from data_prep.scenes.scene import SceneError, from_json, to_json

SIDES = {"builtin:car": (0.5, 1.0, 0.4), "builtin:chair": (0.6, 0.7, 1.0)}


def test_a_seed_determines_the_scenes():
    first, again = make_scenes(4, 7, SIDES), make_scenes(4, 7, SIDES)
    assert first == again
    assert [to_json(scene) for scene in first] == [to_json(scene) for scene in again]
    assert make_scenes(4, 8, SIDES)[0].objects != first[0].objects


def test_more_scenes_begin_with_the_same_ones():
    assert make_scenes(6, 0, SIDES)[:3] == make_scenes(3, 0, SIDES)


def test_each_asset_takes_each_curve_in_turn():
    ids = [scene.clip_id for scene in make_scenes(6, 0, SIDES)]
    assert ids == ["car_0_S", "car_0_circle", "chair_0_S", "chair_0_circle", "car_1_S",
                   "car_1_circle"]  # fmt: skip


@pytest.mark.parametrize("heading", ["tangent", "centre"])
def test_objects_stay_on_the_floor_and_in_the_picture(heading):
    for scene in make_scenes(12, 3, SIDES, heading=heading):
        assert scene.frames == FRAMES
        thing = scene.objects[0]
        x, y, z = SIDES[thing.asset]
        rest = geometry.box_corners(np.array([-x / 2, -y / 2, 0]), np.array([x / 2, y / 2, z]))
        for camera, pose in zip(scene.cameras, thing.poses, strict=True):
            world = geometry.transform(np.array(pose), rest)
            assert world[:, 2].min() == 0
            pixels = geometry.project(world, np.array(camera.k), np.array(camera.rt))
            assert geometry.inside_picture(pixels, WIDTH, HEIGHT).all()


def test_objects_look_where_they_go():
    for scene in make_scenes(4, 5, SIDES):
        poses = np.array(scene.objects[0].poses)
        moved = np.diff(poses[:, :2, 3], axis=0)
        # A chord lies between the tangents at its ends.
        front = -(poses[:-1, :2, 1] + poses[1:, :2, 1])
        cosine = (moved * front).sum(axis=1) / np.linalg.norm(moved, axis=1)
        assert (cosine / np.linalg.norm(front, axis=1)).min() > 0.97


def test_official_heading_faces_the_centre():
    poses = np.array(make_scenes(2, 0, SIDES, heading="centre")[1].objects[0].poses)
    np.testing.assert_allclose(1.1 * poses[:, :2, 1], poses[:, :2, 3], atol=1e-9)


def test_an_object_too_large_for_the_picture_is_an_error():
    with pytest.raises(ValueError, match="picture"):
        make_scenes(1, 0, {"builtin:car": (6.0, 6.0, 6.0)})


def test_json_round_trip_is_exact():
    scene = make_scenes(1, 0, SIDES)[0]
    assert from_json(to_json(scene)) == scene


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version 99"),
        ({"clip_id": "a/b"}, "clip_id"),
        ({"width": 0}, "width must be positive"),
        ({"cameras": []}, "one camera per frame"),
        ({"extra": 1}, r"unknown keys \['extra'\]"),
        ({"floor": {"tile": 1}}, "Floor: missing keys"),
        ({"objects": [{"asset": "builtin:car", "size": 1.0, "poses": []}]}, "0 poses for 14"),
        ({"objects": [{"asset": "x", "size": 1.0, "poses": [[[1]]] * 14}]}, "finite 4 x 4"),
    ],
)
def test_bad_descriptions_are_named(change, message):
    data = json.loads(to_json(make_scenes(1, 0, SIDES)[0])) | change
    with pytest.raises(SceneError, match=message):
        from_json(json.dumps(data))


def test_text_that_is_not_json_is_named():
    with pytest.raises(SceneError, match="not JSON"):
        from_json("{")
