"""Videos from files or folders become a folder in VIPSeg's layout, with tracks and cameras."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep import estimate_cameras, render_vipseg, track_videos
from data_prep.fanout.report import EXIT_INCOMPLETE
from data_prep.videos import tracked_video
from posetraj_jax.data.camera_file import read_camera
from posetraj_jax.data.sources import open_source
from posetraj_jax.errors import UserError
from posetraj_jax.video import write_video

FRAMES, HEIGHT, WIDTH = 6, 96, 128
STEP = (4, 2)
"""How far the square moves per frame, pixels (x, y)."""


def texture(height: int, width: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def make_frames() -> tuple[np.ndarray, np.ndarray]:
    """A textured square that moves over a still picture, and its masks."""
    behind, square = texture(HEIGHT, WIDTH, 0) // 3, texture(32, 32, 1)
    frames, masks = np.repeat(behind[None], FRAMES, axis=0), np.zeros((FRAMES, HEIGHT, WIDTH), int)
    for number in range(FRAMES):
        x, y = 20 + STEP[0] * number, 24 + STEP[1] * number
        frames[number, y : y + 32, x : x + 32] = square
        masks[number, y : y + 32, x : x + 32] = 12400
    return frames, masks


@pytest.fixture
def videos(tmp_path):
    """A folder with a video file and a folder of pictures, and masks of both."""
    frames, masks = make_frames()
    write_video(tmp_path / "videos/film.mp4", frames, 5)
    write_video(tmp_path / "videos/pictures", frames, 5)
    for name in ("film", "pictures"):
        folder = tmp_path / "masks" / name
        folder.mkdir(parents=True)
        for number, mask in enumerate(masks):
            Image.fromarray(mask.astype(np.uint16)).save(folder / f"{number:05d}.png")
    return tmp_path


def run(folder: Path, *more: str) -> int:
    return track_videos.main(
        [str(folder / "videos"), f"--out={folder / 'out'}", "--workers=1", *more]
    )


def moved(tracks) -> np.ndarray:
    return tracks.points_px - tracks.points_px[:1]


def test_masks_give_each_object_its_point(videos):
    assert run(videos, f"--masks={videos / 'masks'}") == 0
    source = open_source(videos / "out")
    assert source.clip_ids == ("film", "pictures")
    assert source.num_frames == (FRAMES, FRAMES)
    for clip in (source[0], source[1]):
        tracks = clip.tracks(0, FRAMES)
        assert tracks.kinds == ("void", "object")
        expected = np.arange(FRAMES)[:, None] * np.array(STEP)
        np.testing.assert_allclose(moved(tracks)[:, 1], expected, atol=0.5)
        assert tracks.visible[:, 1].all()
    assert (videos / "out/track_sheets/film.jpg").stat().st_size > 0
    np.testing.assert_array_equal(source[1].frames(0, 1).shape, (1, HEIGHT, WIDTH, 3))


def test_points_that_somebody_chose(videos):
    (videos / "points.json").write_text(json.dumps({"film": [[36.0, 40.0]], "pictures": [[5, 5]]}))
    assert run(videos, f"--points={videos / 'points.json'}") == 0
    source = open_source(videos / "out")
    np.testing.assert_allclose(moved(source[0].tracks(0, FRAMES))[-1, 0], (20, 10), atol=0.5)
    np.testing.assert_allclose(moved(source[1].tracks(0, FRAMES)), 0, atol=0.3)


def test_points_are_chosen_where_nobody_says(videos):
    assert run(videos, "--num_points=5", "--num_frames=4", "--start=1") == 0
    tracks = open_source(videos / "out")[1].tracks(0, 4)
    assert 1 <= len(tracks.kinds) <= 5
    assert (np.linalg.norm(moved(tracks)[-1], axis=-1) > 8).any(), "nothing on what moves"


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_what_cotracker_made_is_taken(videos, suffix):
    folder = videos / "tracks"
    folder.mkdir()
    points = np.tile(np.arange(FRAMES)[:, None, None] + 10.0, (1, 2, 2))
    seen = np.ones((FRAMES, 2), bool)
    seen[3, 1] = False
    for name in ("film", "pictures"):
        if suffix == "npz":
            np.savez(folder / f"{name}.npz", tracks=points, visibility=seen)
        else:
            official = {"43": points[:, 0].tolist(), "12400": points[:, 1].tolist()}
            (folder / f"{name}.json").write_text(json.dumps(official))
    assert run(videos, "--tracker=cotracker", f"--tracks={folder}") == 0
    tracks = open_source(videos / "out")[0].tracks(0, FRAMES)
    centre = 0.5 if suffix == "npz" else 0.0  # CoTracker counts from the centres of pixels
    np.testing.assert_allclose(tracks.points_px, points + centre)
    assert tracks.visible[3].tolist() == ([True, False] if suffix == "npz" else [True, True])


def test_bad_videos_are_named_and_good_ones_tracked(videos, capsys):
    (videos / "videos/broken.mp4").write_bytes(b"no video at all")
    write_video(videos / "videos/still", make_frames()[0][:1], 5)
    write_video(videos / "videos/with space", make_frames()[0], 5)
    assert run(videos) == EXIT_INCOMPLETE
    said = capsys.readouterr().out
    for words in ("broken: A video cannot be read", "still: one frame", "with space: no name"):
        assert words in said
    assert open_source(videos / "out").clip_ids == ("film", "pictures")


def test_masks_that_do_not_fit_are_named(videos, capsys):
    (videos / "masks/film/00003.png").unlink()
    assert run(videos, f"--masks={videos / 'masks'}") == EXIT_INCOMPLETE
    assert "film: 5 masks for 6 frames" in capsys.readouterr().out


def test_a_second_run_makes_the_same_files(videos):
    run(videos, "--workers=2")
    (videos / "out").rename(videos / "first")
    run(videos)
    files = [path for path in sorted((videos / "out").rglob("*")) if path.is_file()]
    assert files
    for path in files:
        other = videos / "first" / path.relative_to(videos / "out")
        assert path.read_bytes() == other.read_bytes(), path.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stride=0"], "--stride is 0"),
        (["--tracker=tapnext"], "--weights is needed"),
        (["--tracker=cotracker"], "--tracks is needed"),
        (["--weights=x"], "--weights is not for lucas_kanade"),
        (["--masks=nowhere"], "there is no nowhere"),
    ],
)
def test_bad_options_are_named(videos, options, message):
    with pytest.raises(UserError, match=message):
        run(videos, *options)


def test_bad_points_are_named(videos):
    (videos / "points.json").write_text('{"film": [[1]]}')
    with pytest.raises(UserError, match="points cannot be read"):
        run(videos, f"--points={videos / 'points.json'}")


def test_no_videos_are_named(tmp_path):
    (tmp_path / "videos").mkdir()
    with pytest.raises(UserError, match="No videos to track"):
        run(tmp_path)


def test_cameras_of_a_rendered_video_are_found(tmp_path, capsys):
    """The truck: sideways without turning. Focal length given; a broken video is named."""
    root = tmp_path / "videos"
    arguments = [f"--out={root}", "--engine=fast", "--num_videos=3", "--workers=2"]
    render_vipseg.main(arguments)
    (video,) = sorted(path.name for path in (root / "imgs").glob("*truck*"))
    truth = read_camera(root / f"estimated_cam_rt/{video}/camera.npy")
    for path in root.glob("estimated_cam_rt/*/camera.npy"):
        if path.parent.name == video:
            path.unlink()
    focal = 35 / 36 * 640
    flat = root / "imgs/0009_flat"
    flat.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64)).save(flat / f"{number:05d}.jpg")
    options = [str(root), f"--focal_px={focal}", "--workers=1", "--scale_by=path"]
    assert estimate_cameras.main(options) == EXIT_INCOMPLETE
    said = capsys.readouterr().out
    assert "0009_flat: The camera of 0009_flat cannot be estimated" in said
    assert "1 cameras estimated; 3 of 4 videos" in said
    found = read_camera(root / f"estimated_cam_rt/{video}/camera.npy")
    turned = np.linalg.inv(truth.rotations[0]) @ truth.rotations
    angle = np.arccos(np.clip((np.trace(turned.swapaxes(1, 2) @ found.rotations, axis1=1, axis2=2)
                               - 1) / 2, -1, 1))  # fmt: skip
    assert np.rad2deg(angle).max() <= 1.0
    path = (truth.translations - truth.translations[0]) @ truth.rotations[0]
    one, two = path[-1] / np.linalg.norm(path[-1]), found.translations[-1]
    assert np.linalg.norm(two) == pytest.approx(1.0, abs=0.01)
    assert np.rad2deg(np.arccos(np.clip(one @ two / np.linalg.norm(two), -1, 1))) <= 10.0


def test_cameras_need_videos(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        estimate_cameras.main([str(tmp_path)])


def test_pipes_are_no_videos_and_no_lists(videos, capsys):
    """Opening one would wait for ever."""
    os.mkfifo(videos / "videos/pipe.mp4")
    os.mkfifo(videos / "points.json")
    assert run(videos, "--num_points=3") == EXIT_INCOMPLETE
    assert "pipe: A video cannot be read" in capsys.readouterr().out
    with pytest.raises(UserError, match="not a file"):
        tracked_video.read_points(videos / "points.json")


def test_names_that_no_clip_can_have_are_named(videos, capsys):
    run(videos)
    (videos / "out/imgs/film").rename(videos / "out/imgs/my film")
    (videos / "out/imgs/pictures").rename(videos / "out/imgs/other film")
    with pytest.raises(UserError, match=r"No video in .* has a camera"):
        estimate_cameras.main([str(videos / "out"), "--workers=1"])
    assert "my film: no name for a clip" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--timeout_s=inf", "--memory_gb=nan", "--retries=-1"])
def test_numbers_without_sense_are_refused(videos, option):
    with pytest.raises(SystemExit, match="2"):
        run(videos, option)
