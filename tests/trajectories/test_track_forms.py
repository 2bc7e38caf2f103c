"""The track file: every form, what comes back, and every mistake by name."""

import json
import os
import time
import tracemalloc

import numpy as np
import pytest

from posetraj_jax import json_file
from posetraj_jax.errors import UserError
from posetraj_jax.trajectories import (
    Track,
    TrackFile,
    as_json,
    parse_tracks,
    plain_content,
    read_tracks,
    rounded,
    write_tracks,
)

SIZE = [576, 320]
LINE = [[10, 20.5], [300, 200]]
GOOD = TrackFile(
    (320, 576),
    (
        Track(((10.0, 20.5), (300.123456789, 200.0), (400.0, 100.0)), "plain"),
        Track(((0.1, 0.2), (1 / 3, 2e-7)), "frames", visible=(True, False)),
        Track(((5.0, 5.0), (700.0, -90.0), (1.0, 2.0)), "spline", (0.0, 1 / 3, 1.0)),
        Track(((5.0, 5.0), (7.0, 9.0)), "spline", visible=(False, True)),
        Track(((288.0, 160.0),), "anchor"),
    ),
)


def one(track, size=SIZE) -> dict:
    return {"size": size, "tracks": [track]}


def drawn(**track) -> dict:
    return one({"points": LINE, "kind": "spline"} | track)


def test_what_was_drawn_comes_back(tmp_path):
    path = write_tracks(tmp_path / "new" / "tracks.json", GOOD)
    assert read_tracks(path) == GOOD
    assert read_tracks(str(path), (10, 10)) == GOOD  # its own size counts
    assert [entry.name for entry in path.parent.iterdir()] == ["tracks.json"]
    assert len(path.read_text().splitlines()) == 2 + len(GOOD.tracks)
    assert parse_tracks(json.loads(json.dumps(as_json(GOOD)))) == GOOD


def test_a_unit_file_comes_back(tmp_path):
    unit = TrackFile((1, 1), (Track(((0.123456789, 1.0), (0.5, 2.5)), "plain"),))
    assert read_tracks(write_tracks(tmp_path / "t.json", unit)) == unit


def test_an_object_is_read_as_it_says():
    track = {"points": LINE, "kind": "spline", "times": [0, 1], "visible": [True, False]}
    assert parse_tracks(one(track)) == TrackFile(
        (320, 576), (Track(((10, 20.5), (300, 200)), "spline", (0, 1), (True, False)),)
    )


@pytest.mark.parametrize("bare", [LINE, [LINE], [{"points": LINE, "kind": "spline"}]])
def test_bare_lists_are_in_pixels_of_the_picture(tmp_path, bare):
    (tmp_path / "t.json").write_text(json.dumps(bare))
    track_file = read_tracks(tmp_path / "t.json", (320, 576))
    kind = "spline" if isinstance(bare[0], dict) else "plain"
    assert track_file == TrackFile((320, 576), (Track(((10, 20.5), (300, 200)), kind),))


def test_the_official_json_is_read(tmp_path):
    (tmp_path / "t.json").write_text('{"12500": [[1, 2], [9999, -5]], "0": [[3, 4], [5, 6]]}')
    first, second = read_tracks(tmp_path / "t.json", (320, 576)).tracks
    assert first == Track(((1.0, 2.0), (9999.0, -5.0)), "frames")
    assert second == Track(((3.0, 4.0), (5.0, 6.0)), "frames")


def test_rounding_keeps_what_can_be_seen():
    track_file = rounded(GOOD)
    assert track_file.tracks[0].points[1] == (300.12, 200.0)
    assert track_file.tracks[2].times == GOOD.tracks[2].times
    assert rounded(track_file) == track_file
    unit = TrackFile((1, 1), (Track(((0.123456789, 1.0), (0.5, 0.5)), "plain"),))
    assert rounded(unit).tracks[0].points[0] == (0.123457, 1.0)


@pytest.mark.parametrize("make", [tuple, np.array, lambda points: list(map(np.float32, points))])
def test_points_may_be_tuples_or_arrays(make):
    wanted = TrackFile((320, 576), (Track(((10.0, 20.5), (300.0, 200.0)), "plain"),))
    points = make([(10.0, 20.5), (300.0, 200.0)])
    for given in (points, [points], (points,), {"size": (576, 320), "tracks": (points,)}):
        assert parse_tracks(plain_content(given), (320, 576)) == wanted
    spline = Track(points, "spline", np.array([0.0, 1.0]), np.array([True, False]))
    (read,) = parse_tracks(plain_content(TrackFile((320, 576), (spline,)))).tracks
    assert read == Track(wanted.tracks[0].points, "spline", (0.0, 1.0), (True, False))
    assert parse_tracks(plain_content([spline]), (320, 576)).tracks == (read,)


