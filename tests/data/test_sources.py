from pathlib import Path

import numpy as np
import pytest
from clips import OFFICIAL_BOX, make_clip, official_clip
from clips import OFFICIAL_LENGTH as LENGTH

from posetraj_jax.data.records import write_dataset
from posetraj_jax.data.sources import open_source
from posetraj_jax.data.tracks import draw_boxes
from posetraj_jax.errors import UserError


def remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def levels(frames: np.ndarray) -> list[int]:
    assert all((frame == frame[0, 0, 0]).all() for frame in frames)
    return [int(frame[0, 0, 0]) for frame in frames]


def test_records_are_a_source(tmp_path):
    write_dataset([make_clip(1), make_clip(2)], tmp_path)
    source = open_source(tmp_path)
    assert (len(source), source.clip_ids, source.num_frames) == (
        2,
        ("clip-001", "clip-002"),
        (16, 16),
    )
    clip = source[1]
    assert clip.fps == 29.97
    frames = clip.frames(3, 4)
    assert np.abs(frames.astype(int) - np.arange(23, 27)[:, None, None, None]).max() <= 1
    tracks = clip.tracks(3, 4)
    np.testing.assert_array_equal(tracks.points_px, make_clip(2).tracks_px[3:7])
    assert tracks.kinds == ("floor", "centre")
    assert clip.drawn_maps(3, 4) is None
    expected = [0, -1, 0, 1, 0, 0, 0, 0, 1, 1, 2, 3]  # rotation row by row, then translation
    np.testing.assert_array_equal(clip.camera(3, 4), np.tile(np.float32(expected), (4, 1)))
    boxed = clip.boxed_frames(3, 4, 2)
    np.testing.assert_array_equal(boxed, draw_boxes(frames, make_clip(2).box_px[3:7], 2))
    assert (boxed != frames).any()


def test_a_record_without_camera_or_box(tmp_path):
    no_box = {
        "box_px": np.zeros((16, 0, 8, 2), np.float32),
        "box_world": np.zeros((16, 0, 8, 3), np.float32),
        "object_pose": np.zeros((16, 0, 4, 4), np.float32),
    }
    write_dataset([make_clip(7, camera_known=False, **no_box)], tmp_path)
    clip = open_source(tmp_path)[0]
    assert clip.camera(0, 4) is None
    with pytest.raises(UserError, match=r"clip-007(.|\n)*draw_box=False"):
        clip.boxed_frames(0, 4, 2)


def test_official_folders_are_a_source(tmp_path):
    for name in ("b_1_S", "a_10_circle", "a_2_circle"):
        official_clip(tmp_path, name)
    for stray in ("metadata.json", "missing.txt", "writed.txt"):
        (tmp_path / stray).write_text("x")
    (tmp_path / "notes").mkdir()
    source = open_source(tmp_path, min_frames=14)
    assert source.clip_ids == ("a_10_circle", "a_2_circle", "b_1_S")  # plain string sort
    assert source.num_frames == (LENGTH,) * 3
    clip = source[1]
    assert levels(clip.frames(2, 14)) == list(range(2, 16))
    assert levels(clip.boxed_frames(2, 14, 2)) == list(range(102, 116))
    tracks = clip.tracks(2, 14)
    assert tracks.points_px.dtype == np.float32
    assert tracks.points_px[0].tolist() == [[14.0, 38.0]]
    assert tracks.kinds == ("floor",)
    # x = 4 + 5 t reaches the right edge (72) at t = 14.
    assert tracks.visible[:, 0].tolist() == [True] * 12 + [False] * 2
    assert clip.drawn_maps(2, 14) is None
    assert clip.camera(2, 14) is None


def test_official_boxes_are_drawn_from_bbox_npy_with_the_official_edges(tmp_path):
    folder = official_clip(tmp_path)
    remove(folder / "images_bbox")
    boxed = open_source(tmp_path)[0].boxed_frames(0, 1, 1)[0]
    red = (boxed == (255, 0, 0)).all(axis=-1)
    edges = [(0, 2), (2, 1), (1, 3), (3, 0), (4, 6), (6, 5), (5, 7), (7, 4)]
    edges += [(corner, corner + 4) for corner in range(4)]
    expected = set()
    for first, second in edges:
        for step in np.linspace(0, 1, 101):
            x, y = np.rint(OFFICIAL_BOX[first] * (1 - step) + OFFICIAL_BOX[second] * step)
            expected.add((int(y), int(x)))
    assert set(zip(*np.nonzero(red), strict=True)) == expected


