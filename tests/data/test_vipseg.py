"""Real video in the layout of the official code, read as it lies."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from camera_files import turning, write_camera
from clips import VIPSEG_SIZE, grey, jpeg, vipseg_video

from posetraj_jax.data.pipeline import DataOptions, train_batches
from posetraj_jax.data.sources import LazyClip, Source, open_source
from posetraj_jax.data.tracks import draw_maps, read_vipseg
from posetraj_jax.errors import UserError

SAMPLES = Path(__file__).parents[3] / "shared/fixtures/vipseg_tracks"


@pytest.fixture
def root(tmp_path) -> Path:
    """Two videos; only the first, of 18 frames, has a camera."""
    vipseg_video(tmp_path, "51_aoCoZvc2ID8", 18)
    vipseg_video(tmp_path, "1003_bW7ntcdquEU", 16, level=100)
    write_camera(camera_file(tmp_path), 18)
    return tmp_path


def camera_file(root: Path, video: str = "51_aoCoZvc2ID8") -> Path:
    return root / "estimated_cam_rt" / video / "camera.npy"


def track_file(root: Path, video: str = "51_aoCoZvc2ID8") -> Path:
    return root / f"trajectory_CoTracker_all/{video}.json"


def test_videos_are_clips(root):
    source = open_source(root, min_frames=14)
    assert isinstance(source, Source)
    assert source.clip_ids == ("1003_bW7ntcdquEU", "51_aoCoZvc2ID8")  # plain string sort
    assert source.num_frames == (16, 18)
    assert len(source) == 2
    clip = source[0]
    assert isinstance(clip, LazyClip)
    assert (clip.clip_id, clip.fps) == ("1003_bW7ntcdquEU", 5.0)
    frames = clip.frames(2, 5)
    assert frames.shape == (5, *VIPSEG_SIZE, 3)
    assert frames[:, 0, 0, 0].tolist() == [102, 103, 104, 105, 106]
    assert clip.drawn_maps(2, 5) is None
    with pytest.raises(UserError, match=r"1003_bW7ntcdquEU(.|\n)*draw_box=False"):
        clip.boxed_frames(0, 5, 2)


def test_tracks_have_kinds_and_know_what_is_in_the_picture(root):
    tracks = open_source(root)[1].tracks(3, 10)
    assert tracks.kinds == ("void", "stuff", "object", "object")
    assert tracks.points_px.dtype == np.float32
    assert tracks.points_px[0].tolist() == [[5, 43], [90, 10], [22, 24], [-108642, 32437]]
    assert tracks.visible[:, 0].tolist() == [True] * 5 + [False] * 5
    assert tracks.visible[:, 1:3].all()
    assert not tracks.visible[:, 3].any()


def test_the_camera_is_turned_from_camera_to_world_into_world_to_camera(root):
    assert open_source(root)[0].camera(0, 14) is None
    camera = open_source(root)[1].camera(3, 10)
    assert (camera.shape, camera.dtype) == ((10, 12), np.float32)
    rotations, translations = turning(18)
    seen = np.array([0.3, -0.2, 4.0])  # a point before the camera, in its own axes
    for number, frame in enumerate(range(3, 13)):
        world = rotations[frame] @ seen + translations[frame]
        back = camera[number, :9].reshape(3, 3) @ world + camera[number, 9:]
        np.testing.assert_allclose(back, seen, atol=1e-5)


def test_pictures_are_sorted_by_name_and_other_files_are_ignored(root):
    folder = root / "imgs/1003_bW7ntcdquEU"
    (folder / "00000003.png").rename(folder / "9.PNG")
    (folder / "00000000.png").unlink()
    (folder / "00000000.jpg").write_bytes(jpeg(grey(200, *VIPSEG_SIZE)))
    (folder / "Thumbs.db").write_text("x")
    (root / "imgs/notes.txt").write_text("x")
    frames = open_source(root)[0].frames(0, 16)
    assert frames[:, 0, 0, 0].tolist() == [200, 101, 102, *range(104, 116), 103]


def test_the_published_name_of_the_tracks_and_tracks_without_pictures_will_do(root):
    (root / "trajectory_CoTracker_all").rename(root / "output_cotracker_all")
    (root / "output_cotracker_all/9_other.json").write_text("what is in it is not read")
    assert open_source(root).clip_ids == ("1003_bW7ntcdquEU", "51_aoCoZvc2ID8")


def test_opening_decodes_no_picture(root):
    (root / "imgs/1003_bW7ntcdquEU/00000003.png").write_bytes(b"no picture")
    clip = open_source(root)[0]
    assert len(clip.frames(4, 5)) == 5
    with pytest.raises(UserError, match=r"00000003\.png"):
        clip.frames(0, 5)


def test_all_that_is_wrong_with_all_videos_is_told_at_once(root):
    for name in ("a_no_tracks", "b_no_pictures", "c_short", "d_camera", "e_both"):
        vipseg_video(root, name, 14)
    track_file(root, "a_no_tracks").unlink()
    for picture in (root / "imgs/b_no_pictures").iterdir():
        picture.unlink()
    (root / "imgs/c_short/00000000.png").unlink()
    write_camera(camera_file(root, "c_short"), 14)
    write_camera(camera_file(root, "d_camera"), 14, pred_cam_T=np.full((14, 3), np.nan))
    track_file(root, "e_both").write_text("{}")
    camera_file(root, "e_both").parent.mkdir()
    camera_file(root, "e_both").symlink_to("nowhere")
    with pytest.raises(UserError) as caught:
        open_source(root)
    lines = [line.strip() for line in str(caught.value).splitlines() if line.startswith("    - ")]
    expected = [
        r"a_no_tracks: cannot read .*a_no_tracks\.json: FileNotFoundError",
        "b_no_pictures: no pictures",
        r"c_short: 13 pictures but 14 frames in .*c_short\.json",
        r"c_short: 13 pictures but 14 frames in .*camera\.npy",
        r"d_camera: .*camera\.npy: pred_cam_T: not finite in 14 of 14 frames",
        r"e_both: .*e_both\.json: no tracks",
        r"e_both: .*camera\.npy: FileNotFoundError",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.search(pattern, line), line


def test_a_folder_without_videos_and_one_without_tracks_are_refused(tmp_path):
    (tmp_path / "imgs").mkdir()
    with pytest.raises(
        UserError, match=r"imgs/<video>/ and trajectory_CoTracker_all/(.|\n)*- imgs"
    ):
        open_source(tmp_path)
    (tmp_path / "output_cotracker_all").mkdir()
    with pytest.raises(UserError, match=r"No videos in (.|\n)*no folder in imgs"):
        open_source(tmp_path)


def test_short_videos_are_listed(root):
    with pytest.raises(UserError, match="1003_bW7ntcdquEU: 16 frames"):
        open_source(root, min_frames=17)


def test_videos_make_batches(root):
    """Cameras, tracks and fps reach the batch; the clip without a camera says so."""
    options = DataOptions(
        path=str(root),
        height=64,
        width=128,
        batch_size=2,
        draw_box=False,
        condition_on_box=False,
        seed=0,
        track_kinds=("stuff", "object"),
    )
    for batch in itertools.islice(train_batches(options), 4):
        assert batch.frames_uint8.shape == (2, 14, 64, 128, 3)
        assert sorted(batch.camera_known.tolist()) == [False, True]
        np.testing.assert_array_equal(batch.fps, 5)
        for row, known in enumerate(batch.camera_known):
            start = int(batch.frames_uint8[row, 0, 0, 0, 0]) - (0 if known else 100)
            clip = open_source(root)[int(known)]
            if known:
                np.testing.assert_array_equal(batch.camera_rt[row], clip.camera(start, 14))
                assert (batch.camera_rt[row] != 0).any(axis=1).all()
            else:
                np.testing.assert_array_equal(batch.camera_rt[row], 0)
            points = clip.tracks(start, 14).points_px[:, 1:]
            expected = draw_maps(points, VIPSEG_SIZE, (64, 128))
            np.testing.assert_array_equal(batch.maps_uint8[row], expected)


@pytest.mark.parametrize(
    ("tracks", "words"),
    [
        ({"1": [[0, 0], [1, 1]], "2": [[0, 0]]}, "different lengths, such as 2 points in 1"),
        ({"1": []}, "tracks without points"),
        ({}, "no tracks"),
        ({"1": {"0": [0, 0]}}, "track 1: an object, not a list"),
        ({"1": None}, "track 1: null, not a list"),
        ({"1": [[0, 0], [0]]}, "track 1, frame 1: not a pair"),
        ({"1": [[0, 0, 0]]}, "track 1, frame 0: not a pair"),
        ({"1": [0, 0]}, "track 1, frame 0: not a pair"),
        ({"1": ["ab"]}, "track 1, frame 0: not a pair"),
        ({"1": [[0, True]]}, "track 1, frame 0: not numbers"),
        ({"1": [["0", "0"]]}, "track 1, frame 0: not numbers"),
        ({"1": [[[0], 0]]}, "track 1, frame 0: not numbers"),
        ({"1": [[0, float("nan")]]}, "track 1, frame 0: not numbers"),
        ({"1": [[0, float("-inf")]]}, "track 1, frame 0: not numbers"),
        ({"1": [[0, 10**7 + 1]]}, "track 1, frame 0: not numbers up to 10,000,000"),
        ({"1": [[0, -(10**400)]]}, "track 1, frame 0: not numbers"),
        *(
            ({name: [[0, 0]]}, "not a panoptic id")
            for name in ("", "-1", "01", "1.0", "a", "²", "٣", " 1", "1\n", "9" * 5000)
        ),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_unusable_tracks_are_named(tmp_path, tracks, words):
    path = tmp_path / "video.json"
    path.write_text(json.dumps(tracks))
    with pytest.raises(UserError, match=words) as caught:
        read_vipseg(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"1": ' + b"[" * 100_000, b"\xff"])
def test_what_is_no_json_object_is_named(tmp_path, content):
    (tmp_path / "video.json").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*video\.json"):
        read_vipseg(tmp_path / "video.json")


def test_many_problems_are_told_shortly(tmp_path):
    (tmp_path / "video.json").write_text(json.dumps({f"a{n}": [] for n in range(1000)}))
    with pytest.raises(UserError, match="and 995 more"):
        read_vipseg(tmp_path / "video.json")


def test_tracks_keep_the_order_of_the_file_and_fractions(tmp_path):
    (tmp_path / "video.json").write_text('{"12400": [[1.5, -2]], "0": [[10000000, 4]]}')
    ids, points = read_vipseg(tmp_path / "video.json")
    assert ids == (12400, 0)
    assert points.tolist() == [[[1.5, -2], [10000000, 4]]]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the official tracks are not here")
def test_official_tracks_are_read():
    files = sorted(SAMPLES.glob("*.json"))
    assert files
    for path in files:
        content, (ids, points) = json.loads(path.read_text()), read_vipseg(path)
        assert [str(i) for i in ids] == list(content)
        np.testing.assert_array_equal(points.swapaxes(0, 1), list(content.values()))
