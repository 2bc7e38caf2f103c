"""VIPSeg to clip records: exact numbers, splits, every mismatch by name, and runs that go on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import real_videos
from PIL import Image
from real_videos import HEIGHT, VIDEOS, WIDTH, encoded, tracks_of, write

from data_prep import vipseg
from data_prep.fanout.report import EXIT_INCOMPLETE
from posetraj_jax.data.pipeline import DataOptions, eval_examples
from posetraj_jax.data.records import open_dataset
from posetraj_jax.errors import UserError

SAMPLES = Path(__file__).parents[3] / "shared/fixtures/vipseg_tracks"
REPOSITORY = Path(__file__).parents[2]


def run(root: Path, out: Path, *options: str) -> int:
    sizes = () if {"--original", "--short_side"} & set(options) else ("--height", "64")
    sizes += ("--width", "128") if sizes else ()
    return vipseg.main([str(root), "--out", str(out), "--workers", "1", *sizes, *options])


def files_in(folder: Path) -> dict[str, bytes]:
    """Contents by name, without what TFDS dates."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# All videos


def test_splits_and_a_second_run(root, tmp_path, capsys):
    """The list may be a folder of JSON files or a text; a second run does nothing."""
    write(tmp_path / f"zip/test_traject/{VIDEOS[1]}.json", b"{}")
    out = tmp_path / "out"
    assert run(root, out, "--val", str(tmp_path / "zip")) == 0
    train, val = open_dataset(out / "vipseg_train"), open_dataset(out / "vipseg_val")
    assert train.clip_ids == tuple(sorted({*VIDEOS} - {VIDEOS[1]}))
    assert (val.clip_ids, val.num_frames) == ((VIDEOS[1],), (16,))
    assert (train[0].provenance["split"], val[0].provenance["split"]) == ("train", "val")
    assert "vipseg_val written: 1 clips, 16 frames" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert run(root, out, "--val", str(tmp_path / "zip")) == 0
    assert f"is there already: {out / 'vipseg_train/1.0.0'}" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    with pytest.raises(
        UserError, match=r"something else in .*vipseg_train/1\.0\.0(.|\n)*another --out"
    ):
        run(root, out, "--val", str(tmp_path / "zip"), "--jpeg_quality", "50")


def test_only_one_split_and_a_list_of_names(root, tmp_path, capsys):
    names = tmp_path / "val.txt"
    names.write_text(f"{VIDEOS[0]}\n\n{VIDEOS[2]}.json\n")
    assert run(root, tmp_path / "out", "--val", str(names), "--only", "val") == 0
    assert [entry.name for entry in (tmp_path / "out").glob("*/")] == ["vipseg_val"]
    assert set(open_dataset(tmp_path / "out").clip_ids) == {VIDEOS[0], VIDEOS[2]}
    capsys.readouterr()


def test_without_a_list_all_is_training_and_said_so(root, tmp_path, capsys):
    assert run(root, tmp_path / "out") == 0
    assert "Without --val, all videos go into vipseg_train" in capsys.readouterr().out
    assert len(open_dataset(tmp_path / "out")) == 3


def test_every_mismatch_is_named(own_root, tmp_path, capsys):
    """All at once; good videos become a dataset, and the exit code says that some did not."""
    for name in ("a_short", "b_tracks", "c_masks", "d_none", "e_size", "f_camera", "g_json"):
        real_videos.vipseg_video(own_root, name, 13 if name == "a_short" else 14)
    for name in ("h_broken", "i_names", "j k", "l" * 201):
        real_videos.vipseg_video(own_root, name)
    imgs, masks = own_root / "imgs", own_root / "panomasks"
    real_videos.write_tracks(own_root, "b_tracks", tracks_of(15))
    (masks / "c_masks/00000003.png").unlink()
    (own_root / "trajectory_CoTracker_all/d_none.json").unlink()
    large = np.zeros((HEIGHT * 2, WIDTH, 3), np.uint8)
    write(imgs / "e_size/00000002.jpg", encoded(large, "JPEG"))
    real_videos.write_camera(own_root, "f_camera", 12)
    real_videos.write_tracks(own_root, "g_json", {"7": [[0, "1"]] * 14})
    write(imgs / "h_broken/00000001.jpg", b"no picture")
    (masks / "i_names/00000003.png").rename(masks / "i_names/00000003b.png")
    real_videos.write_tracks(own_root, "only_tracks", tracks_of(15))
    (tmp_path / "val.txt").write_text(f"{VIDEOS[0]}\nnowhere\n")
    assert run(own_root, tmp_path / "out", "--val", str(tmp_path / "val.txt")) == 3
    said = capsys.readouterr().out
    for line in (
        "a_short: short: 13 frames of at least 14",
        "b_tracks: 14 pictures but tracks of 15 points",
        "c_masks: 14 pictures but 13 masks",
        "d_none: no d_none.json",
        "e_size: 00000002.jpg is 80x80, not 80x40",
        "f_camera: 14 pictures but 12 cameras",
        "g_json: g_json.json: track 7, frame 0: not numbers",
        "h_broken: A picture cannot be read: 00000001.jpg",
        "i_names: mask 00000003b.png where 00000003.jpg has none",
        "j k: no name for a clip",
        f"{'l' * 201}: no name for a clip",
        "only_tracks: has tracks but no folder in imgs",
        "nowhere: named by --val but has no folder in imgs",
    ):
        assert f"- {line}" in said, line
    assert "12 of 14 rejected" in said
    assert "1 of 2 rejected" in said
    assert set(open_dataset(tmp_path / "out/vipseg_train").clip_ids) == set(VIDEOS[1:])
    arguments = ("--val", str(tmp_path / "val.txt"), "--accept_rejects")
    assert run(own_root, tmp_path / "out", *arguments) == 0


