import json
import os

import numpy as np
import pytest

from posetraj_jax.data.track_file import read_vipseg
from posetraj_jax.errors import UserError
from posetraj_jax.tracking import track_json
from posetraj_jax.tracking.track_json import Tracked

SIZE = (40, 60)


@pytest.fixture
def tracked():
    rng = np.random.default_rng(0)
    points = rng.uniform(-100, 2000, (5, 3, 2)).astype(np.float32)
    return Tracked(points, rng.uniform(size=(5, 3)) > 0.5)


def test_reads_back_what_it_writes(tmp_path, tracked):
    path = track_json.write_tracks(tmp_path / "new" / "a.json", (12501, 0, 43), tracked)
    ids, points = read_vipseg(path)
    assert ids == (0, 43, 12501)
    np.testing.assert_allclose(points, tracked.points_px[:, [1, 2, 0]], atol=0.00501)
    content = json.loads(path.read_text())
    assert list(content) == ["0", "43", "12501"]
    numbers = np.array(list(content.values()))
    np.testing.assert_array_equal(numbers, np.round(numbers, 2))
    assert "-0.0," not in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_writes_what_is_visible(tmp_path, tracked):
    path = track_json.write_visibility(tmp_path / "a.json", (12501, 0, 43), tracked)
    content = json.loads(path.read_text())
    assert list(content) == ["0", "43", "12501"]
    assert content["0"] == tracked.visible[:, 1].tolist()


def test_files_are_replaced_whole_and_may_be_read_by_others(tmp_path, tracked):
    path = tmp_path / "a.json"
    path.write_text("old")
    mask = os.umask(0o022)
    try:
        track_json.write_tracks(path, (1, 2, 3), tracked)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o644
    assert read_vipseg(path).ids == (1, 2, 3)


@pytest.mark.parametrize("ids", [(1, 2), (1, 2, 2), (1, 2, -3), (1, 2, 10**9)])
def test_illegal_ids(tmp_path, tracked, ids):
    for write in (track_json.write_tracks, track_json.write_visibility):
        with pytest.raises(UserError, match="cannot be written"):
            write(tmp_path / "a.json", ids, tracked)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e9])
def test_illegal_numbers(tmp_path, tracked, number):
    tracked.points_px[2, 1, 0] = number
    with pytest.raises(UserError, match="not finite or beyond"):
        track_json.write_tracks(tmp_path / "a.json", (1, 2, 3), tracked)
    empty = Tracked(np.zeros((4, 0, 2), np.float32), np.zeros((4, 0), bool))
    with pytest.raises(UserError, match="4 frames of 0 points"):
        track_json.write_tracks(tmp_path / "a.json", (), empty)


def test_folder_that_cannot_be_made(tmp_path, tracked):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        track_json.write_tracks(tmp_path / "file" / "a.json", (1, 2, 3), tracked)


def test_official_files(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"0": [[1, 2], [-5, 3]], "12500": [[59, 39], [60, 39]]}')
    ids, found = track_json.read_tracks(path, SIZE)
    assert ids == (0, 12500)
    assert found.points_px.shape == (2, 2, 2)
    np.testing.assert_array_equal(found.visible, [[True, True], [False, False]])


@pytest.fixture
def cotracker():
    tracks = np.array([[[0, 0], [59, 39]], [[-1, 5], [30, 20]]], np.float32)
    return tracks, np.array([[True, True], [True, False]])


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("kind", ["bool", "trailing", "probability"])
def test_cotracker(tmp_path, cotracker, batch, kind):
    tracks, visibility = cotracker
    if kind == "probability":
        visibility = np.where(visibility, 0.9, 0.1)
    elif kind == "trailing":
        visibility = visibility[..., None]
    arrays = {"tracks": tracks, "visibility": visibility}
    if batch:
        arrays = {name: array[None] for name, array in arrays.items()}
    np.savez_compressed(tmp_path / "a.npz", **arrays, dim=np.zeros(3))
    found = track_json.read_cotracker(tmp_path / "a.npz", SIZE)
    np.testing.assert_array_equal(found.points_px, tracks + 0.5)
    np.testing.assert_array_equal(found.visible, [[True, True], [False, False]])
    assert found.points_px.dtype == np.float32
    assert found.visible.dtype == bool


def test_cotracker_without_visibility(tmp_path, cotracker):
    np.save(tmp_path / "a.npy", np.asfortranarray(cotracker[0].astype(np.float64)))
    np.savez(tmp_path / "b.npz", tracks=cotracker[0])
    for name in ("a.npy", "b.npz"):
        found = track_json.read_cotracker(tmp_path / name, SIZE)
        np.testing.assert_array_equal(found.points_px, cotracker[0] + 0.5)
        np.testing.assert_array_equal(found.visible, [[True, True], [False, True]])


def test_one_point_in_one_frame(tmp_path):
    np.savez(tmp_path / "a.npz", tracks=np.zeros((1, 1, 1, 2)), visibility=np.ones((1, 1, 1)))
    found = track_json.read_cotracker(tmp_path / "a.npz", SIZE)
    assert found.points_px.shape == (1, 1, 2)
    assert found.visible.all()


@pytest.mark.parametrize(
    "arrays",
    [
        {"other": np.zeros(3)},
        {"tracks": np.zeros((2, 4, 3, 2))},
        {"tracks": np.zeros((4, 3, 3))},
        {"tracks": np.zeros((0, 3, 2))},
        {"tracks": np.full((4, 3, 2), np.nan)},
        {"tracks": np.full((4, 3, 2), 1e9)},
        {"tracks": np.array([[["a", "b"]]])},
        {"tracks": np.array([[[{}, {}]]], object)},
        {"tracks": np.zeros((4, 3, 2)), "visibility": np.ones((4, 2))},
        {"tracks": np.zeros((4, 3, 2)), "visibility": np.ones((3, 4))},
    ],
)
def test_other_arrays(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=r"cannot be used: .*a\.npz"):
        track_json.read_cotracker(tmp_path / "a.npz", SIZE)


def test_files_that_lie_or_are_damaged(tmp_path):
    path = tmp_path / "a.npy"
    header = np.lib.format
    with path.open("wb") as file:
        described = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9, 2)}
        header.write_array_header_1_0(file, described)
    huge = path.read_bytes()
    for content in (huge, b"", b"PK\x03\x04", b"\x93NUMPY", huge[:20], b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be used"):
            track_json.read_cotracker(path, SIZE)
    for absent in (tmp_path, tmp_path / "none.npz"):
        with pytest.raises(UserError, match="cannot be used"):
            track_json.read_cotracker(absent, SIZE)
