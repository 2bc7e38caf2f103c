"""One model for several people: who waits, who stops, and what is left behind."""

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from posetraj_jax import video
from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Settings, StoppedError
from posetraj_jax.trajectories import TrackFile, parse_tracks, read_tracks
from posetraj_jax.web.desk import Desk, Made
from posetraj_jax.web.pictures import Opened
from tests.sampling.models import micro_model

SMALL = Settings(height=64, width=64, num_frames=3, num_inference_steps=3)
OPENED = Opened(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), (64, 64))
TRACKS: TrackFile = parse_tracks({"size": [64, 64], "tracks": [[[10, 10], [50, 40]]]})


@pytest.fixture
def desk(tmp_path):
    return Desk(micro_model(), tmp_path)


LONG = replace(SMALL, num_inference_steps=1000)
"""More steps than can be done before somebody stops them."""


def steps(desk, user="anna", tracks=TRACKS, settings=SMALL):
    return desk.steps(user, OPENED, tracks, settings)


def folders(desk) -> int:
    return len(list(desk._folder.iterdir()))


def test_steps_are_told_and_files_say_how_to_make_it_again(desk):
    *told, made = steps(desk)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert isinstance(made, Made)
    frames, fps = video.read_video(made.video)
    overlay, _ = video.read_video(made.overlay)
    assert frames.shape == overlay.shape == (3, 64, 64, 3)
    assert fps == SMALL.fps
    assert np.abs(frames.astype(int) - overlay).max() > 50
    beside, settings, tracks, picture = made.others
    assert beside.name == "video_tracks.mp4"
    said = json.loads(settings.read_text())
    assert said["seed"] == 0
    assert (said["image"], said["tracks"]) == (picture.name, tracks.name)
    assert read_tracks(tracks) == TRACKS
    np.testing.assert_array_equal(video.read_image(picture), OPENED.image_uint8)


def test_one_user_has_one_result_and_none_after_leaving(desk):
    *_, first = steps(desk)
    *_, second = steps(desk)
    assert folders(desk) == 1
    assert not first.video.exists()
    assert second.video.exists()
    list(steps(desk, "ben"))
    desk.leave("anna")
    assert folders(desk) == 1
    desk.leave("ben")
    desk.leave("nobody")
    assert folders(desk) == 0


def test_a_stopped_request_leaves_nothing_and_the_next_one_works(desk):
    news = steps(desk, settings=LONG)
    assert next(news) == (1, 1000)
    desk.stop("anna")
    seen = []
    with pytest.raises(StoppedError):
        seen.extend(iter(news))
    assert len(seen) < 900
    assert folders(desk) == 0
    assert isinstance(list(steps(desk))[-1], Made)


@pytest.mark.parametrize("when", ["makes", "writes", "has written"])
def test_whoever_leaves_at_any_time_leaves_nothing(desk, monkeypatch, when):
    """Leaves when all is computed, while files are written, and just before they are his."""
    from posetraj_jax.web import desk as module

    generate_many, write = module.generate_many, module.outputs.write

    def generating(*arguments):
        (made,) = generate_many(*arguments)
        if when == "makes":
            desk.leave("anna")
        yield made

    def writing(*arguments):
        if when == "writes":
            desk.leave("anna")
        return write(*arguments)

    def written(*arguments):
        if when == "has written":
            desk.leave("anna")

    monkeypatch.setattr(module, "generate_many", generating)
    monkeypatch.setattr(module.outputs, "write", writing)
    monkeypatch.setattr(module, "write_tracks", written)
    with pytest.raises(StoppedError):
        list(steps(desk))
    assert folders(desk) == 0
    assert desk._stops == {}


def test_whoever_leaves_stops_all_that_he_asked_for(desk):
    ended = []

    def ask():
        try:
            ended.extend(steps(desk))
        except StoppedError:
            ended.append("stopped")

    threads = [threading.Thread(target=ask) for _ in range(2)]
    with desk._at_work:  # as while somebody else's video is being made
        for thread in threads:
            thread.start()
        while len(desk._stops.get("anna", ())) < 2:
            time.sleep(0.01)
        desk.leave("anna")
    for thread in threads:
        thread.join()
    assert ended == ["stopped", "stopped"]
    assert folders(desk) == 0


def test_stopping_somebody_else_changes_nothing(desk):
    news = steps(desk)
    next(news)
    desk.stop("ben")
    assert isinstance(list(news)[-1], Made)


def test_a_request_that_nobody_waits_for_ends(desk):
    iterator = steps(desk, settings=LONG)
    next(iterator)
    iterator.close()  # as when a browser goes away
    assert isinstance(list(steps(desk, "ben"))[-1], Made)
    assert folders(desk) == 1


def test_two_at_once_are_made_one_after_the_other(desk, monkeypatch):
    from posetraj_jax.web import desk as module

    at_once, most, original = [0], [0], module.generate_many

    def counted(*arguments):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        yield from original(*arguments)
        at_once[0] -= 1

    monkeypatch.setattr(module, "generate_many", counted)
    made = {}
    threads = [
        threading.Thread(target=lambda u=user: made.update({u: list(steps(desk, u))[-1]}))
        for user in ("anna", "ben", "cleo")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len({each.video for each in made.values()}) == 3


def test_one_who_waits_can_be_stopped(desk):
    outcome = []

    def wait():
        try:
            outcome.extend(steps(desk, "ben"))
        except StoppedError:
            outcome.append("stopped")

    thread = threading.Thread(target=wait)
    with desk._at_work:  # as while somebody's video is being made
        thread.start()
        while "ben" not in desk._stops:
            time.sleep(0.01)
        desk.stop("ben")
    thread.join()
    assert outcome == ["stopped"]


def test_errors_come_to_the_one_who_asked(desk, monkeypatch):
    from posetraj_jax.web import desk as module

    other = parse_tracks({"size": [64, 32], "tracks": [[[10, 10], [50, 30]]]})
    with pytest.raises(UserError, match="aspect"):
        list(steps(desk, tracks=other))
    with monkeypatch.context() as patch:
        patch.setattr(module, "generate_many", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(steps(desk))
    assert isinstance(list(steps(desk))[-1], Made)
