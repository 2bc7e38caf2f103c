"""200 damaged copies of good track files: refused with a clear error, or legal all through."""

import json
import random
import warnings

import numpy as np
import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.trajectories import as_json, parse_tracks, read_tracks, resample, write_tracks

SIZE = (320, 576)
SPLINE = {"points": [[60, 280], [150, 120], [300.5, 200]], "kind": "spline", "times": [0, 0.3, 1]}
FRAMES = {"points": [[9 * n, 5 * n] for n in range(14)], "kind": "frames", "visible": [True] * 14}
GOOD = (
    {"size": [576, 320], "tracks": [SPLINE, FRAMES, {"points": [[8, 9]], "kind": "anchor"}]},
    {"size": [1, 1], "tracks": [[[0.5, 0.5], [0.25, 1]]]},
    {"37": FRAMES["points"], "12500": FRAMES["points"]},
    [[[5, 5], [6, 6], [100, 100]], SPLINE],
    FRAMES["points"],
)
STRANGE = (
    None, True, False, 0, 1, -1, 2, 0.5, 1e-320, 1e7, 1e8, -1e300, 10**400, float("nan"),
    float("inf"), "", "frames", "spline", "anchor", "size", "\u0000\ud800", [], {}, [[]], [0, 0],
    [[5, 5]], [5, 5, 5], {"points": [[5, 5], [5, 5]], "kind": "spline"},
    [[5, 5], [5, 5]], [5] * 20_000,
)  # fmt: skip


def places(value, path=()) -> list[tuple]:
    """Every place in nested lists and objects, the whole included."""
    if not isinstance(value, dict | list):
        return [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


def damaged(content, rng: random.Random):
    """A copy with something strange in one place, or without it, or with it twice."""
    content = json.loads(json.dumps(content))
    *path, last = rng.choice(places(content)[1:])
    holder = content
    for key in path:
        holder = holder[key]
    action = rng.choice(("put", "put", "put", "remove", "rename", "repeat"))
    if action == "put":
        holder[last] = rng.choice(STRANGE)
    elif action == "rename" and isinstance(holder, dict):
        holder[rng.choice(("Size", "tracks", "points", "kind", "7", "times"))] = holder.pop(last)
    elif action == "repeat" and isinstance(holder, list):
        holder[last:last] = [holder[last]] * rng.choice((1, 2, 300))
    else:
        del holder[last]
    return content


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_are_refused_or_legal(tmp_path, seed):
    rng = random.Random(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(10):
            content = rng.choice(GOOD)
            for _ in range(rng.choice((1, 1, 2, 3))):
                content = damaged(content, rng)
                if not isinstance(content, dict | list) or not content:
                    break
            path = tmp_path / f"{number}.json"
            path.write_text(json.dumps(content))
            check(path, content)


def check(path, content) -> None:
    try:
        track_file, refused = read_tracks(path, SIZE), ""
    except UserError as error:
        track_file, refused = None, str(error)
    assert len(refused) < 5_000
    assert refused.replace("\n", "a").isprintable()
    if track_file is None:
        return
    assert parse_tracks(content, SIZE) == track_file
    assert parse_tracks(json.loads(json.dumps(as_json(track_file)))) == track_file
    assert read_tracks(write_tracks(path, track_file)) == track_file
    for num_frames in (1, 14):
        try:
            tracks, visible = resample(track_file, num_frames, SIZE, any_aspect=True)
        except UserError:
            assert any(len(track.points) < num_frames for track in track_file.tracks)
            continue
        assert tracks.shape == (num_frames, len(track_file.tracks), 2)
        assert visible.shape == tracks.shape[:2]
        assert np.isfinite(tracks).all()


def test_the_undamaged_ones_are_legal(tmp_path):
    for content in GOOD:
        assert resample(parse_tracks(content, SIZE), 14, SIZE).tracks_px.shape[0] == 14


def test_the_damage_is_of_both_kinds(tmp_path):
    """Some of it is refused and some is not: else the test above would say little."""
    legal = 0
    for seed in range(200):
        rng = random.Random(seed)
        try:
            parse_tracks(damaged(rng.choice(GOOD), rng), SIZE)
            legal += 1
        except UserError:
            pass
    assert 10 < legal < 190
