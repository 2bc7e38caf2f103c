"""The command that writes motions over the floor as tracks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from posetraj_jax import floor_tracks
from posetraj_jax.errors import UserError
from posetraj_jax.trajectories import (
    FloorMotion,
    make_camera,
    move_over_floor,
    read_tracks,
    resample,
)
from posetraj_jax.video import read_image, write_image

CIRCLE = "--start 288 250 --motion circle --radius 0.6 --angle 180 --direction 90 --num_frames 14"


def run(tmp_path, words: str) -> int:
    return floor_tracks.main([*words.split(), "--out", str(tmp_path / "t.json")])


def test_the_track_is_that_of_the_motion(tmp_path, capsys):
    assert run(tmp_path, f"{CIRCLE} --size 576 320") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "t.json")
    tracks = resample(read_tracks(tmp_path / "t.json"), 14, (320, 576)).tracks_px[:, 0]
    camera = make_camera((320, 576))
    motion = FloorMotion("circle", 0.6, angle_deg=180.0, direction_deg=90.0)
    exact = move_over_floor(camera, motion, (288.0, 250.0), 14).tracks_px
    np.testing.assert_allclose(tracks, exact, atol=0.0051)  # two decimals are written


def test_every_option_counts(tmp_path):
    words = "--start 300 400 --size 640 480 --camera_height 1.5 --pitch 30 --direction -20"
    words += " --num_frames 9"
    camera = make_camera((480, 640), height_m=1.5, pitch_deg=30.0, hfov_deg=60.0)
    for kind, more in (("S", "--radius 0.2 --angle -90"), ("line", "--length 0.7")):
        motion = FloorMotion(kind, 0.2, 0.7, -90.0, -20.0)
        for lens in ("--hfov 60", f"--focal {camera.focal_px[0]}"):
            assert run(tmp_path, f"{words} --motion {kind} {more} {lens}") == 0
            points = read_tracks(tmp_path / "t.json").tracks[0].points
            exact = move_over_floor(camera, motion, (300.0, 400.0), 9).tracks_px
            np.testing.assert_allclose(points, exact, atol=0.0051)


def test_the_preview_lies_over_the_image_and_has_its_size(tmp_path):
    ground = np.full((200, 360, 3), (10, 60, 200), np.uint8)
    write_image(tmp_path / "photo.png", ground)
    words = "--start 180 150 --motion line --length 0.5 --heading 90"
    preview = tmp_path / "p.png"
    assert run(tmp_path, f"{words} --image {tmp_path / 'photo.png'} --preview {preview}") == 0
    picture = read_image(preview)
    assert picture.shape == ground.shape
    assert (picture[:40] == ground[:40]).all()
    assert (picture != ground).any()
    assert read_tracks(tmp_path / "t.json").size == (200, 360)
    assert run(tmp_path, f"{words} --image {tmp_path / 'photo.png'}") == 0
    assert read_tracks(tmp_path / "t.json").size == (200, 360)


def test_without_an_image_the_preview_is_on_grey(tmp_path):
    assert run(tmp_path, f"{CIRCLE} --preview {tmp_path / 'p.png'}") == 0
    picture = read_image(tmp_path / "p.png")
    assert picture.shape == (320, 576, 3)
    assert (picture[0] == 128).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{CIRCLE} --size 0 320", "--size cannot be used"),
        (f"{CIRCLE} --num_frames 1", "1 frames: not from 2"),
        (f"{CIRCLE} --camera_height 0", "camera height 0.0"),
        (f"{CIRCLE} --focal 500 --hfov 60", "one says the other"),
        (f"{CIRCLE} --preview PHOTO --box 1 0 1", "--box cannot be used"),
        (f"{CIRCLE} --preview PHOTO --box 1 nan 1", "--box cannot be used"),
        (f"{CIRCLE} --image none.png", "no such file"),
        (f"{CIRCLE} --preview p.xyz", "The track cannot be written there"),
        (f"{CIRCLE} --image PHOTO --preview p.png --size 576 320", "an image of 64 x 32"),
        (f"{CIRCLE} --image PHOTO --preview p.png", "The start is not in the picture"),
        ("--start 5 5 --motion line --pitch 0", "The start is not on the floor"),
    ],
)
def test_mistakes_write_nothing(tmp_path, words, message):
    photo = write_image(tmp_path / "photo.png", np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(UserError, match=message):
        run(tmp_path, words.replace("PHOTO", str(photo)))
    assert list(tmp_path.iterdir()) == [photo]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out photo.png", "photo.png: is an input"),
        ("--out t.json --preview ./photo.png", "photo.png: is an input"),
        ("--out t.png --preview ../PLACE/t.png", "is wanted twice, also as t.png"),
        ("--out t.json --preview new/p.pdf", "ends in none of .png"),
        ("--out . --preview p.png", "names no file"),
        ("--out photo.png/t.json --preview p.png", "is a file"),
    ],
)
def test_places_are_safe(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    photo = write_image(Path("photo.png"), np.zeros((320, 576, 3), np.uint8))
    before = photo.read_bytes()
    arguments = f"{CIRCLE} --image photo.png {words.replace('PLACE', tmp_path.name)}"
    with pytest.raises(UserError, match=message):
        floor_tracks.main(arguments.split())
    assert list(tmp_path.iterdir()) == [tmp_path / "photo.png"]
    assert photo.read_bytes() == before


def test_both_files_are_written_or_none(tmp_path, monkeypatch):
    def refuse(path, picture):
        raise OSError("full")

    monkeypatch.setattr(floor_tracks.video, "write_image", refuse)
    with pytest.raises(OSError, match="full"):
        run(tmp_path, f"{CIRCLE} --preview {tmp_path / 'new/p.png'}")
    assert list(tmp_path.iterdir()) == []


def test_as_a_program(tmp_path):
    """Exit codes, and help that is complete; jax stays away, so that it starts at once."""
    code = "import sys; from posetraj_jax import floor_tracks; print('jax' in sys.modules)"
    program = [sys.executable, "-m", "posetraj_jax.floor_tracks"]
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert imported.stdout.strip() == "False"
    text = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True).stdout
    assert "(2.3)" in text
    assert "--motion circle \\\n" in text
    bad = [*program, *f"{CIRCLE} --pitch 99 --out {tmp_path / 't.json'}".split()]
    result = subprocess.run(bad, capture_output=True, text=True)
    assert result.returncode == 2
    assert "pitch 99.0" in result.stderr
