"""Pictures and tracks of users, fitted to the video."""

import json

import numpy as np
import pytest
from PIL import Image

from posetraj_jax.data.camera_file import ROTATION, TRANSLATION
from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Settings, read_request
from posetraj_jax.sampling.inputs import dim_outside, fit, make_batch

SMALL = Settings(height=64, width=128, num_frames=3)


def picture(height: int, width: int) -> np.ndarray:
    """Red tells the column, green the row."""
    rows, columns = np.mgrid[:height, :width]
    red, green = columns * 255 // width, rows * 255 // height
    return np.stack([red, green, 0 * red], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 128), (128, 256), (100, 100), (50, 300), (321, 77)])
@pytest.mark.parametrize("how", ["crop", "stretch"])
def test_points_stay_on_what_they_mark(size, how):
    """The colour under a point is the same before and after."""
    given = picture(*size)
    middle = np.array([[[size[1] * 0.45, size[0] * 0.55]]])
    settings = Settings(height=64, width=128, num_frames=3, fit=how)
    fitted, ((moved,),) = fit(given, middle, settings)
    assert fitted.shape == (64, 128, 3)
    x, y = np.floor(moved).astype(int)
    before = given[int(middle[0, 0, 1]), int(middle[0, 0, 0])].astype(int)
    assert np.abs(fitted[y, x].astype(int) - before).max() <= 6


def test_cropping_keeps_the_aspect():
    square = np.zeros((100, 100, 3), np.uint8)
    corners = np.array([[[0.0, 25.0], [100.0, 75.0]]])
    _, moved = fit(square, corners, SMALL)
    np.testing.assert_allclose(moved[0], [[0, 0], [128, 64]])


def test_a_preview_darkens_what_the_video_cuts_off():
    white = np.full((100, 100, 3), 255, np.uint8)
    dimmed = dim_outside(white, SMALL)
    assert (dimmed[25:75] == 255).all()
    assert (dimmed[:25] == 85).all()
    assert (dimmed[75:] == 85).all()
    stretched = Settings(height=64, width=128, num_frames=3, fit="stretch")
    np.testing.assert_array_equal(dim_outside(white, stretched), white)


def test_a_request_from_files_and_from_memory_is_the_same(tmp_path):
    given = picture(64, 128)
    Image.fromarray(given).save(tmp_path / "photo.png")
    tracks = {"size": [128, 64], "tracks": [[[10, 10], [60, 30]], [[100, 60], [20, 60]]]}
    (tmp_path / "tracks.json").write_text(json.dumps(tracks))
    one = read_request(tmp_path / "photo.png", tmp_path / "tracks.json", SMALL)
    other = read_request(given, tracks, SMALL)
    np.testing.assert_array_equal(one.image_uint8, other.image_uint8)
    np.testing.assert_array_equal(one.trajectories.tracks_px, other.trajectories.tracks_px)
    assert one.camera_rt is None
    batch = make_batch([one, other], SMALL)
    assert batch.maps_uint8.shape == (2, 3, 64, 128, 3)
    assert (batch.maps_uint8[0, 0] == (0, 255, 0)).all(axis=-1).sum() > 10
    assert not batch.maps_uint8[0, -1].any()
    assert not batch.camera_known.any()
    assert batch.fps.tolist() == [7.0, 7.0]


def test_a_camera_is_inverted_and_cut(tmp_path):
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    fields = {ROTATION: np.stack([turned] * 5), TRANSLATION: np.arange(15.0).reshape(5, 3)}
    np.save(tmp_path / "camera.npy", fields, allow_pickle=True)
    tracks = [[10, 10], [60, 30]]
    request = read_request(picture(64, 128), tracks, SMALL, tmp_path / "camera.npy")
    assert request.camera_rt.shape == (3, 12)
    np.testing.assert_allclose(request.camera_rt[1, :9].reshape(3, 3), turned.T)
    np.testing.assert_allclose(request.camera_rt[1, 9:], -turned.T @ [3, 4, 5])
    batch = make_batch([request], SMALL)
    assert batch.camera_known.all()
    with pytest.raises(UserError, match="too short"):
        read_request(
            picture(64, 128),
            tracks,
            Settings(height=64, width=128, num_frames=6),
            tmp_path / "camera.npy",
        )
