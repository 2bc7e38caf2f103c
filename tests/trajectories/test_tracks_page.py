"""docs/tracks.md: every example does what the page says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from posetraj_jax import floor_tracks, trajectories
from posetraj_jax.trajectories import checks, spline, track
from posetraj_jax.video import read_image

PAGE = (Path(__file__).parents[2] / "docs/tracks.md").read_text()
SIZE = (320, 576)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks("json"))
def test_every_json_example_is_a_track_file(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    track_file = trajectories.read_tracks(tmp_path / "t.json", SIZE)
    tracks, visible = trajectories.resample(track_file, 14, SIZE)
    assert tracks.shape == (14, len(track_file.tracks), 2)
    assert visible.shape == (14, len(track_file.tracks))
    again = trajectories.write_tracks(tmp_path / "again.json", track_file)
    assert trajectories.read_tracks(again) == track_file


def test_there_is_an_example_of_every_kind_and_form():
    files = [trajectories.parse_tracks(json.loads(text), SIZE) for text in blocks("json")]
    assert len(files) == 6
    assert {t.kind for file in files for t in file.tracks} == {*track.KINDS, track.PLAIN}


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tracks.json").write_text(blocks("json")[0])
    names = {"image_uint8": np.zeros((*SIZE, 3), np.uint8)}
    (code,) = blocks("python")
    exec(code, names)
    assert names["tracks_px"].shape == (14, 3, 2)
    assert names["picture"].any()
    assert trajectories.read_tracks("same.json") == names["drawn"]


def test_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = blocks("sh")
    words = command.replace("\\\n", " ").split()
    assert words[:3] == ["python", "-m", "posetraj_jax.floor_tracks"]
    assert floor_tracks.main(words[3:]) == 0
    assert trajectories.read_tracks("tracks.json").tracks[0].points[0] == (288, 250)
    assert read_image("preview.png").shape == (*SIZE, 3)


def test_the_limits_are_those_of_the_code():
    words = (
        f"Sizes go to {track.MOST_SIDE_PX:,}, tracks to {track.MOST_TRACKS} a file, points to "
        f"{track.MOST_POINTS:,} a track"
    ).replace(",0", " 0").replace(",3", " 3")  # fmt: skip
    assert words in " ".join(PAGE.split())
    for key in checks.KEYS:
        assert f"**{key}**" in PAGE
    assert "centripetal Catmull-Rom" in PAGE
    assert "entripetal Catmull-Rom" in spline.__doc__