def test_what_the_system_refuses_is_named_and_tried_again(own_root, tmp_path, capsys):
    picture = own_root / "imgs" / VIDEOS[0] / "00000003.jpg"
    content = picture.read_bytes()
    picture.unlink()
    picture.symlink_to("nowhere")
    assert run(own_root, tmp_path / "out", "--accept_rejects") == 3
    said = capsys.readouterr().out
    assert "1 of 3 failed, tried again next time:" in said
    assert "00000003.jpg" in said
    assert len(open_dataset(tmp_path / "out")) == 2
    picture.unlink()
    write(picture, content)
    assert run(own_root, tmp_path / "out") == 0
    assert len(open_dataset(tmp_path / "out")) == 3


def test_cameras_that_count_as_unknown_are_named(own_root, tmp_path, capsys):
    real_videos.write_camera(own_root, VIDEOS[0], 12)
    assert run(own_root, tmp_path / "out", "--bad_camera", "unknown") == 0
    said = capsys.readouterr().out
    assert "1 with camera" in said
    assert f"1 cameras count as unknown:\n    - {VIDEOS[0]}: 15 pictures but 12 cameras" in said


def test_one_and_two_workers_make_the_same_bytes(root, tmp_path):
    for workers in ("1", "2"):
        assert run(root, tmp_path / workers, "--workers", workers) == 0
    assert files_in(tmp_path / "1") == files_in(tmp_path / "2")


def test_a_killed_run_goes_on_and_ends_the_same(root, tmp_path):
    """One video fails for a while, so that the parts can be looked at."""
    many = tmp_path / "many"
    shutil.copytree(root, many)
    for number in range(20):
        real_videos.vipseg_video(many, f"more_{number:02d}", 30)
    assert run(many, tmp_path / "whole") == 0
    picture = many / "imgs/more_19/00000000.jpg"
    picture.rename(tmp_path / "kept.jpg")
    picture.symlink_to("nowhere")
    command = [sys.executable, "-m", "data_prep.vipseg", str(many)]
    command += ["--out", str(tmp_path / "killed"), "--workers", "1"]
    command += ["--height", "64", "--width", "128"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    parts = tmp_path / "killed/.vipseg_train.parts"
    end = time.monotonic() + 120
    while len(list(parts.glob("*/*.clip"))) < 3 and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in parts.glob("*/done.json")}
    assert not (tmp_path / "killed/vipseg_train").exists()
    assert 2 <= len(finished) < 23
    assert run(many, tmp_path / "killed") == EXIT_INCOMPLETE
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    picture.unlink()
    (tmp_path / "kept.jpg").rename(picture)
    assert run(many, tmp_path / "killed") == 0
    assert not parts.exists()
    assert files_in(tmp_path / "whole") == files_in(tmp_path / "killed")


def test_training_reads_the_dataset_as_it_reads_the_folder(own_root, tmp_path):
    """The maps are the same ones pixel by pixel, though the tracks were scaled before."""
    shutil.rmtree(own_root / "panomasks")
    assert run(own_root, tmp_path / "out", "--void", "drop") == 0
    options = {
        "height": 64,
        "width": 128,
        "batch_size": 1,
        "draw_box": False,
        "condition_on_box": False,
        "seed": 0,
        "track_kinds": ("object", "stuff"),
        "needs_camera": False,
    }
    made = eval_examples(DataOptions(path=str(tmp_path / "out"), **options), 3)
    raw = eval_examples(DataOptions(path=str(own_root), **options), 3)
    for new, old in zip(made, raw, strict=True):
        assert new.clip_id == old.clip_id
        np.testing.assert_array_equal(new.batch.maps_uint8, old.batch.maps_uint8)
        np.testing.assert_array_equal(new.batch.camera_rt, old.batch.camera_rt)
        np.testing.assert_array_equal(new.batch.camera_known, old.batch.camera_known)
        difference = new.batch.frames_uint8.astype(int) - old.batch.frames_uint8
        assert np.abs(difference).mean() < 4
    assert [bool(e.batch.camera_known[0]) for e in made] == [False, False, True]