def test_nothing_of_a_track_is_lost_in_silence():
    lists = TrackFile((320, 576), (Track(((1.0, 1.0), (5.0, 5.0)), "plain", (0.0, 1.0)),))
    with pytest.raises(UserError, match="track 0: kind: not one of"):
        parse_tracks(plain_content(lists))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "tracks: null"),
        (object(), "tracks: object, not a list"),
        ({7: [(1, 2), (3, 4)]}, "unknown keys of type int: there are size, tracks"),
        (TrackFile((320, 576), ()), "tracks: none"),
        (TrackFile(None, None), "no size(?s:.*)tracks: null"),
        (TrackFile((320, 576), (Track(None, "spline"),)), "track 0: no points"),
        (TrackFile((320, 576), (Track(((np.nan, 1), (2, 3)), "plain"),)), "point 0: not numbers"),
        ([[(1, 2), ("a", 4)]], "track 0: point 1: not numbers"),
        (np.zeros((0, 2)), "tracks: none"),
    ],
)
def test_what_no_track_file_holds_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        parse_tracks(plain_content(given), (320, 576))


def test_of_deep_nonsense_nothing_is_followed():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UserError, match="not a pair"):
        parse_tracks(plain_content(deep), (320, 576))


def test_a_start_that_is_hidden_may_be_outside():
    track = {"points": [[-50, 0], [5, 5]], "kind": "frames", "visible": [False, True]}
    assert parse_tracks(one(track)).tracks[0].points[0] == (-50, 0)


def test_what_cannot_be_read_is_not_written(tmp_path, monkeypatch):
    bad = TrackFile((320, 576), (Track(((float("nan"), 1.0), (5.0, 5.0)), "plain"),))
    with pytest.raises(UserError, match="track 0: point 0: not numbers"):
        write_tracks(tmp_path / "t.json", bad)
    lists = TrackFile((320, 576), (Track([[1.0, 1.0], [5.0, 5.0]], "plain"),))
    with pytest.raises(ValueError, match="holds tuples of plain numbers"):
        write_tracks(tmp_path / "t.json", lists)
    monkeypatch.setattr(json_file, "MOST_BYTES", 100)
    with pytest.raises(UserError, match=r"at most 100 bytes(?s:.*)trajectories\.rounded"):
        write_tracks(tmp_path / "t.json", GOOD)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_tracks(tmp_path / "t.json", GOOD)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_tracks(path, TrackFile((320, 576), GOOD.tracks[:1]))
    assert read_tracks(path) == GOOD
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.json"]


