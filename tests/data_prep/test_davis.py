"""DAVIS 2017 to clip records: masks and frames as they are, and tracks that stay on their masks."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import real_videos
from real_videos import BALL_PX, encoded, palette_png, write

from data_prep import davis
from data_prep.fanout.task import Rejected
from data_prep.videos import davis_sequence, mask_tracks
from data_prep.videos.mask_tracks import follow_objects
from data_prep.videos.pictures import Storage
from posetraj_jax.data import record_codec
from posetraj_jax.data.clip import Clip
from posetraj_jax.data.pipeline import DataOptions, eval_examples
from posetraj_jax.data.records import open_dataset
from posetraj_jax.errors import UserError

ORIGINAL = Storage(height=0, width=0, short_side=0, jpeg_quality=95)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Three good sequences."""
    return real_videos.davis(tmp_path_factory.mktemp("davis") / "DAVIS")


@pytest.fixture
def own_root(tmp_path) -> Path:
    """The same three, to be damaged."""
    return real_videos.davis(tmp_path / "DAVIS")


def make(root: Path, folder: Path, **changes) -> Clip:
    """Does the work of one task."""
    options = {"root": str(root), "sequence": "bear", "resolution": "480p", "stamp": ""}
    options |= {"split": "val", "storage": ORIGINAL, "min_frames": 14, "licence": "none"}
    job = davis_sequence.SequenceJob(**(options | changes)).to_json()
    folder.mkdir(exist_ok=True)
    davis_sequence.make(json.loads(json.dumps(job)), folder)
    return record_codec.decode((folder / "bear.clip").read_bytes())


