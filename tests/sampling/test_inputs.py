"""Pictures and tracks of users, fitted to the video."""

import json

import numpy as np
import pytest
from PIL import Image

from posetraj_jax.data.camera_file import ROTATION, TRANSLATION
from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Settings, read_request
from posetraj_jax.sampling.inputs import dim_outside, fit, make_batch
from posetraj_jax.trajectories import Track, TrackFile

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


def test_a_camera_that_cannot_be_read_has_advice_for_sampling(tmp_path):
    with pytest.raises(UserError, match=r"none\.npy(.|\n)*another --camera, or none"):
        read_request(picture(64, 128), [[1, 1], [5, 5]], SMALL, tmp_path / "none.npy")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_a_picture_of_pillow_is_read_as_a_file_is(tmp_path, mode):
    given = Image.fromarray(np.linspace(0, 65_535, 64 * 128).reshape(64, 128).astype(np.uint16))
    if mode != "I;16":
        given = Image.fromarray(picture(64, 128)).convert(mode)
        given.putpixel((5, 5), (9,) * (len(mode) - 1) + (0,))
    given.save(tmp_path / "a.png")
    tracks = [[10, 10], [60, 30]]
    one, other = (read_request(i, tracks, SMALL) for i in (given, tmp_path / "a.png"))
    np.testing.assert_array_equal(one.image_uint8, other.image_uint8)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (None, "NoneType"),
        (b"photo.png", "bytes"),
        (np.zeros((64, 64, 3)), r"an array \[64, 64, 3\], float64"),
        (np.zeros((64, 64), np.uint8), r"an array \[64, 64\], uint8"),
        (np.zeros((3, 64, 64), np.uint8), r"an array \[3, 64, 64\], uint8"),
        (np.zeros((64, 64, 4), np.uint8), r"an array \[64, 64, 4\], uint8"),
        (np.zeros((0, 64, 3), np.uint8), r"an array \[0, 64, 3\], uint8"),
        (Image.fromarray(np.zeros((8, 8), np.float32)), "a picture of fractions"),
        (Image.fromarray(np.full((8, 8), 70_000, np.int32)), "beyond 16 bits"),
        (Image.new("RGB", (10_000, 10_000)), "more than 64000000 pixels"),
    ],
    ids=lambda value: value if type(value) is str else "",
)
def test_what_is_no_picture_is_refused(image, got):
    with pytest.raises(UserError, match=rf"array \[h w 3\] of uint8\n  got: .*{got}"):
        read_request(image, [[1, 1], [5, 5]], SMALL)


def test_points_may_be_arrays_and_what_is_no_track_is_refused():
    given = picture(64, 128)
    wanted = read_request(given, [[10, 10], [60, 30]], SMALL).trajectories.tracks_px
    for tracks in (((10, 10), (60, 30)), np.array([[10, 10], [60, 30]], np.float32)):
        read = read_request(given, tracks, SMALL).trajectories.tracks_px
        np.testing.assert_array_equal(read, wanted)
    nan = Track(((np.nan, 1.0), (2.0, 3.0)), "plain")
    for tracks, words in (
        (None, "tracks: null"),
        ({1: [[1, 1]]}, "keys of type int"),
        (TrackFile((64, 128), ()), "tracks: none"),
        (TrackFile((64, 128), (nan,)), "track 0: point 0: not numbers"),
    ):
        with pytest.raises(UserError, match=words):
            read_request(given, tracks, SMALL)


SQUARE = np.zeros((100, 100, 3), np.uint8)
"""Of which a video of 128 x 64 shows the rows 25 to 75."""


@pytest.mark.parametrize(
    "lost",
    [
        [[10, 10], [90, 20]],
        {"points": [[50, 90]], "kind": "anchor"},
        {"points": [[5, 9], [50, 50], [5, 9]], "kind": "frames", "visible": [True, False, True]},
    ],
)
def test_a_track_that_the_video_does_not_show_is_refused(lost):
    seen = [[10, 10], [90, 90]]
    with pytest.raises(UserError) as caught:
        read_request(SQUARE, [seen, lost], SMALL)
    said = str(caught.value)
    for words in ("x 0 to 100, y 25 to 75", "track 1: x ", "--fit stretch", "--height"):
        assert words in said
    assert "track 0" not in said
    stretched = Settings(height=64, width=128, num_frames=3, fit="stretch")
    assert read_request(SQUARE, [seen, lost], stretched).image_uint8.shape == (64, 128, 3)


@pytest.mark.parametrize(
    "seen",
    [
        [[10, 10], [90, 25]],  # it ends at the border
        {"points": [[50, 5], [50, 95], [50, 5]], "kind": "frames"},  # it crosses between frames
        {"points": [[50, 75]], "kind": "anchor"},
    ],
)
def test_a_track_that_is_seen_for_a_moment_is_good(seen):
    request = read_request(SQUARE, [seen], SMALL)
    assert make_batch([request], SMALL).maps_uint8.any()