MISTAKES = {
    # What is in the file, and what the error says of it.
    "number": (5, "a number, not a list of tracks|it holds a number"),
    "empty list": ([], "tracks: none"),
    "empty object": ({}, "no size.*tracks: null, not a list"),
    "no tracks": ({"size": SIZE, "tracks": []}, "tracks: none"),
    "no size": ({"tracks": [LINE]}, "no size"),
    "tracks of another type": ({"size": SIZE, "tracks": {"a": LINE}}, "tracks: an object, not"),
    "key": (
        one(LINE) | {"sizes": 1, "a\nb": 2},
        r"unknown keys 'sizes', 'a\\nb': there are size, tracks",
    ),
    "size zero": (one(LINE, [576, 0]), "size: not two whole numbers from 1 to 16,384"),
    "size large": (one(LINE, [16_385, 9]), "size: not two whole numbers"),
    "size bool": (one(LINE, [True, True]), "size: not two whole numbers"),
    "size float": (one(LINE, [576.0, 320]), "size: not two whole numbers"),
    "size text": (one(LINE, "576x320"), "size: not two whole numbers"),
    "size of one side": (one(LINE, [576]), "size: not two whole numbers"),
    "track text": (one("abc"), "track 0: a text, neither a list of"),
    "track null": (one(None), "track 0: null, neither"),
    "track empty": (one([]), "track 0: no points"),
    "one point": (one([[5, 5]]), 'track 0: one point only: .*"kind": "anchor"'),
    "bare point": ([5, 5], "track 0: a number, neither"),
    "one spline point": (drawn(points=[[5, 5]]), "track 0: one point only"),
    "one frame": (drawn(points=[[5, 5]], kind="frames"), "track 0: one point only"),
    "two anchor points": (drawn(kind="anchor"), "track 0: 2 points: an anchor has one"),
    "triple": (one([[5, 5], [5, 5, 5]]), r"track 0: point 1: not a pair of numbers \[x, y\]"),
    "flat": (one([5, 5, 6, 6]), "track 0: points 0, 1, 2, 3: not a pair"),
    "point object": (one([{"x": 5, "y": 5}, [6, 6]]), "track 0: point 0: not a pair"),
    "bool": (one([[True, 5], [5, 5]]), "track 0: point 0: not numbers up to 10,000,000"),
    "text number": (one([["5", 5], [5, 5]]), "track 0: point 0: not numbers"),
    "null number": (one([[5, 5], [None, 5]]), "track 0: point 1: not numbers"),
    "nan": (one([[float("nan"), 5], [5, 5]]), "track 0: point 0: not numbers"),
    "infinity": (one([[float("inf"), 5], [5, 5]]), "track 0: point 0: not numbers"),
    "far": (one([[5, 5], [10_000_001, 5]]), "track 0: point 1: not numbers"),
    "huge": (one([[5, 5], [10**400, 5]]), "track 0: point 1: not numbers"),
    "no kind": (one({"points": LINE}), "track 0: kind: not one of frames, spline, anchor"),
    "kind": (drawn(kind="curve"), "track 0: kind: not one of"),
    "kind of another type": (drawn(kind=["spline"]), "track 0: kind: not one of"),
    "plain kind": (drawn(kind="plain"), "track 0: kind: not one of"),
    "track key": (drawn(colour=1), "unknown keys 'colour': there are points, kind, times, visible"),
    "no points": (one({"kind": "spline"}), "track 0: no points"),
    "points of another type": (drawn(points="abc"), "track 0: points: a text, not a list"),
    "times of frames": (drawn(kind="frames", times=[0, 1]), "times: only a spline has them"),
    "times too short": (drawn(times=[0]), "times: not a list of 2, one for each control point"),
    "times null": (drawn(times=None), "times: not a list of 2"),
    "times bool": (drawn(times=[False, True]), "times: not numbers from 0"),
    "times nan": (drawn(times=[0, float("nan")]), "times: not numbers from 0"),
    "times in frames": (drawn(times=[0, 13]), "times: not numbers from 0"),
    "times end early": (drawn(times=[0, 0.9]), "times: do not go from 0.* to 1"),
    "times stand": (
        drawn(points=[*LINE, [5, 5], [6, 6]], times=[0, 0.5, 0.5, 1]),
        "times: each must be greater",
    ),
    "times go back": (
        drawn(points=[*LINE, [5, 5], [6, 6]], times=[0, 0.6, 0.5, 1]),
        "times: each must be greater",
    ),
    "visible too long": (drawn(visible=[True] * 3), "visible: not a list of 2, one for each point"),
    "visible numbers": (drawn(visible=[1, 0]), "visible: not true or false"),
    "never visible": (drawn(visible=[False, False]), "visible: never true"),
    "visible anchor": (
        one({"points": [[5, 5]], "kind": "anchor", "visible": [True]}),
        "visible: an anchor is always visible",
    ),
    "starts outside": (
        one([[577, 5], [5, 5]]),
        r"track 0: begins at \(577, 5\), outside the picture of 576 x 320 pixels; is the size",
    ),
    "all outside": (
        one([[577, 5], [900, 5]]),
        "track 0: no point lies in the picture of 576 x 320 pixels; is the size right",
    ),
    "pixels as unit": (one(LINE, [1, 1]), r"track 0: no point lies .* of \[0, 1\]; is the size"),
    "unit as pixels": (one([[0.2, 0.3], [0.9, 1]]), r"first pixel.*the size is \[1, 1\]"),
    "too many tracks": (
        {"size": SIZE, "tracks": [LINE] * 257},
        "tracks: 257, more than 256",
    ),
    "too many points": (one([[5, 5]] * 10_001), "track 0: 10,001 points, more than 10,000"),
    "bad id": ({"7": LINE, "007": LINE}, "track '007': not a panoptic id.*docs/tracks.md has"),
    "negative id": ({"-7": LINE}, "track '-7': not a panoptic id"),
    "id of a number": ({"7": 5}, r"track 7: a number, not a list of \[x, y\].*docs/tracks.md has"),
    "official lengths": ({"7": LINE, "8": LINE[:1]}, "tracks of different lengths"),
    "deep": (json.loads("[" * 500 + "]" * 500), "track 0: point 0: not a pair"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place(tmp_path, mistake):
    content, words = MISTAKES[mistake]
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"(?s){words}") as caught:
        read_tracks(tmp_path / "t.json", (320, 576))
    assert str(tmp_path / "t.json") in str(caught.value)
    assert all((caught.value.expected, caught.value.got, caught.value.fix))
    with pytest.raises(UserError, match=f"(?s){words}"):
        parse_tracks(content, (320, 576))


def test_all_bad_points_are_named_and_no_more_than_can_be_read():
    points = [[n, 5] for n in range(40)]
    points[3], points[7], points[8] = [1], [float("nan"), 1], [1, None]
    for n in range(20, 35):
        points[n] = "x"
    outside = [[700, 5], [6, 6]]
    with pytest.raises(UserError) as caught:
        parse_tracks({"size": SIZE, "tracks": [points, outside, {"7": 1, 8: 2}]})
    for words in (
        "track 0: points 3, 20, 21, 22, 23, 24, 25, 26, 27, 28 and 6 more: not a pair",
        "track 0: points 7, 8: not numbers",
        "track 1: begins at (700, 5)",
        "track 2: unknown keys '7', of type int",
    ):
        assert words in caught.value.got
    with pytest.raises(UserError) as caught:
        parse_tracks({"size": SIZE, "tracks": [points] * 256})
    assert len(str(caught.value)) < 2_000
    assert "and 500 more" in caught.value.got


@pytest.mark.parametrize(
    "text",
    [
        '{"size": [576, 320], "tracks": [[[5, 5], [6, 6]]], "size": [1, 1]}',
        '{"size": [1, 1], "tracks": [{"kind": "spline", "size": 1, "points": [], "size": 2}]}',
    ],
)
def test_a_key_that_comes_twice_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match="the key 'size' comes twice in one object"):
        read_tracks(tmp_path / "t.json", (320, 576))


