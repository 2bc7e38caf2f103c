"""Uploaded pictures and track files, without Gradio."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Settings
from posetraj_jax.trajectories import Track, TrackFile, as_json, write_tracks
from posetraj_jax.web import pictures
from posetraj_jax.web.pictures import Opened, as_drawn, as_url, open_picture, open_tracks

WIDE = Settings(height=64, width=128, num_frames=3)


def gradient(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 255 // width, rows * 255 // height, 0 * rows], -1).astype(np.uint8)


def save(path, height: int, width: int):
    Image.fromarray(gradient(height, width)).save(path)
    return path


def test_a_picture_is_fitted_to_the_video(tmp_path):
    opened = open_picture(save(tmp_path / "a.png", 200, 300), WIDE)
    assert opened.size == (64, 128)
    assert opened.picture_size == (200, 300)
    assert opened.of(WIDE) == WIDE


def test_an_upright_picture_makes_an_upright_video(tmp_path):
    opened = open_picture(save(tmp_path / "a.png", 300, 200), WIDE)
    assert opened.size == (128, 64)
    assert (opened.of(WIDE).height, opened.of(WIDE).width) == (128, 64)
    assert open_picture(save(tmp_path / "b.png", 90, 90), WIDE).size == (64, 128)


def test_a_url_shows_the_picture():
    url = as_url(gradient(64, 128))
    kind, data = url.split(",")
    assert kind == "data:image/jpeg;base64"
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.abs(shown.astype(int) - gradient(64, 128)).mean() < 3


def text(path):
    path.write_text("hello")


def empty(path):
    path.write_bytes(b"")


def half(path):
    save(path.with_suffix(".png"), 64, 64)
    path.write_bytes(path.with_suffix(".png").read_bytes()[:100])


def sixty_megapixels(path):
    Image.new("RGB", (10_000, 6_000)).save(path, "PNG")


def huge_header(path):
    Image.new("1", (20_000, 20_000)).save(path, "PNG")


def postscript(path):
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


def many_bytes(path):
    with path.open("wb") as file:
        file.truncate(pictures.MOST_BYTES + 1)


@pytest.mark.parametrize(
    "make", [text, empty, half, sixty_megapixels, huge_header, postscript, many_bytes]
)
def test_what_is_no_reasonable_picture_is_refused_by_name(tmp_path, make):
    make(tmp_path / "photo.jpg")
    with pytest.raises(UserError, match=r"photo\.jpg") as caught:
        open_picture(tmp_path / "photo.jpg", WIDE)
    assert str(tmp_path) not in str(caught.value), "the server's folders are nobody's business"


OPENED = Opened(gradient(64, 128), (200, 300))


def load(tmp_path, content) -> TrackFile:
    path = tmp_path / "tracks.json"
    path.write_text(json.dumps(content))
    return open_tracks(path, OPENED, WIDE)


def test_tracks_of_the_page_come_back_as_they_were(tmp_path):
    tracks = (
        Track(((1.5, 2.25), (60.0, 30.0)), "spline"),
        Track(((1.0, 2.0), (60.0, 30.0), (90.0, 9.0)), "spline", (0.0, 0.2, 1.0), (True,) * 3),
        Track(((5.0, 5.0), (6.0, 6.0), (7.0, 7.0)), "frames"),
        Track(((100.0, 50.0),), "anchor"),
    )
    drawn = TrackFile((64, 128), tracks)
    assert as_drawn(as_json(drawn), OPENED) == drawn
    path = write_tracks(tmp_path / "tracks.json", drawn)
    assert open_tracks(path, OPENED, WIDE) == drawn


def test_tracks_of_the_file_land_on_what_they_marked(tmp_path):
    """The video shows the rows 25 to 175 of the picture, whose size is 300 x 200."""
    loaded = load(tmp_path, {"size": [300, 200], "tracks": [[[0, 25], [300, 175]]]})
    assert loaded.size == (64, 128)
    assert loaded.tracks[0].points == ((0.0, 0.0), (128.0, 64.0))
    assert loaded.tracks[0].kind == "spline"
    assert load(tmp_path, [[0, 25], [300, 175]]) == loaded, "no size: pixels of the file"
    unit = load(tmp_path, {"size": [1, 1], "tracks": [[[0, 0.125], [1, 0.875]]]})
    assert unit == loaded


def test_tracks_of_a_larger_page_are_scaled(tmp_path):
    loaded = load(tmp_path, {"size": [256, 128], "tracks": [[[20, 20], [200, 100]]]})
    assert loaded.tracks[0].points == ((10.0, 10.0), (100.0, 50.0))


def test_a_plain_list_as_long_as_the_video_is_of_frames(tmp_path):
    loaded = load(tmp_path, {"size": [128, 64], "tracks": [[[1, 1], [2, 2], [3, 3]]]})
    assert loaded.tracks[0].kind == "frames"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"size": [100, 100], "tracks": [[[1, 1], [2, 2]]]}, "another shape"),
        ({"size": [300, 200], "tracks": [[[10, 5], [20, 90]]]}, "begins at"),
        ({"size": [128, 64], "tracks": []}, "tracks: none"),
        ({"size": [128, 64], "tracks": [[[1, 1]]]}, "one point only"),
        ("hello", "tracks.json"),
    ],
)
def test_tracks_that_cannot_be_used_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, content)
    assert str(tmp_path) not in str(caught.value)


def test_a_request_needs_a_picture_and_tracks():
    with pytest.raises(UserError, match="no picture"):
        as_drawn({"size": [1, 1], "tracks": []}, None)
    for nothing in (None, {}, {"size": [128, 64], "tracks": []}):
        with pytest.raises(UserError, match="Nothing is drawn"):
            as_drawn(nothing, OPENED)
    for nonsense in ("<b>", 7, {"tracks": [[1]]}, {"size": [128, 64], "tracks": [[[1, 2], None]]}):
        with pytest.raises(UserError):
            as_drawn(nonsense, OPENED)
