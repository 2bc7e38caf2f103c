"""From what was drawn to one point for each frame, in pixels of any picture."""

import numpy as np
import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.trajectories import parse_tracks, resample

SIZE = (320, 576)


def drawn(*tracks, size=(576, 320)):
    return parse_tracks({"size": list(size), "tracks": list(tracks)})


def frames(count: int, **more) -> dict:
    return {"points": [[2.0 * n, 5.0] for n in range(count)], "kind": "frames"} | more


def test_every_kind_gives_a_point_for_each_frame():
    spline = {"points": [[0, 0], [60, 80]], "kind": "spline"}
    anchor = {"points": [[100, 50]], "kind": "anchor"}
    tracks, visible = resample(drawn(frames(3), spline, anchor), 3, SIZE)
    np.testing.assert_allclose(tracks[:, 0], [[0, 5], [2, 5], [4, 5]])
    np.testing.assert_allclose(tracks[:, 1], [[0, 0], [30, 40], [60, 80]])
    np.testing.assert_allclose(tracks[:, 2], [[100, 50]] * 3)
    assert visible.all()
    assert visible.shape == (3, 3)


def test_a_plain_list_is_frames_or_a_spline_by_its_length():
    bent = [[0, 0], [100, 0], [100, 20]]
    as_frames = resample(drawn(bent), 3, SIZE).tracks_px[:, 0]
    np.testing.assert_array_equal(as_frames, bent)
    as_spline = resample(drawn(bent), 4, SIZE).tracks_px[:, 0]
    same = resample(drawn({"points": bent, "kind": "spline"}), 4, SIZE).tracks_px[:, 0]
    np.testing.assert_array_equal(as_spline, same)
    assert 30 < as_spline[1, 0] < 50


def test_coordinates_are_scaled_to_the_picture():
    spline = {"points": [[0.5, 0.5], [1, 0.25]], "kind": "spline"}
    tracks = resample(drawn(spline, size=(1, 1)), 2, (200, 1000)).tracks_px
    np.testing.assert_allclose(tracks[:, 0], [[500, 100], [1000, 50]])
    tracks = resample(drawn(frames(2)), 2, (640, 1152)).tracks_px
    np.testing.assert_allclose(tracks[:, 0], [[0, 10], [4, 10]])


def test_speed_is_constant_in_the_picture_and_not_in_its_unit_square():
    corner = [[0.1, 0.1], [0.1, 0.9], [0.9, 0.9]]
    tracks = resample(drawn(corner, size=(1, 1)), 1401, (100, 1000)).tracks_px[:, 0]
    steps = np.hypot(*np.diff(tracks, axis=0).T)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.01)


def test_a_window_of_longer_tracks():
    seen = [True, False] * 10
    tracks, visible = resample(drawn(frames(20, visible=seen)), 4, SIZE, start=3)
    np.testing.assert_array_equal(tracks[:, 0, 0], [6, 8, 10, 12])
    np.testing.assert_array_equal(visible[:, 0], [False, True, False, True])


def test_all_tracks_that_are_too_short_are_named():
    anchor = {"points": [[5, 5]], "kind": "anchor"}
    with pytest.raises(UserError) as caught:
        resample(drawn(frames(9), anchor, frames(20), frames(13)), 14, SIZE)
    assert "track 0: 9 points" in caught.value.got
    assert "track 3: 13 points" in caught.value.got
    assert caught.value.got.count("\n") == 2
    assert caught.value.expected == "14 points: 14 frames from frame 0 on"
    with pytest.raises(UserError, match="19 points: 14 frames from frame 5 on"):
        resample(drawn(frames(18)), 14, SIZE, start=5)
    with pytest.raises(UserError, match="19 points: 14 frames from frame 5 on"):
        resample(drawn(frames(14)["points"]), 14, SIZE, start=5)


def test_what_a_control_point_hides_stays_hidden_until_the_next_one():
    points = [[0, 0], [40, 0], [60, 0], [100, 0]]
    track = {"points": points, "kind": "spline", "visible": [True, False, True, False]}
    _, visible = resample(drawn(track), 11, SIZE)
    np.testing.assert_array_equal(visible[:, 0], [1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0])
    _, visible = resample(drawn(track | {"times": [0, 0.1, 0.5, 1]}), 11, SIZE)
    np.testing.assert_array_equal(visible[:, 0], [1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0])


def test_times_put_control_points_on_frames():
    points = [[0, 0], [40, 30], [60, 0]]
    track = {"points": points, "kind": "spline", "times": [0, 10 / 13, 1]}
    tracks = resample(drawn(track), 14, SIZE).tracks_px[:, 0]
    np.testing.assert_allclose(tracks[[0, 10, 13]], points, atol=1e-6)


@pytest.mark.parametrize(
    ("drawn_on", "asked", "fits"),
    [
        ((576, 320), (320, 576), True),
        ((1152, 640), (320, 576), True),
        ((581, 320), (320, 576), True),
        ((570, 320), (320, 576), False),
        ((1920, 1080), (320, 576), False),
        ((320, 576), (320, 576), False),
        ((1, 1), (320, 576), True),
    ],
)
def test_another_aspect_ratio_is_refused_unless_asked_for(drawn_on, asked, fits):
    points = [[0.25, 0.25], [1, 1]] if drawn_on == (1, 1) else [[8, 8], [32, 32]]
    track_file = drawn(points, size=drawn_on)
    stretched = resample(track_file, 2, asked, any_aspect=True).tracks_px
    expected = np.array(points) / drawn_on * asked[::-1]
    np.testing.assert_allclose(stretched[:, 0], expected)
    if fits:
        np.testing.assert_array_equal(resample(track_file, 2, asked).tracks_px, stretched)
        return
    with pytest.raises(UserError, match="576 x 320") as caught:
        resample(track_file, 2, asked)
    assert f"{drawn_on[0]} x {drawn_on[1]}" in caught.value.got


@pytest.mark.parametrize(("count", "start"), [(0, 0), (-1, 0), (10_001, 0), (4, -1)])
def test_numbers_of_frames_that_make_no_sense(count, start):
    with pytest.raises(UserError, match=f"{count} frames from {start} on"):
        resample(drawn(frames(20)), count, SIZE, start=start)
