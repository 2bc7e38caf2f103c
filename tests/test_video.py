import struct

import numpy as np
import pytest
from PIL import Image

from posetraj_jax.errors import UserError
from posetraj_jax.video import (
    contact_sheet,
    draw_polylines,
    read_image,
    read_video,
    side_by_side,
    track_colours,
    write_image,
    write_video,
)


def moving_square(num_frames: int = 6, height: int = 48, width: int = 64) -> np.ndarray:
    """A bright square that moves right by 4 pixels a frame over a smooth ground."""
    ground = np.linspace(60, 120, width)[None, :, None] + np.array([0, 20, 40])
    frames = np.tile(ground.astype(np.uint8), (num_frames, height, 1, 1))
    for t, frame in enumerate(frames):
        frame[16:32, 8 + 4 * t : 24 + 4 * t] = (230, 180, 40)
    return frames


def mean_error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


@pytest.mark.parametrize(
    ("name", "error", "fps"), [("a.mp4", 4.0, 7.0), ("a.gif", 4.0, 7.0), ("a", 0.0, 0.0)]
)
def test_videos_come_back(tmp_path, name, error, fps):
    frames = moving_square()
    path = write_video(tmp_path / "new folder" / name, frames, 7)
    read, read_fps = read_video(path)
    assert read.shape == frames.shape
    assert read.dtype == np.uint8
    assert mean_error(read, frames) <= error
    assert mean_error(read[1:], frames[:-1]) > error  # so the order of frames is checked too
    assert read_fps == pytest.approx(fps, rel=0.01)
    assert [entry.name for entry in path.parent.iterdir()] == [name]


def test_every_file_of_a_folder_is_a_lossless_frame(tmp_path):
    frames = moving_square(12)
    folder = write_video(tmp_path / "frames", frames, 7)
    names = sorted(file.name for file in folder.iterdir())
    assert names == [f"{t:05d}.png" for t in range(12)]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "00010.png")), frames[10])


def test_odd_sizes_are_padded_for_mp4(tmp_path):
    frames = moving_square(3, 33, 47)
    read, _ = read_video(write_video(tmp_path / "odd.mp4", frames, 5))
    assert read.shape == (3, 34, 48, 3)
    assert mean_error(read[:, :33, :47], frames) < 4


@pytest.mark.parametrize("fps", [7.0, 24.0, 29.97])
def test_frame_rates_are_kept(tmp_path, fps):
    frames = moving_square(10)
    assert read_video(write_video(tmp_path / "a.mp4", frames, fps))[1] == pytest.approx(fps, 1e-3)
    assert read_video(write_video(tmp_path / "a.gif", frames, fps))[1] == pytest.approx(fps, 0.03)


def test_still_parts_of_a_gif_stay_still(tmp_path):
    frames = np.random.default_rng(0).integers(90, 160, (1, 48, 64, 3), np.uint8).repeat(5, axis=0)
    for t, frame in enumerate(frames):
        frame[:8, 8 * t : 8 * t + 8] = 255
    read, _ = read_video(write_video(tmp_path / "a.gif", frames, 7))
    assert (read[:, 8:] == read[0, 8:]).all()


def test_reading_stops_at_the_bound(tmp_path):
    for name in ("a.mp4", "a.gif", "a"):
        path = write_video(tmp_path / name, moving_square(9), 7)
        assert len(read_video(path, max_frames=4)[0]) == 4
        with pytest.raises(UserError, match="64x48 is more than 3000 pixels"):
            read_video(path, max_pixels=3000)


def test_a_header_that_claims_a_huge_gif_is_refused(tmp_path):
    path = write_video(tmp_path / "a.gif", moving_square(), 7)
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", 60_000, 60_000)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.gif"):
        read_video(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
@pytest.mark.parametrize("content", [b"", b"no video at all", None])
def test_what_is_no_video_is_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_video(tmp_path / name)


def test_a_truncated_mp4_is_an_error(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_square(), 7)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match=r"a\.mp4"):
        read_video(path)


