import struct
import zlib

import numpy as np
import pytest
from clips import grey, jpeg, png

from posetraj_jax.data.transforms import (
    decode_frames,
    decode_rgb,
    image_header,
    resize_frames,
    window_start,
)
from posetraj_jax.errors import UserError


def png_claiming(width: int, height: int) -> bytes:
    """A legal PNG of some 80 bytes up to its pixels, which are missing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(99)))):
        data += struct.pack(">I", len(content)) + name + content
        data += struct.pack(">I", zlib.crc32(name + content))
    return data


def test_png_decodes_exactly_and_jpeg_nearly():
    frame = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    np.testing.assert_array_equal(decode_rgb(png(frame), "x"), frame)
    assert np.abs(decode_rgb(jpeg(grey(77)), "x").astype(int) - 77).max() <= 1
    assert image_header(png(frame), "x") == (12, 20, "PNG")


def test_alpha_is_dropped():
    rgba = np.dstack([grey(9), np.zeros((64, 128), np.uint8)])
    assert (decode_rgb(png(rgba), "x") == 9).all()


@pytest.mark.parametrize("size", [(8001, 8000), (100_000, 100_000)])
def test_a_picture_that_claims_to_be_huge_is_refused_before_decoding(size):
    with pytest.raises(UserError, match="frame 3 of clip-9") as caught:
        decode_rgb(png_claiming(*size), "frame 3 of clip-9")
    assert "too large" in str(caught.value) or "decompression bomb" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"no picture", jpeg(grey(5))[:-200], png(grey(5))[:-60]])
def test_a_broken_picture_is_named(data):
    with pytest.raises(UserError, match="frame 3 of clip-9"):
        decode_rgb(data, "frame 3 of clip-9")


def test_pictures_of_different_sizes_are_named():
    with pytest.raises(UserError, match=r"second(.|\n)*8x16"):
        decode_frames({"first": png(grey(0, 16, 16)), "second": png(grey(0, 16, 8))})


def test_windows_are_uniform_over_all_starts_that_fit():
    rng = np.random.default_rng(0)
    starts = [window_start(17, 14, rng) for _ in range(4000)]
    counts = np.bincount(starts)
    assert len(counts) == 4
    assert np.abs(counts - 1000).max() < 150
    assert window_start(14, 14, rng) == 0
    assert window_start(99, 14, None) == 0
    with pytest.raises(ValueError, match="does not fit"):
        window_start(13, 14, rng)


def test_bilinear_has_half_pixel_centres_and_no_antialiasing():
    row = np.array([0, 100, 200, 40], np.uint8)
    frames = np.tile(row[None, None, :, None], (1, 2, 1, 3))
    # Output pixel j is at input (j + 0.5) * 4 / 2 - 0.5 = 0.5, 2.5: the mean of two neighbours.
    np.testing.assert_array_equal(resize_frames(frames, 2, 2, "bilinear")[0, 0, :, 0], [50, 120])
    stripes = np.tile(np.array([0, 0, 0, 255] * 4, np.uint8)[None, None, :, None], (1, 2, 1, 3))
    # By 4 the official kernel looks at samples 1 and 2 of each 4 and misses the stripes.
    assert not resize_frames(stripes, 2, 4, "bilinear").any()
    assert resize_frames(stripes, 2, 4, "lanczos")[0, 0, 1:3, 0].min() > 40


@pytest.mark.parametrize("kind", ["lanczos", "bilinear"])
def test_resize_keeps_flat_frames_flat_and_the_order_of_axes(kind):
    frames = np.stack([grey(10, 48, 72), grey(200, 48, 72)])
    out = resize_frames(frames, 64, 128, kind)
    assert out.shape == (2, 64, 128, 3)
    assert out.dtype == np.uint8
    assert (out[0] == 10).all()
    assert (out[1] == 200).all()


def test_frames_of_the_right_size_are_left_alone():
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(resize_frames(frames, 8, 8, "lanczos"), frames)
