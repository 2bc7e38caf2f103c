"""The focal length that TRAM saves beside its cameras: known, or not, and never an error."""

from pathlib import Path

import numpy as np
import pytest
from camera_files import contents, saved

from posetraj_jax.data.camera_file import read_intrinsics

SIZE = (360, 640)


def intrinsics(folder: Path, size: tuple[int, int] = SIZE, **changes) -> np.ndarray | None:
    content = {k: v for k, v in (contents() | changes).items() if v is not None}
    path = folder / "camera.npy"
    path.write_bytes(saved(content, changes.pop("protocol", 4)))
    return read_intrinsics(path, size)


@pytest.mark.parametrize("focal", [600, 600.0, np.float64(600), np.float32(600), np.array([600.0])])
@pytest.mark.parametrize("centre", [np.array([320.0, 180.0], np.float32), [320, np.float64(180.0)]])
def test_every_way_to_write_them_is_read(tmp_path, focal, centre):
    found = intrinsics(tmp_path, img_focal=focal, img_center=centre)
    np.testing.assert_array_equal(found, [[600, 0, 320], [0, 600, 180], [0, 0, 1]])


@pytest.mark.parametrize(
    "changes",
    [
        {"img_focal": None},
        {"img_center": None},
        {"img_focal": float("nan")},
        {"img_focal": np.float64("inf")},
        {"img_focal": 0.0},
        {"img_focal": "600"},
        {"img_focal": True},
        {"img_focal": 10**400},
        {"img_focal": np.array([600.0, 600.0])},
        {"img_focal": [[600.0]]},
        {"img_focal": {"a": 1}},
        {"img_center": []},
        {"img_center": np.array([320.0])},
        {"img_center": np.array([320.0, 180.0, 0.0])},
        {"img_center": np.array([320.0, np.nan])},
        {"img_center": np.array([[320.0, 180.0]])},
    ],
    ids=str,
)
def test_what_is_no_focal_length_is_not_known(tmp_path, changes):
    assert intrinsics(tmp_path, **changes) is None


def test_those_of_pictures_of_another_size_are_not_used(tmp_path):
    assert intrinsics(tmp_path, (720, 1280)) is None
    assert intrinsics(tmp_path, (361, 641)) is not None  # a middle between two pixels


@pytest.mark.parametrize("data", [b"", b"no camera", saved({"img_focal": print})])
def test_what_is_no_camera_file_has_none(tmp_path, data):
    (tmp_path / "camera.npy").write_bytes(data)
    assert read_intrinsics(tmp_path / "camera.npy", SIZE) is None
    assert read_intrinsics(tmp_path / "absent.npy", SIZE) is None
