import numpy as np
import pytest

from data_prep.scenes import filmed, geometry
from data_prep.scenes.filmed import FRAMES, HEIGHT, MOTIONS, WIDTH, make_scenes
from data_prep.scenes.scene import from_json, to_json

SIDES = {
    "builtin:car": (0.43, 1.0, 0.45),
    "builtin:chair": (0.6, 0.7, 1.0),
    "builtin:plane": (1.0, 1.0, 0.45),
    "builtin:duck": (0.7, 1.0, 0.95),
}
SCENES = make_scenes(12, 3, SIDES)


@pytest.fixture(params=SCENES, ids=lambda scene: scene.clip_id)
def scene(request):
    return request.param


def seen(scene, points: np.ndarray) -> np.ndarray:
    """Pixels [f n 2] of points [f n 3]."""
    return np.stack(
        [
            geometry.project(p, np.array(camera.k), np.array(camera.rt))
            for p, camera in zip(points, scene.cameras, strict=True)
        ]
    )


def boxes(scene) -> np.ndarray:
    """World corners [o f 8 3] of the objects' boxes."""
    found = []
    for thing in scene.objects:
        x, y, z = SIDES[thing.asset]
        corners = geometry.box_corners(np.array([-x / 2, -y / 2, 0]), np.array([x / 2, y / 2, z]))
        found.append([geometry.transform(np.array(pose), corners) for pose in thing.poses])
    return np.array(found)


def test_a_seed_determines_the_scenes():
    assert make_scenes(3, 7, SIDES) == make_scenes(3, 7, SIDES)
    assert make_scenes(3, 8, SIDES)[0].objects != make_scenes(3, 7, SIDES)[0].objects
    assert make_scenes(5, 3, SIDES) == SCENES[:5]


def test_motions_and_assets_take_turns():
    motions = [scene.about["camera"] for scene in SCENES]
    assert motions == ["orbit", "dolly", "truck", "crane"] * 3
    pairs = [[thing.asset for thing in scene.objects] for scene in SCENES]
    assert pairs[0] + pairs[1] == list(SIDES)
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        assert sorted(first + second) == sorted(SIDES)
    assert len({frozenset(pair) for pair in pairs}) == 6  # each has met each
    assert SCENES[0].clip_id == "0000_orbit_car_chair"
    assert len({scene.clip_id for scene in SCENES}) == 12


def test_json_round_trip_is_exact(scene):
    assert from_json(to_json(scene)) == scene


def test_objects_stand_on_the_floor_before_the_camera(scene):
    world = boxes(scene)
    np.testing.assert_allclose(world[..., 2].min(axis=2), 0, atol=1e-12)
    for corners in world:
        pixels = seen(scene, corners)
        middle = seen(scene, corners.mean(axis=1, keepdims=True))
        assert geometry.inside_picture(pixels[0], WIDTH, HEIGHT).all()
        assert geometry.inside_picture(middle, WIDTH, HEIGHT, 25).all()
        whole = geometry.inside_picture(pixels, WIDTH, HEIGHT).all(axis=1)
        assert whole.mean() >= 0.75
        for points, camera in zip(corners, scene.cameras, strict=True):
            assert geometry.depth(points, np.array(camera.rt)).min() > 1.5


def test_objects_never_touch_and_are_both_seen_at_first(scene):
    one, two = boxes(scene)
    reach = [np.hypot(*SIDES[thing.asset][:2]) / 2 for thing in scene.objects]
    apart = np.linalg.norm((one - two).mean(axis=1)[:, :2], axis=1)
    assert apart.min() >= sum(reach)
    first, second = seen(scene, one)[0], seen(scene, two)[0]
    aside = (first.min(axis=0) > second.max(axis=0)) | (second.min(axis=0) > first.max(axis=0))
    assert aside.any()


def test_objects_look_where_they_go(scene):
    for thing in scene.objects:
        poses = np.array(thing.poses)
        moved = np.diff(poses[:, :2, 3], axis=0)
        front = -(poses[:-1, :2, 1] + poses[1:, :2, 1])
        cosine = (moved * front).sum(axis=1) / np.linalg.norm(moved, axis=1)
        assert (cosine / np.linalg.norm(front, axis=1)).min() > 0.97


