"""The command line: what it writes, and that mistakes leave nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posetraj_jax import sample, video
from posetraj_jax.errors import UserError
from posetraj_jax.sampling import command_line
from tests.sampling.models import micro_model

ROOT = Path(__file__).parents[2]
SMALL = ["--height=64", "--width=64", "--num_frames=3", "--num_inference_steps=2"]
TRACKS = {"size": [64, 64], "tracks": [[[10, 10], [50, 40]], [[60, 20], [20, 50]]]}


@pytest.fixture
def place(tmp_path):
    """A folder with photo.png and tracks.json in `given`."""
    folder = tmp_path / "given"
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(picture).save(folder / "photo.png")
    (folder / "tracks.json").write_text(json.dumps(TRACKS))
    return tmp_path


@pytest.fixture
def narrow(monkeypatch):
    """The narrowest networks in place of all others."""
    monkeypatch.setattr(command_line, "load_model", lambda *_, **__: micro_model())


def run(place: Path, *more: str, out: str = "out/video.mp4") -> int:
    given = place / "given"
    arguments = [f"--image={given / 'photo.png'}", f"--tracks={given / 'tracks.json'}"]
    return sample.main([*arguments, f"--out={place / out}", "--weights=tiny", *SMALL, *more])


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ""])
def test_a_video_is_written_beside_its_tracks_and_settings(place, narrow, suffix, capsys):
    assert run(place, out=f"out/video{suffix}") == 0
    frames, _ = video.read_video(place / f"out/video{suffix}")
    assert frames.shape == (3, 64, 64, 3)
    beside, _ = video.read_video(place / f"out/video_tracks{suffix}")
    assert beside.shape == (3, 64, 136, 3)
    settings = json.loads((place / "out/video_settings.json").read_text())
    assert settings["weights"] == "tiny"
    assert settings["num_inference_steps"] == 2
    assert settings["image"].endswith("photo.png")
    assert "the video will be noise" in capsys.readouterr().out


def test_png_frames_are_those_of_the_api(place, narrow):
    from posetraj_jax.sampling import generate

    run(place, out="frames")
    frames, _ = video.read_video(place / "frames")
    names = ("height", "width", "num_frames", "num_inference_steps")
    numbers = dict(zip(names, (64, 64, 3, 2), strict=True))
    made = generate(place / "given/photo.png", TRACKS, micro_model(), **numbers)
    np.testing.assert_array_equal(frames, made.frames_uint8)


def test_several_pictures_with_one_track_file(place, narrow):
    photo, tracks = place / "given/photo.png", place / "given/tracks.json"
    outs = [str(place / f"out/{name}.gif") for name in "abc"]
    arguments = ["--image", *[str(photo)] * 3, "--tracks", str(tracks), "--out", *outs]
    assert sample.main([*arguments, "--weights=tiny", *SMALL]) == 0
    assert len(files(place / "out")) == 9
    seeds = [
        json.loads((place / f"out/{name}_settings.json").read_text())["seed"] for name in "abc"
    ]
    assert seeds == [0, 1, 2]


def test_a_preview_needs_no_weights_and_writes_nothing_else(place):
    given = place / "given"
    arguments = [f"--image={given / 'photo.png'}", f"--tracks={given / 'tracks.json'}"]
    assert sample.main([*arguments, f"--out={place / 'out.png'}", "--preview"]) == 0
    assert video.read_image(place / "out.png").shape == (64, 64, 3)
    assert files(place) == {"given/photo.png", "given/tracks.json", "out.png"}


def test_inputs_are_never_replaced(place, monkeypatch):
    monkeypatch.chdir(place / "given")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    Path("tracks.json").rename("photo_settings.json")
    given = ["--image=photo.png", "--tracks=photo_settings.json", "--weights=tiny"]
    for more in (
        ["--out=photo.mp4"],
        ["--out=photo.png", "--preview"],
        ["--out=../given/photo.png", "--preview"],
        ["--out=photo", "--camera=photo_tracks"],
    ):
        with pytest.raises(UserError, match="is an input, which would be lost"):
            sample.main([*given, *more])
    Path("photo_settings.json").rename("tracks.json")
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize(
    "outs",
    [
        ["x.mp4", "x.gif"],
        ["y.mp4", "y_tracks.mp4"],
        ["z.mp4", "./../given/z.mp4"],
        ["r.png", "r.png", "--preview"],
        ["frames", "frames/x.mp4"],
    ],
    ids=" ".join,
)
def test_videos_that_would_replace_each_other_are_refused(place, monkeypatch, outs):
    monkeypatch.chdir(place / "given")
    before = files(place)
    given = ["--image", "photo.png", "photo.png", "--tracks=tracks.json", "--weights=tiny"]
    with pytest.raises(UserError, match=r"wanted twice|which is written too"):
        sample.main([*given, "--out", *outs])
    assert files(place) == before


@pytest.mark.parametrize("name", ["video_tracks.mp4", "video_settings.json"])
def test_a_video_appears_whole_or_not_at_all_and_can_be_made_again(
    place, narrow, monkeypatch, name
):
    replace = os.replace

    def refuse(source, target):
        if Path(target) == place / "out" / name:
            raise OSError("full")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="full"):
            run(place)
    assert not (place / "out").exists()
    assert run(place) == 0
    assert len(files(place / "out")) == 3


def test_previews_are_written_together_or_not_at_all(place, monkeypatch):
    monkeypatch.chdir(place / "given")
    given = ["--tracks=tracks.json", "--preview", "--out", "a.png", "b.webp"]
    with pytest.raises(UserError, match=r"none\.png"):
        sample.main([*given, "--image", "photo.png", "none.png"])
    assert files(place) == {"given/photo.png", "given/tracks.json"}
    assert sample.main([*given, "--image", "photo.png", "photo.png"]) == 0
    assert {"given/a.png", "given/b.webp"} < files(place)


@pytest.mark.parametrize("suffix", [".blp", ".pdf", ".bufr", ".tif", ""])
def test_a_preview_is_a_picture_that_all_can_open(place, suffix):
    given = place / "given"
    arguments = [f"--image={given / 'photo.png'}", f"--tracks={given / 'tracks.json'}"]
    with pytest.raises(UserError, match=r"ends in none of \.png \.jpg"):
        sample.main([*arguments, f"--out={place / 'out'}{suffix}", "--preview"])
    assert files(place) == {"given/photo.png", "given/tracks.json"}


def bad_track(content: str):
    return lambda place: (place / "given/tracks.json").write_text(content)


def truncate(place: Path) -> None:
    photo = place / "given/photo.png"
    photo.write_bytes(photo.read_bytes()[:200])


def bomb(place: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(place / "given/photo.png")


MISTAKES = {
    "no picture": (lambda p: (p / "given/photo.png").unlink(), [], "photo.png"),
    "text as picture": (lambda p: (p / "given/photo.png").write_text("hi"), [], "photo.png"),
    "half a picture": (truncate, [], "photo.png"),
    "picture bomb": (bomb, [], "64,000,000 pixels"),
    "pipe as picture": (lambda p: _pipe(p / "given/photo.png"), [], "not a file"),
    "no tracks": (lambda p: (p / "given/tracks.json").unlink(), [], "tracks.json"),
    "no JSON": (bad_track("{"), [], "JSON"),
    "NaN": (bad_track('{"size": [64, 64], "tracks": [[[1, NaN], [2, 3]]]}'), [], "track 0"),
    "one point": (bad_track('{"size": [64, 64], "tracks": [[[1, 2]]]}'), [], "track 0"),
    "other aspect": (bad_track('{"size": [64, 32], "tracks": [[[1, 2], [3, 4]]]}'), [], "aspect"),
    "outside": (bad_track('{"size": [64, 64], "tracks": [[[99, 2], [3, 4]]]}'), [], "track 0"),
    "no track": (bad_track('{"size": [64, 64], "tracks": []}'), [], "tracks"),
    "million points": (bad_track(str([[1, 1]] * 10**6)), [], "10,000"),
    "height": (None, ["--height=300"], "the nearest are 256 or 320"),
    "steps": (None, ["--num_inference_steps=0"], "num_inference_steps: 0"),
    "guidance": (None, ["--max_guidance_scale=nan"], "max_guidance_scale"),
    "suffix": (None, ["--out=video.avi"], "ends in none of"),
    "out is a file's child": (None, ["--out=setup.py/video.mp4"], "is a file"),
    "two pictures, one out": (None, ["--image", "a.png", "b.png"], "2 --out"),
    "camera": (None, ["--camera=nowhere.npy"], "nowhere.npy"),
    "weights": (None, ["--weights=nowhere"], "nowhere"),
    "controlnet": (None, ["--controlnet=nowhere"], "nowhere is no ControlNet"),
    "fsdp": (None, ["--fsdp=3"], "mesh"),
}


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named_and_nothing_is_written(place, name, monkeypatch):
    spoil, more, message = MISTAKES[name]
    if spoil is not None:
        spoil(place)
    before = files(place)
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
        run(place, *more)
    assert message in str(caught.value)
    assert files(place) == before


def program(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "posetraj_jax.sample", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_mistake_ends_the_program_with_2(place):
    out = f"--out={place / 'v.mp4'}"
    done = program("--image=x.png", "--tracks=y.json", out, "--height=100")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "the nearest are 64 or 128" in done.stderr


@pytest.mark.full
def test_the_tiny_model_runs_as_a_user_runs_it(place):
    given, out = place / "given", f"--out={place / 'v.mp4'}"
    inputs = f"--image={given / 'photo.png'}", f"--tracks={given / 'tracks.json'}"
    cache = f"--compilation_cache={place / 'cache'}"
    done = program(*inputs, out, "--weights=tiny", *SMALL, cache)
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stderr
    assert files(place / "cache")
    assert video.read_video(place / "v.mp4")[0].shape == (3, 64, 64, 3)
