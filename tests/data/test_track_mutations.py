"""200 damaged copies of the official tracks: read as documented, or named with file and field."""

import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from posetraj_jax.data.track_file import FARTHEST_PX, class_of, kind_of
from posetraj_jax.data.tracks import read_vipseg
from posetraj_jax.errors import UserError
from posetraj_jax.json_file import name_of

SAMPLES = Path(__file__).parents[3] / "shared/fixtures/vipseg_tracks"
SEEDS = range(10)
MOST_MEMORY = 80_000_000

Tracks = dict[str, list[list[int]]]


def official(rng: random.Random) -> Tracks:
    """The tracks of an official file, or of a generated one that looks the same."""
    files = sorted(SAMPLES.glob("*.json"))
    if files:
        return json.loads(rng.choice(files).read_text())
    things = [f"{100 * rng.randint(2, 124) + n}" for n in range(rng.randint(2, 6))]
    ids = ["0", *(str(rng.randint(1, 124)) for _ in range(3)), *things]
    length = rng.choice((12, 15, 21, 46))
    return {i: [[rng.randint(-900, 3000) for _ in "xy"] for _ in range(length)] for i in ids}


def spot(tracks: Tracks, rng: random.Random) -> tuple[str, int, int]:
    """A track, a frame and a coordinate."""
    name = rng.choice(list(tracks))
    return name, rng.randrange(len(tracks[name])), rng.randrange(2)


def in_number(value: object) -> Callable:
    """Puts something in the place of one number."""

    def damage(tracks: Tracks, rng: random.Random) -> tuple[str, str]:
        name, frame, axis = spot(tracks, rng)
        tracks[name][frame][axis] = value
        return json.dumps(tracks), f"track {name}, frame {frame}: not numbers up to"

    return damage


def in_text(value: str) -> Callable:
    """Writes something that json.dumps would not in the place of one number."""

    def damage(tracks: Tracks, rng: random.Random) -> tuple[str, str]:
        text, words = in_number("@")(tracks, rng)
        return text.replace('"@"', value), words

    return damage


def in_point(value: object) -> Callable:
    """Puts something in the place of one point."""

    def damage(tracks: Tracks, rng: random.Random) -> tuple[str, str]:
        name, frame, _ = spot(tracks, rng)
        tracks[name][frame] = value
        return json.dumps(tracks), f"track {name}, frame {frame}: not a pair"

    return damage


def in_track(value: object) -> Callable:
    """Puts something in the place of one track."""

    def damage(tracks: Tracks, rng: random.Random) -> tuple[str, str]:
        name, _, _ = spot(tracks, rng)
        tracks[name] = value
        return json.dumps(tracks), f"track {name}: {name_of(value)}, not a list"

    return damage


def in_id(value: str) -> Callable:
    """Gives one track another id."""

    def damage(tracks: Tracks, rng: random.Random) -> tuple[str, str]:
        name, _, _ = spot(tracks, rng)
        renamed = {value if key == name else key: track for key, track in tracks.items()}
        return json.dumps(renamed), f"track {value[:20]!r}: not a panoptic id"

    return damage


def shorter(tracks: Tracks, rng: random.Random) -> tuple[str, str]:
    name, frame, _ = spot(tracks, rng)
    del tracks[name][frame]
    return json.dumps(tracks), "tracks of different lengths, such as"


def whole(text: str, words: str) -> Callable:
    return lambda tracks, rng: (text, words)


def cut(tracks: Tracks, rng: random.Random) -> tuple[str, str]:
    text = json.dumps(tracks)
    return text[: rng.randrange(1, len(text) - 1)], "JSONDecodeError"


DAMAGES: dict[str, Callable] = {
    "text": in_number("12"),
    "true": in_number(True),
    "null": in_number(None),
    "nan": in_number(float("nan")),
    "1e30": in_number(1e30),
    "huge-integer": in_number(-(10**400)),
    "list-for-a-number": in_number([[1]]),
    "1e400": in_text("1e400"),
    "5000-digits": in_text("9" * 5000),
    "beyond": in_number(FARTHEST_PX + 1),
    "one-number": in_point([7]),
    "point-is-an-object": in_point({"x": 1, "y": 2}),
    "track-is-an-object": in_track({"0": [1, 2]}),
    "track-is-a-number": in_track(3),
    "id-missing": in_id(""),
    "id-is-negative": in_id("-7"),
    "unequal-lengths": shorter,
    "cut": cut,
    "deep": whole('{"7": ' + "[" * 200_000 + "]" * 200_000 + "}", "RecursionError"),
    "a-list": whole("[[1, 2]]", "it holds a list"),
}


def test_there_are_200():
    assert len(DAMAGES) * len(SEEDS) == 200


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_tracks_are_named(tmp_path, kind, seed):
    rng = random.Random(f"{kind}{seed}")
    text, words = DAMAGES[kind](official(rng), rng)
    path = tmp_path / "1003_bW7ntcdquEU.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_vipseg(path)
    message = str(caught.value)
    assert str(path) in message
    if kind == "5000-digits":  # more than Python reads as one number; then no field is known
        assert "Exceeds the limit" in message
    else:
        assert words in message
    assert len(message) < 2000


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_legal_is_read_exactly(tmp_path, seed):
    """Fractions, minus zero, whole floats, and ids in another order, or fewer of them."""
    rng = random.Random(seed)
    tracks = official(rng)
    name, frame, axis = spot(tracks, rng)
    tracks[name][frame][axis] = rng.choice((-0.0, 1.5, 3.0, 1e-300, FARTHEST_PX, -FARTHEST_PX))
    names = rng.sample(list(tracks), max(1, len(tracks) - 1))
    path = tmp_path / "video.json"
    path.write_text(json.dumps({name: tracks[name] for name in names}))
    ids, points = read_vipseg(path)
    assert ids == tuple(int(name) for name in names)
    expected = np.array([tracks[name] for name in names], np.float32).swapaxes(0, 1)
    np.testing.assert_array_equal(points, expected)


def test_of_an_id_that_comes_twice_the_last_counts(tmp_path):
    path = tmp_path / "video.json"
    path.write_text('{"7": [[1, 2]], "8": [[3, 4]], "7": [[5, 6]]}')
    ids, points = read_vipseg(path)
    assert (ids, points.tolist()) == ((7, 8), [[[5, 6], [3, 4]]])


@pytest.mark.parametrize("start", ["", '{"7": [', "[" * 1000])
def test_a_hundred_megabytes_are_not_read(tmp_path, start):
    path = tmp_path / "video.json"
    path.write_text(start)
    os.truncate(path, 100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"video\.json(.|\n)*more than 16,000,000 bytes"):
            read_vipseg(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_what_is_no_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, tmp_path / "absent.json"):
        with pytest.raises(UserError, match=path.name):
            read_vipseg(path)


@pytest.mark.parametrize(
    ("panoptic_id", "kind", "class_number"),
    [(0, "void", 0), (1, "stuff", 1), (124, "stuff", 124), (6100, "object", 61)],
)
def test_ids_say_kind_and_class(panoptic_id, kind, class_number):
    assert (kind_of(panoptic_id), class_of(panoptic_id)) == (kind, class_number)
