"""Pictures of tracks for people: what is drawn, where, and that it can be seen."""

import numpy as np
import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.trajectories import (
    FloorMotion,
    draw_ghosts,
    draw_preview,
    make_camera,
    move_over_floor,
    parse_tracks,
)
from posetraj_jax.video import track_colours

SIZE = (320, 576)
GREYS = (0, 128, 255)


def grey(value: int, size=SIZE) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def drawn(*tracks, size=(576, 320)):
    return parse_tracks({"size": list(size), "tracks": list(tracks)})


def near(picture: np.ndarray, point, radius: int = 3) -> np.ndarray:
    x, y = (int(c) for c in point)
    return picture[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]


def has(picture: np.ndarray, colour) -> bool:
    return bool((np.abs(picture.astype(int) - colour).max(axis=-1) <= 8).any())


@pytest.mark.parametrize("value", GREYS)
def test_path_dots_and_control_points_are_seen_on_any_ground(value):
    spline = {"points": [[100, 100], [300, 250], [500, 100]], "kind": "spline"}
    line = [[50, 20], [250, 20]]
    image = grey(value)
    picture = draw_preview(image, drawn(spline, line), 3)
    first, second = track_colours(2)
    assert (image == value).all()
    for x, y in spline["points"]:
        around = near(picture, (x, y), 8)
        assert has(around, first)
        assert has(around, (255, 255, 255))
        assert has(around, (0, 0, 0))
    between = near(picture, (150, 20))
    assert has(between, second)
    assert value == 0 or has(between, (0, 0, 0))
    assert (near(picture, (540, 300), 15) == value).all()


def test_a_hidden_frame_is_a_hollow_dot():
    points = [[100, 100], [200, 100], [300, 100]]
    hidden = {"points": points, "kind": "frames", "visible": [True, False, True]}
    picture = draw_preview(grey(128), drawn(hidden), 3)
    assert has(near(picture, (100, 100), 0), track_colours(1)[0])
    assert has(near(picture, (200, 100), 0), (0, 0, 0))


def test_an_anchor_is_a_ring():
    picture = draw_preview(grey(128), drawn({"points": [[100, 100]], "kind": "anchor"}), 14)
    assert has(near(picture, (100, 100), 0), (255, 255, 255))
    assert has(near(picture, (100, 108), 3), track_colours(1)[0])


def test_an_arrow_is_at_the_end():
    picture = draw_preview(grey(128), drawn([[100, 100], [300, 100]]), 2)
    assert has(near(picture, (284, 90), 4), track_colours(1)[0])
    assert (near(picture, (116, 90), 4) == 128).all()


@pytest.mark.parametrize("start", [(5, 5), (571, 5), (5, 315), (571, 315), (288, 160)])
def test_the_number_is_in_the_picture_and_not_on_the_start(start):
    track = {"points": [list(start), [288, 161]], "kind": "spline"}
    anchor = {"points": [[288, 40]], "kind": "anchor"}
    picture = draw_preview(grey(128), drawn(anchor, track), 14)
    # The number, outlined, is the only thing of the second colour off the path.
    path = np.array([288, 161]) - start
    rows, columns = np.nonzero(np.abs(picture.astype(int) - track_colours(2)[1]).max(axis=-1) <= 8)
    aside = np.stack([columns, rows], -1) + 0.5 - start
    away = np.abs(aside @ [path[1], -path[0]]) / np.hypot(*path)
    behind = aside @ path / np.hypot(*path)
    assert ((away > 10) | (behind < -10)).sum() > 10


def test_coordinates_are_those_of_the_picture():
    picture = draw_preview(grey(128), drawn([[0.25, 0.5], [0.75, 0.5]], size=(1, 1)), 2)
    assert has(near(picture, (144, 160), 1), track_colours(1)[0])
    assert has(near(picture, (432, 160), 1), track_colours(1)[0])


def test_the_window_is_that_of_resample():
    frames = {"points": [[20 * n + 20, 100] for n in range(20)], "kind": "frames"}
    picture = draw_preview(grey(128), drawn(frames), 5, start=10)
    assert (picture[:, :190] == 128).all()
    assert (picture[:, 330:] == 128).all()
    with pytest.raises(UserError, match="shorter than the video"):
        draw_preview(grey(128), drawn(frames), 21)
    with pytest.raises(UserError, match="aspect"):
        draw_preview(grey(128, (100, 100)), drawn(frames), 5)
    draw_preview(grey(128, (100, 100)), drawn(frames), 5, any_aspect=True)


@pytest.mark.parametrize("size", [(1, 1), (8, 64), (64, 8)])
def test_far_points_still_ones_and_tiny_pictures(size):
    still = {"points": [[0.5, 0.5], [0.5, 0.5]], "kind": "spline"}
    far = [[0.5, 0.5], [1e7, -1e7], [-1e7, 0.1]]
    picture = draw_preview(grey(9, size), drawn(still, far, size=(1, 1)), 14)
    assert picture.shape == (*size, 3)


def test_ghosts_are_boxes_with_a_white_front():
    camera = make_camera(SIZE)
    track = move_over_floor(
        camera, FloorMotion("line", length_m=1.0, direction_deg=0.0), (200.0, 250.0), 14
    )
    image = grey(0)
    picture = draw_ghosts(image, camera, track, (0.3, 0.5, 0.3))
    assert not image.any()
    front = (picture > 180).all(axis=-1).any(axis=0)
    assert front[200:].any()
    assert not front[:195].any()
    assert picture[:, 100:195].any()
