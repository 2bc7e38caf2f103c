"""Every kind of picture as people see it: 16 bits, transparency, and what nobody can know."""

import cv2
import numpy as np
import pytest
from PIL import Image

from posetraj_jax import picture, video

RAMP_16 = np.linspace(0, 65_535, 48 * 64).reshape(48, 64).astype(np.uint16)
RAMP_8 = (RAMP_16 >> 8).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_keep_their_brightness(tmp_path, channels):
    deep = RAMP_16 if channels == 1 else np.stack([RAMP_16] * channels, axis=-1)
    if channels == 4:
        deep[..., 3] = 65_535
    folder = tmp_path / "frames"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), deep)
    expected = np.stack([RAMP_8] * 3, axis=-1)
    np.testing.assert_array_equal(video.read_image(folder / "0.png"), expected)
    np.testing.assert_array_equal(video.read_video(folder)[0][0], expected)


def test_32_bit_whole_numbers_are_read_as_16_bits_or_not_at_all():
    grey = Image.fromarray(RAMP_16.astype(np.int32))
    assert grey.mode == "I"
    np.testing.assert_array_equal(picture.rgb_of(grey)[..., 0], RAMP_8)
    for value in (-1, 65_536):
        beyond = RAMP_16.astype(np.int32)
        beyond[0, 0] = value
        with pytest.raises(ValueError, match="beyond 16 bits"):
            picture.rgb_of(Image.fromarray(beyond))


def test_fractions_are_refused():
    with pytest.raises(ValueError, match="a picture of fractions"):
        picture.rgb_of(Image.fromarray(np.zeros((4, 4), np.float32)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    clear = np.full((4, 8, 4), (10, 10, 10, 0), np.uint8)
    clear[:, 4:, 3] = 255
    Image.fromarray(clear).convert(mode).save(tmp_path / "a.png")
    seen = video.read_image(tmp_path / "a.png")
    assert (seen[:, :4] == 255).all()
    assert (seen[:, 4:] == 10).all()


def test_a_half_transparent_point_is_half_white():
    image = Image.new("RGBA", (1, 1), (0, 100, 200, 128))
    assert np.abs(picture.rgb_of(image)[0, 0].astype(int) - (127, 177, 227)).max() <= 1


def test_a_clear_grey_of_16_bits_is_white(tmp_path):
    Image.fromarray(RAMP_16).save(tmp_path / "a.png", transparency=int(RAMP_16[0, 5]))
    seen = video.read_image(tmp_path / "a.png")
    assert seen[0, 5, 0] == 255
    np.testing.assert_array_equal(seen[0, :5, 0], RAMP_8[0, :5])
