import dataclasses

import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.sampling.settings import RANGES, Settings, explain, nearest_sizes


@pytest.mark.parametrize(
    ("height", "width", "frames"),
    [(320, 576, 14), (320, 576, 25), (576, 1024, 25), (256, 256, 14), (576, 320, 14), (64, 64, 2)],
)
def test_sizes_and_lengths_that_work(height, width, frames):
    chosen = Settings(height=height, width=width, num_frames=frames)
    assert (chosen.height, chosen.width, chosen.num_frames) == (height, width, frames)


@pytest.mark.parametrize(
    ("pixels", "near"),
    [
        (320, (320,)),
        (300, (256, 320)),
        (1, (64, 128)),
        (65, (64, 128)),
        (9999, (2048,)),
        (0, (64, 128)),
    ],
)
def test_nearest_sizes(pixels, near):
    assert nearest_sizes(pixels) == near


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"height": 300}, "height: 300 is no multiple of 64; the nearest are 256 or 320"),
        ({"width": 4096}, "width: 4096 is no multiple of 64; the nearest are 2048"),
        ({"num_frames": 1}, "num_frames: 1 is not between 2 and 100"),
        ({"num_inference_steps": 0}, "num_inference_steps: 0 is not between 1"),
        ({"fps": float("nan")}, "fps: nan is not between"),
        ({"seed": 10**400}, "seed: a number of more than 15 digits is not between 0 and"),
        ({"num_inference_steps": -(10**5000)}, "num_inference_steps: a number of more than 15"),
        ({"fps": 10**400}, "fps: a number of more than 15 digits is not between"),
        ({"height": 10**400}, "height: a number of more than 15 digits is no multiple"),
        ({"seed": True}, "seed: True is no int"),
        ({"fit": "pad"}, "fit: 'pad' is none of crop, stretch"),
        ({"height": 1, "motion_bucket_id": 300.0}, r"motion_bucket_id: 300(.|\n)*height: 1 "),
    ],
)
def test_what_cannot_be_sampled_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        Settings(**wrong)


def test_every_number_has_a_range_that_its_default_is_in():
    numbers = {f.name for f in dataclasses.fields(Settings)} - {"height", "width", "fit"}
    assert numbers == set(RANGES)


def test_every_setting_is_explained_with_its_range_and_default():
    texts = {field.name: explain(field) for field in dataclasses.fields(Settings)}
    assert all(len(text) > 20 for text in texts.values())
    assert texts["num_frames"] == "frames of the video; 2 to 100 (14)"
    assert texts["height"] == "of the video, pixels; a multiple of 64; 64 to 2048 (320)"
    assert texts["fit"].endswith("stretched (crop)")