def test_all_mistakes_are_named_at_once():
    bad = {"points": [[5, 5], [6, "6"]], "kind": "spline", "times": [0, 2], "speed": 1}
    with pytest.raises(UserError) as caught:
        parse_tracks({"size": [0, 1], "tracks": [LINE, bad, None], "fps": 5})
    assert caught.value.got.count("\n") == 6
    for words in (
        "'fps'",
        "size: not",
        "'speed'",
        "track 1: point 1",
        "times: not",
        "track 2: null",
    ):
        assert words in caught.value.got


@pytest.mark.parametrize("content", [LINE, [LINE], {"1": LINE}])
def test_a_form_without_size_needs_a_picture(content):
    with pytest.raises(UserError, match="no size"):
        parse_tracks(content)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"size": [576, 320], "tracks": ' + '{"a":' * 100_000,
        "",
        "nonsense",
        '{"size": [576, 320], "tracks": [[[5, 5], [' + "9" * 5_000 + ", 5]]]}",
        '{"size": [576, 320], "tracks": [[[5, 5], [1e999, 5]]]}',
        '{"size": [576, 320], "tracks": [[[5, 5], [-Infinity, 5]]]}',
        '{"size": [576, 320], "tracks": [[[5, 5], [6, 6]]], "\\ud800\\u001b[2J": 1}',
    ],
)
def test_text_that_is_no_track_file_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_tracks(tmp_path / "t.json", (320, 576))
    assert str(caught.value).replace("\n", "").isprintable()
    assert len(str(caught.value)) < 2_000


LARGE = [
    ('{"size": [576, 320], "tracks": [[' + "[1,2]," * 10**6 + "[1,2]]]}", "1,000,001 points"),
    ("[" + "[]," * 10**6 + "[]]", "1,000,001, more than 256"),
    ("[" * 17_000_000, "more than 16,000,000 bytes"),
    ("{" + ",".join(f'"a{n}":1' for n in range(10**6)) + "}", "unknown keys"),
]


@pytest.mark.parametrize(("text", "words"), LARGE)
def test_large_files_are_refused_fast(tmp_path, text, words):
    (tmp_path / "t.json").write_text(text)
    begin = time.process_time()
    with pytest.raises(UserError, match=words):
        read_tracks(tmp_path / "t.json", (320, 576))
    assert time.process_time() - begin < 10


@pytest.mark.full
@pytest.mark.parametrize(("text", "words"), LARGE)
def test_large_files_are_refused_in_little_memory(tmp_path, text, words):
    (tmp_path / "t.json").write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=words):
            read_tracks(tmp_path / "t.json", (320, 576))
        assert tracemalloc.get_traced_memory()[1] < 400e6
    finally:
        tracemalloc.stop()
