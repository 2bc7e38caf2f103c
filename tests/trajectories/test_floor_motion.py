"""Motions over the floor: metric curves in the picture of a stated camera, and back."""

import numpy as np
import pytest

from data_prep.scenes import geometry
from posetraj_jax.errors import UserError
from posetraj_jax.trajectories import (
    FloorMotion,
    arrows_px,
    boxes_px,
    floor_track_file,
    make_camera,
    move_over_floor,
    parse_tracks,
)
from posetraj_jax.trajectories.floor_camera import axes, floor_point, project

SIZE = (320, 576)
OFFICIAL = make_camera(SIZE)
START = (288.0, 250.0)
CAMERAS = {
    "official": OFFICIAL,
    "low": make_camera((480, 640), height_m=0.4, pitch_deg=5.0, hfov_deg=80.0),
    "high": make_camera((512, 512), height_m=12.0, pitch_deg=60.0, focal_px=300.0),
    "from above": make_camera((320, 576), height_m=8.0, pitch_deg=90.0, focal_px=200.0),
}


def on_floor(camera, pixels) -> np.ndarray:
    """Places [f 2] in metres, by the inverse of the homography from the floor to the picture."""
    height, width = camera.size
    k = np.array(
        [[camera.focal_px[0], 0, width / 2], [0, camera.focal_px[1], height / 2], [0, 0, 1]]
    )
    rotation = axes(camera)
    homography = k @ np.column_stack([rotation[:, :2], rotation @ [0, 0, -camera.height_m]])
    places = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(homography).T
    return places[:, :2] / places[:, 2:]


@pytest.mark.parametrize("size", [(320, 576), (480, 720), (256, 256)])
def test_the_default_camera_is_the_official_one(size):
    k, rt = geometry.official_k(*size[::-1]), geometry.official_rt()
    world = np.random.default_rng(0).uniform([-2, 2, 0], [2, 8, 2], (50, 3))
    # Its world has the origin under the camera, not before it.
    shift = np.array([*geometry.OFFICIAL_CAMERA_LOCATION[:2], 0.0])
    expected = geometry.project(world + shift, k, rt)
    np.testing.assert_allclose(project(make_camera(size), world), expected, atol=1e-9)
    np.testing.assert_allclose(axes(make_camera(size)), rt[:, :3], atol=1e-12)


def test_a_field_of_view_is_a_focal_length():
    wide = make_camera(SIZE, hfov_deg=90.0)
    assert wide.focal_px == pytest.approx((288.0, 288.0))
    assert wide == make_camera(SIZE, focal_px=wide.focal_px[0])


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("angle", [180.0, 90.0, -360.0])
def test_the_circle_is_metric_when_it_is_projected_back(name, angle):
    camera = CAMERAS[name]
    start = (camera.size[1] / 2 + 10, camera.size[0] * 0.6)
    track = move_over_floor(
        camera, FloorMotion("circle", 0.25, angle_deg=angle, direction_deg=30.0), start, 25
    )
    np.testing.assert_allclose(track.tracks_px[0], start, atol=1e-9)
    places = on_floor(camera, track.tracks_px)
    np.testing.assert_allclose(places, track.places, atol=1e-6)
    turn = np.sign(angle)
    normal = turn * np.array([-np.sin(np.deg2rad(30)), np.cos(np.deg2rad(30))])
    from_centre = places - (places[0] + 0.25 * normal)
    np.testing.assert_allclose(np.hypot(*from_centre.T), 0.25, atol=1e-6)
    turned = np.unwrap(np.arctan2(*from_centre.T[::-1]))
    np.testing.assert_allclose(
        turned - turned[0], np.deg2rad(angle) * np.linspace(0, 1, 25), atol=1e-5
    )


@pytest.mark.parametrize("direction", [0.0, 45.0, 90.0, 200.0, -90.0])
@pytest.mark.parametrize("kind", ["circle", "S", "line"])
def test_every_motion_starts_in_its_direction_at_equal_steps(kind, direction):
    motion = FloorMotion(kind, radius_m=0.3, length_m=1.2, direction_deg=direction)
    track = move_over_floor(OFFICIAL, motion, START, 1001)
    expected = [np.cos(np.deg2rad(direction)), np.sin(np.deg2rad(direction))]
    np.testing.assert_allclose(track.headings[0], expected, atol=1e-12)
    steps = np.diff(track.places, axis=0)
    lengths = np.hypot(*steps.T)
    total = {"circle": 0.3 * np.pi, "S": 0.6 * np.pi, "line": 1.2}[kind]
    # A chord that spans the middle of the S is shorter by a part of a thousandth.
    np.testing.assert_allclose(lengths, total / 1000, rtol=1e-4)
    np.testing.assert_allclose(steps[0] / lengths[0], expected, atol=5e-3)
    np.testing.assert_allclose(np.hypot(*track.headings.T), 1)