def test_cameras_fly_smoothly(scene):
    eyes = np.array([geometry.camera_centre(np.array(camera.rt)) for camera in scene.cameras])
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    assert steps.sum() > 1.4
    assert steps.min() > 0.005
    assert steps.max() < 0.5
    # They start and stop softly: the first and the last step are the shortest.
    assert max(steps[0], steps[-1]) == pytest.approx(np.sort(steps)[:2].max())
    assert np.abs(np.diff(steps)).max() < 0.12
    assert scene.frames == FRAMES


@pytest.mark.parametrize("motion", MOTIONS)
def test_each_motion_keeps_what_it_does_not_change(motion):
    along = np.linspace(0, 1, 5)
    eyes, targets = MOTIONS[motion](along, np.random.default_rng(0))
    view = (targets - eyes) / np.linalg.norm(targets - eyes, axis=1, keepdims=True)
    if motion == "orbit":
        np.testing.assert_allclose(np.linalg.norm(eyes - targets, axis=1), np.hypot(5.4, 2.2))
        np.testing.assert_allclose(eyes[:, 2], 2.4)
    elif motion == "dolly":
        np.testing.assert_allclose(view, np.tile(view[0], (5, 1)))
        np.testing.assert_allclose(np.linalg.norm(eyes - targets, axis=1), 6.8 - 2.2 * along)
    elif motion == "truck":
        np.testing.assert_allclose(view, np.tile(view[0], (5, 1)), atol=1e-12)
        np.testing.assert_allclose(eyes[:, 1:], np.tile([-5.4, 2.2], (5, 1)))
    else:
        np.testing.assert_allclose(eyes[:, :2], np.tile(eyes[0, :2], (5, 1)))
        np.testing.assert_allclose(eyes[:, 2], 0.9 + 2.5 * along)


def test_orbit_and_truck_go_both_ways():
    scenes = [scene for scene in make_scenes(40, 0, SIDES) if scene.about["camera"] == "truck"]
    start = [geometry.camera_centre(np.array(scene.cameras[0].rt))[0] for scene in scenes]
    assert min(start) < -0.7
    assert max(start) > 0.7


def test_points_of_the_floor_are_seen_and_void_is_lost(scene):
    places = scene.about["floor_points"]
    assert list(places) == (["43", "0"] if scene.about["number"] % 2 == 0 else ["43"])
    outlines = np.stack([seen(scene, corners) for corners in boxes(scene)])
    low, high = outlines.min(axis=2), outlines.max(axis=2)
    for name, place in places.items():
        assert place[2] == 0
        pixels = seen(scene, np.tile(np.array(place), (FRAMES, 1, 1)))[:, 0]
        inside = geometry.inside_picture(pixels, WIDTH, HEIGHT)
        covered = ((pixels >= low) & (pixels <= high)).all(axis=-1).any(axis=0)
        assert inside[0]
        assert not covered[0]
        if name == "43":
            assert inside.all()
            assert not covered.any()
        else:
            assert not inside[-4:].any()


def test_the_picture_is_that_of_a_35_mm_lens_with_square_pixels():
    np.testing.assert_allclose(
        filmed.camera_k(), [[5600 / 9, 0, 320], [0, 5600 / 9, 180], [0, 0, 1]]
    )


def test_two_objects_need_two_assets():
    with pytest.raises(ValueError, match="two assets"):
        make_scenes(1, 0, {"builtin:car": (0.5, 1.0, 0.4)})


def test_objects_too_large_for_the_picture_are_an_error(monkeypatch):
    monkeypatch.setattr(filmed, "ATTEMPTS", 50)
    with pytest.raises(ValueError, match="no room for two objects"):
        make_scenes(1, 0, {"builtin:car": (6.0, 6.0, 6.0), "builtin:duck": (6.0, 6.0, 6.0)})