def test_folders_skip_notes_but_need_pictures_of_one_size(tmp_path):
    folder = write_video(tmp_path / "frames", moving_square(2), 7)
    (folder / "notes.txt").write_text("no picture")
    assert len(read_video(folder)[0]) == 2
    Image.new("RGB", (8, 8)).save(folder / "99999.png")
    with pytest.raises(UserError, match="frame 2 has another size"):
        read_video(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no frames"):
        read_video(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "num_frames", "fps"),
    [("a.avi", 2, 7), ("a.mp4", 0, 7), ("a.mp4", 2, 0), ("a.mp4", 2, float("nan")), ("old", 2, 7)],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, num_frames, fps):
    (tmp_path / "old").mkdir()
    with pytest.raises(UserError, match=name):
        write_video(tmp_path / name, moving_square(max(num_frames, 1))[:num_frames], fps)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.gif", moving_square(), 7)
    before = path.read_bytes()

    def fill_the_disk(image, target, **kwargs):
        target.write_bytes(b"half")
        raise OSError("full")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(OSError, match="full"):
        write_video(path, moving_square(3), 7)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_paths_grow_with_time_and_end_in_a_dot():
    frames = np.full((3, 40, 60, 3), 128, np.uint8)
    tracks_px = np.array([[(10, 20)], [(30, 20)], [(50, 20)]], np.float32)
    drawn = draw_polylines(frames, tracks_px)
    assert (frames == 128).all()
    (colour,) = track_colours(1)
    for t, end in enumerate((10, 30, 50)):
        reached = np.flatnonzero((drawn[t, 20] == colour).all(axis=-1))
        assert abs(reached.max() - end) <= 5
        assert (drawn[t, :, end + 8 :] == 128).all()
    assert (drawn[2, 20, 14:46] == colour).all()
    assert (drawn[0, 20, 20:] == 128).all()


def test_every_track_has_its_colour():
    assert len(set(track_colours(30))) == 30
    tracks_px = np.array([[(10, 10), (40, 30)]], np.float32)
    (drawn,) = draw_polylines(np.zeros((1, 40, 60, 3), np.uint8), tracks_px)
    assert [tuple(drawn[10, 10]), tuple(drawn[30, 40])] == track_colours(2)


def test_points_that_are_unknown_or_far_away_do_not_stop_the_drawing():
    frames = np.zeros((3, 40, 60, 3), np.uint8)
    nan = float("nan")
    unknown = np.array([[(nan, nan)]] * 3, np.float32)
    assert not draw_polylines(frames, unknown).any()
    lost = np.array([[(10, 20)], [(nan, nan)], [(30, 20)]], np.float32)
    drawn = draw_polylines(frames, lost)
    assert drawn[2, 20, 20].any()  # the path joins what is known
    far = np.array([[(10, 20)], [(1e12, 20)], [(-1e12, 20)]], np.float32)
    assert draw_polylines(frames, far)[1, 20, 50].any()


def test_side_by_side_and_contact_sheet_place_every_pixel():
    one, two = np.full((2, 4, 6, 3), 10, np.uint8), np.full((2, 4, 3, 3), 20, np.uint8)
    row = side_by_side(one, two, gap=2)
    assert row.shape == (2, 4, 11, 3)
    assert row[1, 0, :, 0].tolist() == [10] * 6 + [255] * 2 + [20] * 3
    with pytest.raises(ValueError, match="differ"):
        side_by_side(one, two[:1])
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), np.uint8)
    sheet = contact_sheet(frames, columns=2, gap=1)
    assert sheet.shape == (3 * 2 + 2, 2 * 3 + 1, 3)
    assert sheet[:, 0, 0].tolist() == [0, 0, 255, 2, 2, 255, 4, 4]
    assert sheet[0, :, 0].tolist() == [0, 0, 0, 255, 1, 1, 1]
    assert (sheet[-1, 4:] == 255).all()


def test_a_picture_is_read_upright(tmp_path):
    picture = moving_square(1)[0]
    np.testing.assert_array_equal(read_image(write_image(tmp_path / "a.png", picture)), picture)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, as phones write it
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(picture, -1))
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    grey = np.repeat(picture[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(read_image(str(tmp_path / "grey.png")), grey)


def test_what_is_no_picture_is_refused(tmp_path):
    path = write_image(tmp_path / "a.png", moving_square(1)[0])
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    for name, words in (
        ("none.png", "no such file"),
        (".", "not a file"),
        ("cut.png", ""),
        ("text.png", ""),
    ):
        with pytest.raises(UserError, match=f"A picture cannot be read(?s:.*){words}"):
            read_image(tmp_path / name)
    with pytest.raises(UserError, match="64x48 is more than 100 pixels"):
        read_image(path, 100)
    # Pillow would hand this to Ghostscript.
    (tmp_path / "a.eps.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    for name in ("a.eps.png", "a.tif"):
        with pytest.raises(UserError, match=r"JPEG, PNG(?s:.*)cannot identify"):
            read_image(tmp_path / name)
    for name in ("a.xyz", "a", "a.psd", "a.pdf", "a.blp", "a.bufr"):
        with pytest.raises(UserError, match="A picture cannot be written"):
            write_image(tmp_path / "new" / name, moving_square(1)[0])
    assert not (tmp_path / "new").exists()
