"""One video of VIPSeg to one clip record: exact numbers, masks, cameras, sizes, memory."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import real_videos
from PIL import Image
from real_videos import HEIGHT, TRACK_IDS, VIDEOS, WIDTH, encoded, mask_of, tracks_of, write

from data_prep.fanout.task import Rejected
from data_prep.videos import vipseg_video
from data_prep.videos.pictures import Storage, nearest
from posetraj_jax.data import record_codec
from posetraj_jax.data.clip import Clip

REPOSITORY = Path(__file__).parents[2]
LARGE = Storage(height=64, width=128, short_side=0, jpeg_quality=90)
SCALE = (128 / WIDTH, 64 / HEIGHT)
MOST_BYTES = 400_000_000


def make(root: Path, folder: Path, video: str = VIDEOS[1], **changes) -> Clip:
    """Does the work of one task."""
    options = {
        "root": str(root),
        "video": video,
        "stamp": "",
        "split": "train",
        "storage": LARGE,
        "min_frames": 14,
        "void": "keep",
        "most_outside": 1.0,
        "bad_camera": "leave_out",
        "licence": "none",
    }
    job = vipseg_video.VideoJob(**(options | changes)).to_json()
    folder.mkdir(exist_ok=True)
    vipseg_video.make(json.loads(json.dumps(job)), folder)
    return record_codec.decode((folder / f"{video}.clip").read_bytes())


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_video_becomes_a_record_exactly(root, tmp_path):
    clip = make(root, tmp_path / "parts")
    assert (clip.clip_id, clip.fps, clip.source) == (VIDEOS[1], 5.0, "vipseg")
    expected = np.array(list(tracks_of(16).values()), np.float64).swapaxes(0, 1) * SCALE
    np.testing.assert_array_equal(clip.tracks_px, expected.astype(np.float32))
    assert clip.track_kinds == ("void", "stuff", "object", "object")
    assert clip.track_objects.tolist() == [0, 1, 2, 3]
    assert clip.tracks_visible[:, 0].tolist() == [True] * 7 + [False] * 9
    assert clip.tracks_visible[:, 1:3].all()
    assert clip.tracks_visible[:, 3].tolist() == [True] + [False] * 15
    assert clip.box_world.shape == (16, 0, 8, 3)
    about = clip.provenance
    assert about["panoptic_ids"] == [*TRACK_IDS, real_videos.LATE_ID]
    assert about["classes"] == [0, 43, 61, 61, 124]
    assert about["original_size"] == [HEIGHT, WIDTH]
    assert about["scale"] == [SCALE[1], SCALE[0]]
    assert about["frames"] == [f"{t:08d}.jpg" for t in range(16)]
    assert (about["split"], about["camera"]) == (
        "train",
        f"estimated_cam_rt/{VIDEOS[1]}/camera.npy",
    )


def test_frames_are_those_that_training_would_make(root, tmp_path):
    clip = make(root, tmp_path / "parts")
    for t, jpeg in enumerate(clip.frames_jpeg):
        with Image.open(root / "imgs" / VIDEOS[1] / f"{t:08d}.jpg") as picture:
            wanted = np.asarray(picture.convert("RGB").resize((128, 64), Image.Resampling.LANCZOS))
        got = decoded(jpeg)[..., ::-1]
        assert got.shape == wanted.shape
        assert np.abs(got.astype(int) - wanted).mean() < 4  # JPEG


def test_masks_number_the_segments(root, tmp_path):
    """The pixel in the middle of each quarter; 0 is void without a track, which is the first."""
    clip = make(root, tmp_path / "kept")
    for t, png in enumerate(clip.masks_png):
        mask = decoded(png)
        assert mask.dtype == np.uint8
        late = 5 if t >= 3 else 1
        np.testing.assert_array_equal(mask[[16, 16, 48, 48], [32, 96, 32, 96]], [1, 2, 3, late])
    dropped = make(root, tmp_path / "dropped", void="drop")
    mask = decoded(dropped.masks_png[3])
    np.testing.assert_array_equal(mask[[16, 16, 48, 48], [32, 96, 32, 96]], [0, 1, 2, 4])
    assert dropped.track_kinds == ("stuff", "object", "object")
    assert dropped.track_objects.tolist() == [0, 1, 2]
    assert dropped.provenance["panoptic_ids"] == [43, 6100, 6101, real_videos.LATE_ID]


@pytest.mark.parametrize("size", [(20, 40), (64, 128), (13, 73), (96, 160), (1, 1)])
def test_masks_are_scaled_as_pillow_scales(size):
    """Unless a centre lies between two pixels, where Pillow goes by how it rounds."""
    ids = np.random.default_rng(0).integers(0, 12400, (HEIGHT, WIDTH), dtype=np.int32)
    wanted = Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(nearest(ids, size), np.asarray(wanted))


def test_eight_bit_palette_and_bad_masks(own_root, tmp_path):
    folder = own_root / "panomasks" / VIDEOS[0]
    for path in folder.iterdir():
        write(path, real_videos.palette_png(np.full((HEIGHT, WIDTH), 43, np.uint8)))
    clip = make(own_root, tmp_path / "parts", VIDEOS[0])
    assert (decoded(clip.masks_png[0]) == 2).all()
    write(folder / "00000002.png", encoded(np.zeros((HEIGHT, WIDTH, 3), np.uint8), "PNG"))
    write(folder / "00000003.png", encoded(np.zeros((HEIGHT, WIDTH + 1), np.uint8), "PNG"))
    write(folder / "00000004.png", encoded(mask_of(3), "PNG")[:-40])
    (folder / "00000005.png").write_bytes(b"no picture")
    words = (
        r"00000002\.png.*mode RGB.*; 00000003\.png is 81x40, not 80x40; .*00000004\.png.*"
        r"; .*00000005\.png"
    )
    with pytest.raises(Rejected, match=words):
        make(own_root, tmp_path / "again", VIDEOS[0])


def test_too_many_segments_are_refused(own_root, tmp_path):
    many = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    write(own_root / "panomasks" / VIDEOS[0] / "00000004.png", encoded(many, "PNG"))
    with pytest.raises(Rejected, match="more than 255 segments"):
        make(own_root, tmp_path / "parts", VIDEOS[0])


def test_the_camera_is_world_to_camera_with_its_focal_length(root, tmp_path):
    clip = make(root, tmp_path / "parts")
    assert clip.camera_known
    centres = np.arange(16 * 3).reshape(-1, 3)
    np.testing.assert_array_equal(clip.camera_rt[:, :, :3], np.tile(np.eye(3), (16, 1, 1)))
    np.testing.assert_array_equal(clip.camera_rt[:, :, 3], -centres)
    np.testing.assert_allclose(clip.camera_k[3], [[96, 0, 64], [0, 96, 32], [0, 0, 1]])
    unknown = make(root, tmp_path / "other", VIDEOS[0])
    assert not unknown.camera_known
    assert not unknown.camera_rt.any()


def test_without_a_focal_length_the_intrinsics_are_zeros(own_root, tmp_path):
    real_videos.write_camera(own_root, VIDEOS[0], 15, img_focal=None)
    clip = make(own_root, tmp_path / "parts", VIDEOS[0])
    assert clip.camera_known
    assert not clip.camera_k.any()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"pred_cam_T": np.full((15, 3), np.nan)}, "camera.npy: pred_cam_T: not finite"),
        ({}, "15 pictures but 14 cameras"),
    ],
)
def test_a_bad_camera_costs_the_video_or_the_camera(own_root, tmp_path, content, words):
    real_videos.write_camera(own_root, VIDEOS[0], 15 if content else 14, **content)
    with pytest.raises(Rejected, match=words):
        make(own_root, tmp_path / "parts", VIDEOS[0])
    clip = make(own_root, tmp_path / "parts", VIDEOS[0], bad_camera="unknown")
    assert not clip.camera_known
    assert words in clip.provenance["camera_problem"]


def test_tracks_that_are_mostly_outside_can_be_left_out(root, tmp_path):
    clip = make(root, tmp_path / "parts", most_outside=0.6)
    assert clip.track_kinds == ("void", "stuff", "object")
    assert clip.track_objects.tolist() == [0, 1, 2]
    strict = make(root, tmp_path / "strict", most_outside=0.0)
    assert strict.track_kinds == ("stuff", "object")
    assert strict.track_objects.tolist() == [1, 2]
    assert strict.provenance["panoptic_ids"][1:3] == [43, 6100]


def test_no_track_left_is_a_reason(own_root, tmp_path):
    real_videos.write_tracks(own_root, VIDEOS[0], {"0": [[1, 1]] * 15, "7": [[-5, 1]] * 15})
    with pytest.raises(Rejected, match="no track is left"):
        make(own_root, tmp_path / "parts", VIDEOS[0], void="drop", most_outside=0.9)


@pytest.mark.parametrize(
    ("storage", "size"),
    [
        (Storage(0, 0, 20, 90), (20, 40)),
        (Storage(0, 0, 400, 90), (HEIGHT, WIDTH)),
        (Storage(0, 0, 0, 90), (HEIGHT, WIDTH)),
    ],
)
def test_sizes(root, tmp_path, storage, size):
    clip = make(root, tmp_path / "parts", storage=storage)
    assert decoded(clip.frames_jpeg[0]).shape[:2] == size
    assert decoded(clip.masks_png[0]).shape == size
    expected = np.array(list(tracks_of(16).values())).swapaxes(0, 1) * (size[0] / HEIGHT)
    np.testing.assert_array_equal(clip.tracks_px, expected.astype(np.float32))
    if size == (HEIGHT, WIDTH):  # the files themselves
        first = root / "imgs" / VIDEOS[1] / "00000000.jpg"
        assert clip.frames_jpeg[0] == first.read_bytes()


def test_a_finished_record_is_not_made_again(own_root, tmp_path):
    first = make(own_root, tmp_path / "parts")
    shutil.rmtree(own_root)
    again = make(own_root, tmp_path / "parts")
    assert again.frames_jpeg == first.frames_jpeg


def test_a_video_of_4k_takes_little_memory(tmp_path):
    """Of a whole worker: one frame at a time, whatever the video's length."""
    frame = np.zeros((2160, 3840, 3), np.uint8)
    frame[::7, ::5] = 200
    jpeg = encoded(frame, "JPEG")
    png = encoded(np.full((2160, 3840), 43, np.uint16), "PNG")
    for t in range(16):
        write(tmp_path / f"imgs/v/{t:05d}.jpg", jpeg)
        write(tmp_path / f"panomasks/v/{t:05d}.png", png)
    real_videos.write_tracks(tmp_path, "v", tracks_of(16))
    job = vipseg_video.VideoJob(
        str(tmp_path), "v", "", "train", LARGE, 14, "keep", 1.0, "leave_out", "none"
    )
    code = (
        "import json, sys; from pathlib import Path; from data_prep.fanout import worker;"
        "said = worker.do(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]));"
        # Not getrusage: its peak begins with that of the process that starts this one.
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0];"
        "print(said['results'], int(peak) * 1024)"
    )
    arguments = [vipseg_video.WORK, json.dumps(job.to_json()), str(tmp_path / "parts")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    name, num_bytes = re.fullmatch(r"\('(.*)',\) (\d+)", done.stdout.strip()).groups()
    assert name == "v.clip"
    assert int(num_bytes) < MOST_BYTES
