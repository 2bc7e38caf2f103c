"""The command line: what it writes, and that mistakes leave nothing."""

import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from posetraj_jax import demo, errors, provenance, sample, video
from posetraj_jax.data.camera_file import ROTATION, TRANSLATION
from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Settings, command_line
from posetraj_jax.sampling.settings import explain
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


def test_inputs_are_never_replaced(place, narrow, monkeypatch):
    monkeypatch.chdir(place / "given")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    Path("tracks.json").rename("photo_settings.json")
    given = ["--image=photo.png", "--tracks=photo_settings.json", "--weights=tiny", *SMALL]
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
def test_videos_that_would_replace_each_other_are_refused(place, narrow, monkeypatch, outs):
    monkeypatch.chdir(place / "given")
    before = files(place)
    given = ["--image", "photo.png", "photo.png", "--tracks=tracks.json", "--weights=tiny"]
    given += SMALL
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


def camera(place: Path) -> None:
    fields = {ROTATION: np.stack([np.eye(3)] * 3), TRANSLATION: np.zeros((3, 3))}
    np.save(place / "given/camera.npy", fields, allow_pickle=True)


MISTAKES = {
    # What is spoilt, what is asked for, and what the error says was wrong.
    "no picture": (lambda p: (p / "given/photo.png").unlink(), [], "photo.png*no such file"),
    "text as picture": (
        lambda p: (p / "given/photo.png").write_text("hi"),
        [],
        "JPEG, PNG*cannot identify image file",
    ),
    "half a picture": (truncate, [], "photo.png*truncated"),
    "picture bomb": (bomb, [], "64,000,000 pixels*decompression bomb"),
    "pipe as picture": (lambda p: _pipe(p / "given/photo.png"), [], "photo.png*not a file"),
    "no tracks": (lambda p: (p / "given/tracks.json").unlink(), [], "tracks.json*FileNotFound"),
    "no JSON": (bad_track("{"), [], "a JSON object or a list*JSONDecodeError"),
    "null": (bad_track("null"), [], "a JSON object or a list*it holds null"),
    "NaN": (
        bad_track('{"size": [64, 64], "tracks": [[[1, NaN], [2, 3]]]}'),
        [],
        "track 0: point 0: not numbers",
    ),
    "one point": (
        bad_track('{"size": [64, 64], "tracks": [[[1, 2]]]}'),
        [],
        "track 0: one point only",
    ),
    "other aspect": (
        bad_track('{"size": [64, 32], "tracks": [[[1, 2], [3, 4]]]}'),
        [],
        "another aspect ratio*64 x 64*a size of 64 x 32",
    ),
    "outside": (
        bad_track('{"size": [64, 64], "tracks": [[[99, 2], [3, 4]]]}'),
        [],
        "track 0: begins at (99, 2), outside",
    ),
    "cut off": (
        bad_track('{"size": [64, 64], "tracks": [[[9, 2], [3, 4]]]}'),
        ["--width=128"],
        "y 16 to 48*track 0: x 3 to 9, y 2 to 4*--fit stretch",
    ),
    "no track": (bad_track('{"size": [64, 64], "tracks": []}'), [], "tracks: none"),
    "million points": (
        bad_track(str([[1, 1]] * 10**6)),
        [],
        "track 0: 1,000,000 points, more than 10,000",
    ),
    "height": (None, ["--height=300"], "height: 300*the nearest are 256 or 320"),
    "steps": (None, ["--num_inference_steps=0"], "num_inference_steps: 0 is not between 1"),
    "seed": (None, [f"--seed={10**400}"], "seed: a number of more than 15 digits"),
    "guidance": (None, ["--max_guidance_scale=nan"], "max_guidance_scale: nan is not between"),
    "suffix": (None, ["--out=video.avi"], "video.avi: ends in none of .mp4, .gif"),
    "root as out": (None, ["--out=/"], "'/': names no file"),
    "nothing as out": (None, ["--out="], "names no file"),
    "out is a file's child": (None, ["--out=setup.py/video.mp4"], "setup.py is a file"),
    "out in no folder": (None, ["--out=/proc/video.mp4"], "No such file*: /proc/video.mp4"),
    "two pictures, one out": (None, ["--image", "a.png", "b.png"], "2 --out*1 --out"),
    "no camera": (None, ["--camera=none.npy"], "none.npy*No such file*another --camera, or none"),
    "camera for nobody": (camera, ["--camera=CAMERA"], "camera*ignored*no --camera"),
    "weights": (None, ["--weights=nowhere"], "nowhere holds no weights*nothing*--weights"),
    "no weights": (None, ["--weights="], "no weights*neither*--weights tiny"),
    "controlnet": (None, ["--controlnet=nowhere"], "nowhere is no ControlNet*nothing"),
    "fsdp 3": (None, ["--fsdp=3"], "--fsdp 1 or 2 or 4 or 8*3*change --fsdp"),
    "fsdp 0": (None, ["--fsdp=0"], "--fsdp 1 or 2 or 4 or 8*0*change --fsdp"),
}
READS_A_MODEL = ("weights", "no weights", "controlnet", "fsdp 3", "fsdp 0")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named_end_with_2_and_nothing_is_written(place, name, monkeypatch, capsys):
    spoil, more, message = MISTAKES[name]
    if spoil is not None:
        spoil(place)
    if name not in READS_A_MODEL:
        monkeypatch.setattr(command_line, "load_model", lambda *_, **__: micro_model())
    before = files(place)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    more = [word.replace("CAMERA", str(place / "given/camera.npy")) for word in more]
    with pytest.raises(SystemExit) as ended:
        errors.run(lambda: run(place, *more))
    assert ended.value.code == errors.EXIT_USER_ERROR
    said = capsys.readouterr().err
    for part in ("error: ", "expected: ", "got: ", "do: "):
        assert part in said
    place_in_text = 0
    for words in message.split("*"):
        assert words in said[place_in_text:]
        place_in_text = said.index(words, place_in_text) + len(words)
    assert files(place) == before