def test_drawn_maps_serve_where_there_are_no_points(tmp_path):
    folder = official_clip(tmp_path)
    (folder / "traj.npy").unlink()
    source = open_source(tmp_path)
    assert source.num_frames == (LENGTH,)  # 17 maps: the last has no frame after it
    clip = source[0]
    assert clip.tracks(2, 14) is None
    maps = clip.drawn_maps(2, 14)
    assert levels(maps) == [*range(202, 215), 0]
    for extra in (LENGTH, LENGTH - 1):
        (folder / "traj_vid_enhanced" / f"{extra:04d}.png").unlink()
    assert open_source(tmp_path).num_frames == (LENGTH - 2,)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("images", "only images_bbox"),
        ("bbox", r"neither images_bbox nor bbox\.npy"),
    ],
)
def test_what_an_official_clip_lacks_is_named_when_it_is_needed(tmp_path, part, named):
    folder = official_clip(tmp_path)
    if part == "images":
        remove(folder / "images")
        clip = open_source(tmp_path)[0]
        assert levels(clip.boxed_frames(0, 2, 2)) == [100, 101]
        with pytest.raises(UserError, match=named):
            clip.frames(0, 2)
    else:
        remove(folder / "images_bbox")
        (folder / "bbox.npy").unlink()
        with pytest.raises(UserError, match=named):
            open_source(tmp_path)[0].boxed_frames(0, 2, 2)


def test_all_broken_official_folders_are_told_at_once(tmp_path):
    official_clip(tmp_path, "good_0_S")
    remove(official_clip(tmp_path, "lacks_0_S") / "traj_vid_enhanced")
    (tmp_path / "lacks_0_S/traj.npy").unlink()
    (tmp_path / "uneven_0_S/images_bbox").mkdir(parents=True)
    official_clip(tmp_path, "x") and (tmp_path / "x/images/0000.png").unlink()
    (tmp_path / "x/traj.npy").unlink()
    with pytest.raises(UserError) as caught:
        open_source(tmp_path)
    text = str(caught.value)
    assert "good_0_S" not in text
    assert "lacks_0_S: neither traj.npy nor pictures" in text
    assert "uneven_0_S: no pictures" in text
    assert "x: 15 images but 16 images_bbox" in text
    assert "x: first map 0000.png, first image 0001.png" in text


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((15, 2)),
        np.zeros((16, 3)),
        np.full((16, 2), np.nan),
        np.array(["a"] * 32).reshape(16, 2),
        None,
        np.array([{}] * 16, dtype=object),
    ],
)
def test_an_unusable_traj_npy_is_named(tmp_path, array):
    path = official_clip(tmp_path) / "traj.npy"
    if array is None:
        path.write_bytes(path.read_bytes()[:150])
    else:
        np.save(path, array, allow_pickle=True)
    with pytest.raises(UserError, match=r"traj\.npy"):
        open_source(tmp_path)[0].tracks(0, 14)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


def test_a_pickle_in_an_npy_is_not_run(tmp_path):
    path, evidence = official_clip(tmp_path) / "traj.npy", tmp_path / "it ran"
    np.save(path, np.array([Payload(evidence)] * 16, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"traj\.npy"):
        open_source(tmp_path)[0].tracks(0, 14)
    assert not evidence.exists()


def test_a_broken_official_picture_is_named(tmp_path):
    path = official_clip(tmp_path) / "images/0003.png"
    path.write_bytes(path.read_bytes()[:60])
    clip = open_source(tmp_path)[0]
    clip.frames(4, 5)
    with pytest.raises(UserError, match=r"images/0003\.png"):
        clip.frames(0, 5)


@pytest.mark.parametrize("official", [True, False])
def test_short_clips_are_listed_with_their_lengths(tmp_path, official):
    lengths = {"a": 13, "b": 14, "c": 3}
    if official:
        for name, length in lengths.items():
            official_clip(tmp_path, name, length)
    else:
        clips = [make_clip(0, length, clip_id=name) for name, length in lengths.items()]
        write_dataset(clips, tmp_path)
    assert open_source(tmp_path, min_frames=3).num_frames == (13, 14, 3)
    with pytest.raises(UserError) as caught:
        open_source(tmp_path, min_frames=14)
    text = str(caught.value)
    assert "2 of 3 clips" in text
    assert "a: 13 frames" in text
    assert "c: 3 frames" in text
    assert "b: 14" not in text


def test_a_folder_of_something_else_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"holiday\.jpg(.|\n)*render_posetraj10k"):
        open_source(tmp_path)
    for path in (tmp_path / "absent", tmp_path / "holiday.jpg"):
        with pytest.raises(UserError, match="render_posetraj10k"):
            open_source(path)