def test_directions_are_seen_from_above():
    """0 goes to the right, 90 away, so up in the picture; an arc turns to the left."""
    right = move_over_floor(
        OFFICIAL, FloorMotion("line", direction_deg=0.0, length_m=0.5), START, 2
    ).tracks_px
    assert right[1, 0] > 300
    assert right[1, 1] == pytest.approx(250)
    away = move_over_floor(
        OFFICIAL, FloorMotion("line", direction_deg=90.0, length_m=0.5), START, 2
    ).tracks_px
    assert away[1, 0] == pytest.approx(288)
    assert away[1, 1] < 240
    left = move_over_floor(
        OFFICIAL, FloorMotion("circle", 0.3, direction_deg=90.0), START, 3
    ).places
    np.testing.assert_allclose(left - left[0], [[0, 0], [-0.3, 0.3], [-0.6, 0]], atol=1e-12)
    back = move_over_floor(
        OFFICIAL, FloorMotion("circle", 0.3, angle_deg=-180.0, direction_deg=90.0), START, 3
    )
    np.testing.assert_allclose(back.places - left[0], [[0, 0], [0.3, 0.3], [0.6, 0]], atol=1e-12)


def test_the_heading_may_stay():
    motion = FloorMotion("circle", 0.3, heading_deg=-90.0)
    headings = move_over_floor(OFFICIAL, motion, START, 5).headings
    np.testing.assert_allclose(headings, np.tile([0.0, -1.0], (5, 1)), atol=1e-12)


def test_boxes_are_those_of_the_dataset():
    track = move_over_floor(OFFICIAL, FloorMotion("S", 0.3, direction_deg=20.0), START, 7)
    sides = (0.2, 0.4, 0.3)
    low, high = np.array([-0.1, -0.2, 0.0]), np.array([0.1, 0.2, 0.3])
    corners = geometry.box_corners(low, high)
    world = [
        geometry.transform(geometry.standing_pose(place, heading), corners)
        for place, heading in zip(track.places, track.headings, strict=True)
    ]
    expected = project(OFFICIAL, np.stack(world))
    np.testing.assert_allclose(boxes_px(OFFICIAL, track, sides), expected, atol=1e-9)


def test_arrows_point_where_the_object_looks():
    track = move_over_floor(
        OFFICIAL, FloorMotion("line", direction_deg=0.0, heading_deg=90.0), START, 3
    )
    arrows = arrows_px(OFFICIAL, track, 0.5)
    np.testing.assert_allclose(arrows[:, 0], track.tracks_px)
    np.testing.assert_allclose(
        on_floor(OFFICIAL, arrows[:, 1]) - track.places, [[0, 0.5]] * 3, atol=1e-9
    )


def test_a_motion_is_a_track_file():
    track = move_over_floor(OFFICIAL, FloorMotion("circle", 0.3), START, 14)
    track_file = floor_track_file(track, OFFICIAL)
    assert track_file.size == SIZE
    assert track_file.tracks[0].kind == "frames"
    np.testing.assert_array_equal(track_file.tracks[0].points, track.tracks_px)
    points = [list(point) for point in track_file.tracks[0].points]
    parse_tracks({"size": [576, 320], "tracks": [points]})


@pytest.mark.parametrize(
    ("pixel", "words"),
    [
        ((300.0, 80.0), r"y greater than 87\.\d, where the horizon is"),
        ((300.0, 87.5), "The start is not on the floor"),
        ((577.0, 200.0), "The start is not in the picture"),
        ((300.0, -1.0), "The start is not in the picture"),
        ((float("nan"), 200.0), "The start is not in the picture"),
    ],
)
def test_a_start_that_shows_no_floor_is_refused(pixel, words):
    camera = make_camera(SIZE, pitch_deg=10.0, hfov_deg=70.0)
    with pytest.raises(UserError, match=words):
        floor_point(camera, pixel)


def test_a_camera_that_looks_up_says_where_the_floor_is():
    camera = make_camera(SIZE, pitch_deg=-5.0, hfov_deg=70.0)
    assert floor_point(camera, (288.0, 319.0))[1] > 5
    with pytest.raises(UserError, match=r"y greater than 196\.0"):
        floor_point(camera, (288.0, 190.0))


def test_a_motion_behind_the_camera_is_refused():
    with pytest.raises(UserError, match=r"4\.35 m behind it"):
        move_over_floor(
            OFFICIAL, FloorMotion("line", length_m=9.0, direction_deg=-90.0), (288.0, 300.0), 14
        )
    track = move_over_floor(OFFICIAL, FloorMotion("circle", 0.1), (288.0, 319.0), 5)
    with pytest.raises(UserError, match="behind"):
        boxes_px(OFFICIAL, track, (9.0, 9.0, 1.0))


def test_every_number_that_makes_no_camera_is_named():
    with pytest.raises(UserError) as caught:
        make_camera(SIZE, height_m=0.0, pitch_deg=91.0, focal_px=-1.0, hfov_deg=180.0)
    assert caught.value.got.count("\n") == 5
    for value in (float("nan"), float("inf")):
        with pytest.raises(UserError):
            make_camera(SIZE, height_m=value)
        with pytest.raises(UserError):
            make_camera(SIZE, focal_px=value)


def test_every_number_that_makes_no_motion_is_named():
    nan = float("nan")
    with pytest.raises(UserError) as caught:
        move_over_floor(OFFICIAL, FloorMotion("spiral", 0.0, -1.0, 0.0, nan, nan), START, 1)
    assert caught.value.got.count("\n") == 7
    for motion in (
        FloorMotion(radius_m=nan),
        FloorMotion(length_m=1e9),
        FloorMotion(angle_deg=nan),
    ):
        with pytest.raises(UserError):
            move_over_floor(OFFICIAL, motion, START, 14)
