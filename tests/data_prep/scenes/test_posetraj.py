import dataclasses
import json

import numpy as np
import pytest

from data_prep.scenes import geometry
from data_prep.scenes.posetraj import SceneOptions, Thing, box_of, make_scene
from data_prep.scenes.scene import SceneError, from_json, to_json
from posetraj_jax.trajectories import floor_paths

CAR = Thing("builtin:car", "car", (0.5, 1.0, 0.4))
CHAIR = Thing("builtin:chair", "chair", (0.6, 0.7, 1.0))
DUCK = Thing("object:duck", "duck", (0.6, 1.0, 0.9))
OFFICIAL = SceneOptions()


def scenes(options=OFFICIAL, things=(CAR,), count=None):
    return [make_scene(options, things, n) for n in range(count or options.paths_per_object)]


def test_object_and_seed_determine_the_scenes():
    assert scenes() == scenes()
    assert [to_json(scene) for scene in scenes()] == [to_json(scene) for scene in scenes()]
    other = dataclasses.replace(OFFICIAL, seed=8)
    assert scenes(other)[0].objects != scenes()[0].objects
    assert scenes(things=(CHAIR,))[0].about["paths"] != scenes()[0].about["paths"]


def test_more_paths_begin_with_the_same_ones():
    assert scenes(count=7)[:3] == scenes(count=3)


def test_curves_are_drawn_evenly():
    for thing in (CAR, CHAIR, DUCK):
        drawn = [scene.about["curve"] for scene in scenes(things=(thing,), count=8)]
        assert sorted(drawn) == ["S"] * 4 + ["circle"] * 4
        assert [scene.clip_id for scene in scenes(things=(thing,), count=8)] == [
            f"{thing.uid}_{number}_{curve}" for number, curve in enumerate(drawn)
        ]
    firsts = {make_scene(OFFICIAL, [Thing("x", f"u{n}", CAR.sides)], 0).about["curve"]
              for n in range(12)}  # fmt: skip
    assert firsts == {"S", "circle"}


@pytest.mark.parametrize("camera", ["official", "random", "moving"])
@pytest.mark.parametrize("heading", ["tangent", "centre"])
@pytest.mark.parametrize("things", [(CAR,), (CHAIR, DUCK)], ids=["one", "two"])
def test_objects_stay_on_the_floor_and_in_the_picture(camera, heading, things):
    options = SceneOptions(camera=camera, heading=heading, seed=3)
    for scene in scenes(options, things):
        for thing, shown in zip(scene.objects, things, strict=True):
            for view, pose in zip(scene.cameras, thing.poses, strict=True):
                world = geometry.transform(np.array(pose), box_of(shown.sides))
                assert world[:, 2].min() == 0
                assert geometry.depth(world, np.array(view.rt)).min() > 0
                pixels = geometry.project(world, np.array(view.k), np.array(view.rt))
                assert geometry.inside_picture(pixels, 576, 320, 3.0).all()


def test_objects_that_share_a_floor_do_not_touch():
    for scene in scenes(SceneOptions(seed=1), (CAR, CHAIR)):
        one, two = (np.array(thing.poses)[:, :2, 3] for thing in scene.objects)
        radii = sum(np.hypot(*thing.sides[:2]) / 2 for thing in (CAR, CHAIR))
        assert np.linalg.norm(one - two, axis=1).min() > radii


def test_cameras_rest_or_move():
    def moves(scene):
        return bool(np.ptp([camera.rt for camera in scene.cameras], axis=0).max() > 1e-3)

    assert not any(moves(scene) for scene in scenes())
    assert not any(moves(scene) for scene in scenes(SceneOptions(camera="random")))
    moving = scenes(SceneOptions(camera="moving"), count=8)
    assert all(moves(scene) for scene in moving)
    assert len({scene.about["camera"] for scene in moving}) > 1
    at_rest = scenes(SceneOptions(camera="random"))
    assert len({scene.cameras[0] for scene in at_rest}) == len(at_rest)


def test_the_official_camera_at_the_official_size():
    scene = make_scene(SceneOptions(width=720, height=480, frames=32), [CAR], 0)
    assert scene.frames == 32
    np.testing.assert_allclose(
        scene.cameras[0].k, [[1000, 0, 360], [0, 1000, 240], [0, 0, 1]], rtol=1e-12
    )
    origin = geometry.project(
        np.zeros(3), *map(np.array, (scene.cameras[0].k, scene.cameras[0].rt))
    )
    np.testing.assert_allclose(origin, [360, 293.7], atol=0.05)


def test_objects_look_where_they_go():
    for scene in scenes(SceneOptions(seed=5)):
        poses = np.array(scene.objects[0].poses)
        moved = np.diff(poses[:, :2, 3], axis=0)
        # A chord lies between the tangents at its ends.
        front = -(poses[:-1, :2, 1] + poses[1:, :2, 1])
        cosine = (moved * front).sum(axis=1) / np.linalg.norm(moved, axis=1)
        assert (cosine / np.linalg.norm(front, axis=1)).min() > 0.97


def test_official_heading_faces_the_centre():
    options = SceneOptions(heading="centre", curves=("circle",))
    poses = np.array(make_scene(options, [CAR], 0).objects[0].poses)
    np.testing.assert_allclose(1.1 * poses[:, :2, 1], poses[:, :2, 3], atol=1e-9)


@pytest.mark.parametrize("floor", ["named", "random"])
@pytest.mark.parametrize("light", ["day", "random", "overhead"])
def test_floor_and_light_vary(floor, light):
    made = scenes(SceneOptions(floor=floor, light=light))
    assert len({scene.floor for scene in made}) > 1
    assert (len({scene.light for scene in made}) > 1) == (light != "overhead")
    if light == "overhead":
        assert made[0].light.sun_elevation_deg == 90


def test_pictures_take_the_place_of_tiles_and_sky():
    options = SceneOptions(floor_pictures=("a.jpg", "b.jpg"), sky_pictures=("c.hdr",))
    made = scenes(options, count=12)
    assert {scene.floor.picture for scene in made} == {"a.jpg", "b.jpg"}
    assert {scene.light.picture for scene in made} == {"c.hdr"}


def test_an_object_too_large_for_the_picture_is_an_error():
    with pytest.raises(SceneError, match="keeps car with sides"):
        make_scene(OFFICIAL, [CAR._replace(sides=(6.0, 6.0, 6.0))], 0)


def test_every_curve_fits():
    for curve in floor_paths.CURVES:
        assert make_scene(SceneOptions(curves=(curve,)), [CAR], 0).about["curve"] == curve


def test_json_round_trip_is_exact():
    scene = scenes()[0]
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
        (
            {"cameras": [{"k": np.eye(3).tolist(), "rt": np.eye(4)[:3].tolist()}] * 14},
            "camera 0 is not above the floor",
        ),
    ],
)
def test_bad_descriptions_are_named(change, message):
    data = json.loads(to_json(scenes()[0])) | change
    with pytest.raises(SceneError, match=message):
        from_json(json.dumps(data))


def test_text_that_is_not_json_is_named():
    with pytest.raises(SceneError, match="not JSON"):
        from_json("{")