def test_names_of_classes(own_root, tmp_path):
    """The list counts from 0, the masks from 1."""
    names = [{"id": i, "name": f"class {i}", "isthing": 0} for i in range(124)]
    names[60]["name"] = "person"
    path = tmp_path / "panoVIPSeg_categories.json"
    path.write_text(json.dumps(names))
    assert run(own_root, tmp_path / "out", "--categories", str(path)) == 0
    clip = open_dataset(tmp_path / "out")[0]
    assert clip.provenance["class_names"] == ["", "class 42", "person", "person", "class 123"]
    for content in ("{}", "[]", '[{"id": 124, "name": "x"}]', "[1]", "[" * 10**5, "\x80"):
        path.write_text(content, "latin1")
        with pytest.raises(UserError, match="panoVIPSeg_categories"):
            run(own_root, tmp_path / "other", "--categories", str(path))


# Tracks without pictures


def test_tracks_without_pictures_give_statistics(own_root, tmp_path, capsys):
    shutil.rmtree(own_root / "imgs")
    assert run(own_root, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "There are no pictures" in said
    check_statistics(said, tmp_path / "out/tracks.png")


def test_statistics_on_demand_and_of_a_folder_of_json(own_root, tmp_path, capsys):
    folder = own_root / "trajectory_CoTracker_all"
    for root, options in ((own_root, ["--tracks_only"]), (folder, [])):
        assert run(root, tmp_path / "out", *options) == 0
        check_statistics(capsys.readouterr().out, tmp_path / "out/tracks.png")
    (folder / "damaged.json").write_text("{}")
    assert run(folder, tmp_path / "out") == 3
    assert "1 files cannot be used:\n    - damaged: no tracks" in capsys.readouterr().out


def check_statistics(said: str, picture: Path) -> None:
    for line in (
        "3 videos, 0 of them with fewer than 14 frames",
        "tracks: 12, 4 to 4 per video, median 4",
        "kinds: 6 object, 3 stuff, 3 void",
        "points: 184, x -108644 to 75, y 5 to 32437; 3 videos have one beyond 5000 pixels",
        "23.4% have a negative coordinate, and 23.4% lie beyond",
    ):
        assert line in said, line
    assert re.search(r"^ +15 +2 #+\n +16 +1 #+$", said, re.MULTILINE)
    with Image.open(picture) as drawn:
        assert drawn.size == (3 * 288 + 8, 160)
        assert np.asarray(drawn).any()


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the official tracks are not here")
def test_statistics_of_official_tracks(tmp_path, capsys):
    assert run(SAMPLES, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert f"{len(list(SAMPLES.glob('*.json')))} videos" in said
    assert (tmp_path / "out/tracks.png").is_file()


# What cannot be


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "val"], "--only needs --val"),
        (["--most_outside", "1.5"], "--most_outside 1.5"),
        (["--most_outside", "nan"], "--most_outside nan"),
        (["--original", "--short_side", "9"], "or --short_side, or --original"),
        (["--short_side", "0"], "--short_side 0"),
        (["--jpeg_quality", "0"], "--jpeg_quality 0"),
        (["--min_frames", "0"], "--min_frames 0"),
        (["--licence", " "], "--licence: empty"),
        (["--val", "absent"], "validation videos cannot be used: absent"),
    ],
)
def test_options_that_cannot_be_used(root, tmp_path, options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        vipseg.main([str(root), "--out", str(tmp_path / "out"), *options])


def test_a_size_needs_both_sides(root, tmp_path):
    with pytest.raises(UserError, match="both --height and --width"):
        vipseg.main([str(root), "--out", str(tmp_path), "--height", "9"])


def test_a_list_of_which_nothing_or_everything_is_here_is_refused(root, tmp_path):
    (tmp_path / "val.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"val\.txt names no video in"):
        run(root, tmp_path / "out", "--val", str(tmp_path / "val.txt"))
    with pytest.raises(UserError, match=r"trajectory_CoTracker_all names every video in"):
        run(root, tmp_path / "out", "--val", str(root / "trajectory_CoTracker_all"))


def test_wrong_folders_are_told_what_is_in_them(tmp_path):
    for name, words in (("absent", "no such folder"), ("empty", "an empty folder")):
        if name == "empty":
            (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=words):
            run(tmp_path / name, tmp_path / "out")
    (tmp_path / "root/imgs").mkdir(parents=True)
    with pytest.raises(UserError, match=r"There is no VIPSeg in (.|\n)*- imgs"):
        run(tmp_path / "root", tmp_path / "out")
    (tmp_path / "root/output_cotracker_all").mkdir()
    with pytest.raises(UserError, match="No videos in"):
        run(tmp_path / "root", tmp_path / "out")


def test_the_program_ends_with_2_on_a_wrong_folder(tmp_path):
    command = [sys.executable, "-m", "data_prep.vipseg", str(tmp_path / "absent")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: There is no VIPSeg in")
    assert not list(tmp_path.iterdir())