def run(root: Path, out: Path, *options: str) -> int:
    arguments = [str(root), "--out", str(out), "--workers", "1", "--original", *options]
    return davis.main(arguments)


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def files_in(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# One sequence


def test_a_sequence_becomes_a_record(root, tmp_path):
    clip = make(root, tmp_path / "parts")
    assert (clip.clip_id, clip.fps, clip.source) == ("bear", 24.0, "davis2017")
    assert clip.track_kinds == ("object", "object")
    assert clip.track_objects.tolist() == [0, 1]
    assert not clip.camera_known
    for t, (jpeg, png) in enumerate(zip(clip.frames_jpeg, clip.masks_png, strict=True)):
        assert jpeg == (root / f"JPEGImages/480p/bear/{t:05d}.jpg").read_bytes()
        mask, x = decoded(png), 10 + BALL_PX * t
        wanted = np.zeros((96, 160), np.uint8)
        wanted[30:70, x : x + 40] = 1
        if 4 <= t < 9:
            wanted[4:24, 120:150] = 2
        np.testing.assert_array_equal(mask, wanted)  # the rim of 255 is background


def test_the_first_object_is_followed_exactly_and_the_second_while_it_is_there(root, tmp_path):
    clip = make(root, tmp_path / "parts")
    time = np.arange(14)
    # Both have whole lines of deepest places; the first of these counts.
    square = np.stack([29.5 + BALL_PX * time, np.full(14, 49.5)], axis=1)
    np.testing.assert_allclose(clip.tracks_px[:, 0], square, atol=0.3)
    assert clip.tracks_visible[:, 0].all()
    assert clip.tracks_visible[:, 1].tolist() == [4 <= t < 9 for t in time]
    np.testing.assert_array_equal(clip.tracks_px[:5, 1], np.tile([129.5, 13.5], (5, 1)))
    np.testing.assert_allclose(clip.tracks_px[5:9, 1], np.tile([129.5, 13.5], (4, 1)), atol=0.3)


@pytest.mark.parametrize(
    ("storage", "size"),
    [(Storage(64, 64, 0, 90), (64, 64)), (Storage(0, 0, 48, 90), (48, 80))],
)
def test_points_are_scaled_with_the_pictures(root, tmp_path, storage, size):
    small, large = make(root, tmp_path / "a", storage=storage), make(root, tmp_path / "b")
    scale = np.array([size[1] / 160, size[0] / 96])
    np.testing.assert_allclose(small.tracks_px, large.tracks_px * scale, rtol=1e-6)
    np.testing.assert_array_equal(small.tracks_visible, large.tracks_visible)
    assert decoded(small.frames_jpeg[0]).shape[:2] == decoded(small.masks_png[0]).shape == size


def test_large_pictures_are_followed_at_a_smaller_size(tmp_path, monkeypatch):
    """So the tracks of the large ones are those of the small ones, in their own pixels."""
    root = real_videos.davis(tmp_path / "DAVIS")
    monkeypatch.setattr(davis_sequence, "TRACKED", Storage(0, 0, 48, 95))
    clip = make(root, tmp_path / "parts")
    assert clip.provenance["tracked_size"] == [48, 80]
    time = np.arange(14)
    np.testing.assert_allclose(clip.tracks_px[:, 0, 0], 29 + BALL_PX * time, atol=1.5)
    assert clip.tracks_visible[:, 0].all()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda pictures, masks: (pictures / "00003.jpg").unlink(), "short: 13 frames.*; 13 pic"),
        (lambda pictures, masks: (masks / "00003.png").unlink(), "14 pictures but 13 masks"),
        (lambda pictures, masks: shutil.rmtree(masks), "no masks"),
        (lambda pictures, masks: shutil.rmtree(pictures), "no pictures"),
        (
            lambda pictures, masks: (masks / "00003.png").rename(masks / "3.png"),
            r"mask 00004\.png where 00003\.jpg has none",
        ),
        (
            lambda pictures, masks: write(masks / "00003.png", palette_png(np.eye(9, dtype="u1"))),
            r"00003\.png is 9x9, not 160x96",
        ),
        (
            lambda pictures, masks: [write(m, palette_png(np.zeros((96, 160), np.uint8)))
                                     for m in masks.iterdir()],
            "no object in its masks",
        ),
        (
            lambda pictures, masks: write(
                pictures / "00003.jpg", encoded(np.zeros((8, 8, 3), np.uint8), "JPEG")
            ),
            r"00003\.jpg is 8x8, not 160x96",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(own_root, tmp_path, damage, words):
    damage(own_root / "JPEGImages/480p/bear", own_root / "Annotations/480p/bear")
    with pytest.raises(Rejected, match=words):
        make(own_root, tmp_path / "parts")


# Points on masks


def square(x: int, y: int, side: int = 9) -> np.ndarray:
    mask = np.zeros((40, 60), np.int32)
    mask[y : y + side, x : x + side] = 7
    return mask


def followed_by(monkeypatch, steps: list[tuple[float, float]]) -> None:
    """Puts a flow that goes as it likes in the place of the real one."""

    def track(frames, seeds, *, masks):
        points = seeds[None] + np.array(steps[: len(frames)])[:, None]
        return mask_tracks.MaskTracks(points, np.ones(points.shape[:2], bool), ())

    monkeypatch.setattr(mask_tracks, "track", track)


def test_a_point_that_leaves_its_mask_is_put_back_and_goes_on_with_the_flow(monkeypatch):
    masks = np.stack([square(10, 10), square(10, 10), square(30, 10), square(32, 10)])
    followed_by(monkeypatch, [(0, 0), (1, 0), (2, 0), (4, 0)])
    frames = np.zeros((4, 40, 60, 3), np.uint8)
    points, visible, put_back = follow_objects(frames, masks, (7,))
    # Frame 2: of the places at least 2.5 pixels deep, the nearest is column 32, in the same row.
    assert points[:, 0].tolist() == [[14.5, 14.5], [15.5, 14.5], [32.5, 14.5], [34.5, 14.5]]
    assert visible.all()
    assert put_back == ((2,),)


def test_a_hidden_object_moves_with_the_flow_and_is_not_visible(monkeypatch):
    gone = np.zeros((40, 60), np.int32)
    masks = np.stack([gone, square(10, 10), gone, square(10, 10), gone])
    followed_by(monkeypatch, [(0, 0), (3, 0), (1, 0), (90, 0)])
    frames = np.zeros((5, 40, 60, 3), np.uint8)
    points, visible, put_back = follow_objects(frames, masks, (7,))
    assert visible[:, 0].tolist() == [False, True, False, True, False]
    assert points[:, 0, 0].tolist() == [14.5, 14.5, 17.5, 15.5, 104.5]
    assert put_back == ((),)


def test_a_point_outside_the_picture_is_put_back(monkeypatch):
    masks = np.stack([square(0, 0), square(0, 0), square(51, 31)])
    followed_by(monkeypatch, [(0, 0), (-90, -90), (990, 990)])
    points, _, put_back = follow_objects(np.zeros((3, 40, 60, 3), np.uint8), masks, (7,))
    # The edge of the picture is an edge of the object too.
    assert points[:, 0].tolist() == [[4.5, 4.5], [2.5, 2.5], [57.5, 37.5]]
    assert put_back == ((1, 2),)


# All sequences


def test_lists_splits_and_a_second_run(root, tmp_path, capsys):
    assert run(root, tmp_path / "out") == 0
    assert open_dataset(tmp_path / "out").clip_ids == ("bear", "kite")
    assert run(root, tmp_path / "out", "--split", "all") == 0
    said = capsys.readouterr().out
    assert "davis_train written: 1 clips, 14 frames" in said
    assert "davis_val written: 2 clips, 28 frames (4 tracks of kind object" in said
    assert f"is there already: {tmp_path / 'out/davis_val/1.0.0'}" in said
    assert open_dataset(tmp_path / "out/davis_train").clip_ids == ("lucia",)


def test_one_and_two_workers_make_the_same_bytes(root, tmp_path):
    for workers in ("1", "2"):
        assert run(root, tmp_path / workers, "--workers", workers, "--split", "all") == 0
    assert files_in(tmp_path / "1") == files_in(tmp_path / "2")


def test_full_resolution_is_taken_where_480p_is_not(tmp_path):
    root = real_videos.davis(tmp_path / "DAVIS", "Full-Resolution")
    assert run(root, tmp_path / "out", "--split", "train") == 0
    assert open_dataset(tmp_path / "out")[0].provenance["resolution"] == "Full-Resolution"
    with pytest.raises(UserError, match=r"no JPEGImages/480p, no Annotations/480p"):
        run(root, tmp_path / "other", "--resolution", "480p")


def test_what_is_left_out_is_named(own_root, tmp_path, capsys):
    real_videos.davis_sequence(own_root, "short", num_frames=13)
    write(own_root / "ImageSets/2017/val.txt", b"bear\n\nkite\nshort\nabsent\n")
    assert run(own_root, tmp_path / "out") == 3
    said = capsys.readouterr().out
    assert "short: short: 13 frames of at least 14" in said
    assert "absent: in val.txt but no folder in JPEGImages" in said
    assert run(own_root, tmp_path / "out", "--accept_rejects") == 0
    assert run(own_root, tmp_path / "13", "--min_frames", "13", "--accept_rejects") == 0
    assert len(open_dataset(tmp_path / "13")) == 3


def test_nothing_left_is_an_error(own_root, tmp_path, capsys):
    with pytest.raises(UserError, match=r"Nothing was made for .*davis_val"):
        run(own_root, tmp_path / "out", "--min_frames", "15")
    assert "bear: short: 14 frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "FileNotFoundError"), (b"\n", "no names"), (b"a b\n", "- a b"), (b"\xff", "Unicode")],
)
def test_lists_that_cannot_be_used(own_root, tmp_path, content, words):
    path = own_root / "ImageSets/2017/val.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"list of sequences (.|\n)*{words}"):
        run(own_root, tmp_path / "out")


def test_other_folders_and_contradicting_lists_are_refused(own_root, tmp_path):
    with pytest.raises(UserError, match=re.escape(f"There is no DAVIS 2017 in {tmp_path}")):
        run(tmp_path, tmp_path / "out")
    write(own_root / "ImageSets/2017/train.txt", b"bear\n")
    with pytest.raises(UserError, match="bear in both"):
        run(own_root, tmp_path / "out", "--split", "all")
    write(own_root / "ImageSets/2017/val.txt", b"nowhere\n")
    with pytest.raises(UserError, match="No sequence of DAVIS"):
        run(own_root, tmp_path / "out")


def test_training_reads_the_dataset(root, tmp_path):
    assert run(root, tmp_path / "out") == 0
    options = DataOptions(
        path=str(tmp_path / "out"),
        height=64,
        width=128,
        batch_size=1,
        draw_box=False,
        condition_on_box=False,
        seed=0,
        track_kinds=("object", "stuff"),
    )
    for example in eval_examples(options, 2):
        assert example.batch.frames_uint8.shape == (1, 14, 64, 128, 3)
        assert example.batch.maps_uint8[0, 0].any()
        assert example.tracks_px.shape == (14, 2, 2)
