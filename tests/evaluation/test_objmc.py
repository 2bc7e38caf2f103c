"""ObjMC on cases made by hand, and on official tracks against a plain loop over their JSON."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from posetraj_jax.data.track_file import read_vipseg
from posetraj_jax.evaluation.objmc import NOTHING, together, video_distances

TRACKS = sorted((Path(__file__).parent / "vipseg_tracks").iterdir())
"""Of the official repository: as CoTracker2 found them, far outside the picture too."""
FULL_HD, SIZE = (1080, 1920), (320, 576)
UNITS = {"original": FULL_HD, "evaluated": SIZE}


DOWN = np.array([0.0, 1.0], np.float32)


def tracks(*points):
    """One point: [f 1 2]."""
    return np.array(points, np.float32)[:, None]


def measured(true, made, size=(10, 20), units=None, visible=None):
    return video_distances(true, made, size, units or {"px": size}, visible)


def test_distances_are_euclidean_and_every_frame_counts():
    found = measured(tracks((0, 0), (3, 0)), tracks((0, 0), (6, 4)))["px", "all"]
    assert found.mean == 5 / 2  # frame 0 is as good as ever
    assert found.static_mean == 3 / 2
    assert found.count == 2


def test_each_unit_stretches_rows_and_columns_apart():
    found = measured(tracks((0, 0), (0, 0)), tracks((2, 0), (0, 3)), units={"x": (40, 20)})
    assert found["x", "all"].total == 2 + 4 * 3


def test_only_points_in_the_picture_count_where_asked():
    true = tracks((0, 0), (19.9, 9.9), (20, 0), (5, -0.1))
    found = measured(true, true + DOWN)
    assert found["px", "in_frame"].count == 2
    assert found["px", "in_frame"].total == pytest.approx(2)
    assert found["px", "all"].count == 4
    assert ("px", "visible") not in found


def test_what_is_hidden_or_outside_is_not_visible():
    true = tracks((1, 1), (2, 2), (30, 3))
    visible = np.array([[True], [False], [True]])
    found = measured(true, true + DOWN, visible=visible)["px", "visible"]
    assert (found.count, found.total) == (1, 1.0)


def test_no_point_has_no_distance():
    outside = tracks((-5, -5), (-6, -6))
    found = measured(outside, outside)["px", "in_frame"]
    assert found == NOTHING
    assert math.isnan(found.mean)
    assert math.isnan(found.static_mean)


@pytest.mark.parametrize("shape", [(3, 2), (4, 1), (4, 3)])
def test_other_frames_or_points_are_an_error(shape):
    frames, points = shape
    with pytest.raises(ValueError, match=f"4 frames of 2 points.*{frames} frames of {points}"):
        measured(np.zeros((4, 2, 2)), np.zeros((frames, points, 2)))


def plain_mean(files, predict, scale):
    """Mean Euclidean distance over all videos, ids and frames, written as a script would be."""
    distances = []
    for file in files:
        for track in json.loads(file.read_text()).values():
            for frame, (x, y) in enumerate(track):
                made_x, made_y = predict(track, frame)
                distances.append(
                    math.sqrt(((x - made_x) * scale[0]) ** 2 + ((y - made_y) * scale[1]) ** 2)
                )
    return sum(distances) / len(distances)


def late(track, frame):
    """A video that lags by one frame."""
    return track[max(frame - 1, 0)]


def still(track, frame):
    return track[0]


def test_official_tracks_have_the_mean_of_a_plain_loop():
    """The lagging video and the static one, in original pixels and in those of 320 × 576."""
    videos = []
    for file in TRACKS:
        true = read_vipseg(file).points_px
        made = np.concatenate([true[:1], true[:-1]])
        videos.append(video_distances(true, made, FULL_HD, UNITS))
    found = together(videos)
    for name, (height, width) in UNITS.items():
        scale = width / FULL_HD[1], height / FULL_HD[0]
        mean = found[name, "all"]
        assert mean.mean == pytest.approx(plain_mean(TRACKS, late, scale), rel=1e-6)
        assert mean.static_mean == pytest.approx(plain_mean(TRACKS, still, scale), rel=1e-6)
        assert 0 < found[name, "in_frame"].static_mean < mean.static_mean


def test_videos_weigh_by_their_points():
    one, many = (
        measured(tracks((0, 0)), tracks((1, 0))),
        measured(np.zeros((3, 3, 2)), np.ones((3, 3, 2))),
    )
    both = together([one, many])["px", "all"]
    assert both.count == 10
    assert both.mean == pytest.approx((1 + 9 * 2**0.5) / 10)
    assert together([]) == {}