def test_settings_are_all_that_it_takes_to_make_it_again(place, narrow):
    chosen = ["--seed=7", "--fps=9", "--max_guidance_scale=2.5", "--noise_aug_strength=0.1"]
    assert run(place, *chosen, out="one") == 0
    said = json.loads((place / "one_settings.json").read_text())
    flags = [field.name for field in dataclasses.fields(Settings)]
    flags += ["image", "tracks", "weights", "controlnet", "dtype", "fsdp"]
    again = [f"--{name}={said.pop(name)}" for name in flags]
    assert sample.main([*again, f"--out={place / 'two'}"]) == 0
    one, two = (video.read_video(place / name)[0] for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    assert said.pop("camera") is None
    assert said.pop("devices") == {"kind": "cpu", "data": 1, "fsdp": 1, "context": 1}
    made_with = said.pop("made_with")
    assert {*provenance.PACKAGES, "git", "numpy", "pillow"} < set(made_with)
    assert made_with["jax"] == jax.__version__
    assert not said


@pytest.mark.parametrize("program", [sample, demo])
def test_help_explains_every_option(program, capsys):
    with pytest.raises(SystemExit):
        program.parse(["--help"])
    text = capsys.readouterr().out
    for name in (f.name for f in dataclasses.fields(Settings)):
        assert re.search(rf"^  --{name} \S+( \S+)*\s+\w+", text, re.MULTILINE)
    words = " ".join(text.split())
    for field in dataclasses.fields(Settings):
        assert explain(field) in words
    assert "--port PORT 1 to 65535" in words or program is sample


@pytest.mark.parametrize("module", ["sample", "floor_tracks", "data_prep.encode_latents"])
def test_the_example_can_be_copied(module):
    name = module if "." in module else f"posetraj_jax.{module}"
    text = importlib.import_module(name).__doc__
    assert re.search(r"python -m \S+ .*\\\n {8}--", text)


@pytest.mark.parametrize(
    ("variable", "begins"), [(None, "~/.cache"), ("", "~/.cache"), ("/big", "/big")]
)
def test_where_compiled_programs_are_kept(monkeypatch, variable, begins):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if variable is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert str(command_line.default_cache()) == f"{begins}/posetraj_jax/compiled"


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
