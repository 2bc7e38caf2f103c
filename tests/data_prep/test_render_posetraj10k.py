import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import toy_worker

from data_prep import contact_sheet, render_posetraj10k
from data_prep.engines import verify
from data_prep.engines.rendered_clip import load_clip
from data_prep.scenes.posetraj import make_scenes
from posetraj_jax.data.records import open_dataset
from posetraj_jax.errors import UserError


def run(tmp_path, *more, out="out"):
    render_posetraj10k.main(
        [
            f"--out={tmp_path / out}",
            f"--renders={tmp_path / 'renders'}",
            f"--render_python={toy_worker.make_python(tmp_path)}",
            "--num_clips=3",
            *more,
        ]
    )


@pytest.fixture
def clip(tmp_path):
    scene = make_scenes(1, 0, {"builtin:car": tuple(toy_worker.SIDES)})[0]
    toy_worker.draw(scene, tmp_path / "clip")
    return load_clip(tmp_path / "clip", jpeg_quality=90)


def test_clips_are_rendered_checked_and_packed(tmp_path):
    run(tmp_path)
    records = open_dataset(tmp_path / "out")
    assert records.clip_ids == ("car_0_S", "car_0_circle", "duck_0_S")
    clip = records[1]
    assert clip.source == "posetraj10k/toy-1"
    assert (clip.fps, clip.licence, clip.camera_known) == (5.0, "CC0-1.0", True)
    assert clip.provenance["curve"] == "circle"
    assert clip.provenance["seed"] == 0
    assert clip.provenance["scene"]["objects"] == [{"asset": "builtin:car", "size": 1.0}]
    assert clip.track_kinds[:3] == ("floor", "centre", "surface")


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FAILS_AT", "duck_0_S")
    with pytest.raises(UserError, match="duck_0_S"):
        run(tmp_path)
    monkeypatch.delenv("TOY_FAILS_AT")
    (tmp_path / "renders/.partial-duck_0_S").mkdir()
    kept = tmp_path / "renders/car_0_S/frame_000.png"
    before = kept.stat().st_mtime_ns
    run(tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert len(open_dataset(tmp_path / "out")) == 3
    assert not (tmp_path / "renders/.partial-duck_0_S").exists()


def test_another_seed_renders_anew(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match="exit code 1"):  # the toy does not replace folders
        run(tmp_path, "--seed=1", out="other")


def test_an_unsound_clip_is_not_packed(tmp_path):
    run(tmp_path)
    mask = tmp_path / "renders/car_0_S/mask_004.png"
    cv2.imwrite(str(mask), np.roll(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED), 5, axis=1))
    with pytest.raises(UserError, match=r"car_0_S[^$]*frame 4: the mask of object 0 leaves"):
        run(tmp_path, out="other")
    assert not list((tmp_path / "other").glob("*/*/dataset_info.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_clips=0"], "--num_clips is 0"),
        (["--jpeg_quality=99"], "the most is 95"),
        (["--workers=0", "--seed=-1"], "--workers is 0"),
        (["--render_python=nowhere"], "make render-env"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, *options)


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*file cannot be made"):
        run(tmp_path, out="file")


def test_an_existing_dataset_is_named_before_rendering(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match="already holds a dataset"):
        run(tmp_path, "--seed=1")


def test_user_errors_exit_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.render_posetraj10k", "--out", str(tmp_path),
         "--renders", str(tmp_path / "r"), "--num_clips", "0"],
        capture_output=True, text=True, cwd=render_posetraj10k.render_env.ROOT,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "--num_clips is 0, the least is 1" in done.stderr


def test_a_sound_clip_has_no_problems(clip):
    assert verify.problems(clip) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"box_px": c.box_px + np.float32(0.5)}, "px from the projection of box_world"),
        (lambda c: {"box_px": c.box_px * np.float32(0.98)}, "leaves its box"),
        (lambda c: {"object_pose": np.roll(c.object_pose, 1, axis=0)}, "does not carry its box"),
        (lambda c: {"tracks_px": c.tracks_px + np.float32(60)}, "floor track"),
        (lambda c: {"tracks_px": c.tracks_px - np.float32(200)}, "px from side"),
        (lambda c: {"masks_png": c.masks_png[::-1]}, "leaves its box"),
        (lambda c: {"frames_jpeg": (_black(),) * 14}, "mean brightness 0"),
    ],
)
def test_each_defect_is_found(clip, change, message):
    assert any(message in line for line in verify.problems(clip._replace(**change(clip))))


def test_a_loose_box_is_found(clip):
    """The box of an unmodified cage: larger than what is seen, though it contains it."""
    middle = clip.box_world.mean(axis=2, keepdims=True)
    world = (middle + 1.1 * (clip.box_world - middle)).astype(np.float32)
    px = np.stack(
        [
            verify.geometry.project(w.astype(np.float64), k, rt)
            for w, k, rt in zip(world, clip.camera_k, clip.camera_rt, strict=True)
        ]
    ).astype(np.float32)
    lines = verify.problems(clip._replace(box_world=world, box_px=px))
    assert any("off side" in line for line in lines)
    assert not any("leaves its box" in line for line in lines)


def test_a_hidden_part_of_the_object_is_found(clip):
    """A mask that lacks a part still lies in the box, but no longer fills the outline."""
    mask = verify.decode(clip.masks_png[0])
    columns = np.nonzero(mask.any(axis=0))[0]
    mask[:, columns[0] : columns[0] + 4] = 0
    png = cv2.imencode(".png", mask)[1].tobytes()
    lines = verify.problems(clip._replace(masks_png=(png, *clip.masks_png[1:])))
    assert any("frame 0" in line and "outline" in line for line in lines)


def test_contact_sheet_shows_every_frame(tmp_path):
    run(tmp_path)
    contact_sheet.main([str(tmp_path / "out"), f"--out={tmp_path / 'sheets'}"])
    sheet = cv2.imread(str(tmp_path / "sheets/car_0_S.png"))
    assert sheet.shape == (4 * 320, 4 * 576, 3)
    assert (sheet == (0, 0, 255)).all(axis=-1).any(), "no red box"
    with pytest.raises(UserError, match="no_such"):
        contact_sheet.main([str(tmp_path / "out"), "--out=x", "--clips", "no_such"])


def _black() -> bytes:
    return cv2.imencode(".jpg", np.zeros((320, 576, 3), np.uint8))[1].tobytes()
