"""What the page says and offers."""

import dataclasses

import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Settings
from posetraj_jax.web import choices, words
from tests.sampling.models import micro_model


def test_the_page_names_its_model_and_says_that_tiny_is_noise():
    said = words.model_line(micro_model(), Settings())
    assert "tiny" in said
    assert "every video is noise" in said
    assert "ControlNet <b>random</b>" in said
    assert "576 × 320, or 320 × 576 for upright pictures" in said
    said = words.model_line(micro_model(), Settings(height=576, width=320))
    assert "320 × 576, or 576 × 320 for wide pictures" in said
    assert (
        " for " not in words.model_line(micro_model(), Settings(height=64, width=64)).split("<p")[1]
    )
    real = micro_model()._replace(said={"weights": "/w<b>", "controlnet": "/run"})
    said = words.model_line(real, Settings())
    assert "noise" not in said
    assert "/w&lt;b&gt;" in said


def test_an_error_has_all_its_parts_and_no_markup_of_others():
    error = UserError("<script>", expected="<i>e", got="<i>g", fix="<i>f")
    said = words.error_box(error)
    assert "&lt;script&gt;" in said
    for part in ("e", "g", "f"):
        assert f"&lt;i&gt;{part}" in said
    assert 'role="alert"' in said


def test_progress():
    assert "Step 2 of 5" in words.progress_bar(2, 5)
    assert "Making the frames" in words.progress_bar(5, 5)


def values(**changes):
    given = {choice.field: getattr(Settings(), choice.field) for choice in choices.ALL}
    return tuple((given | changes).values())


def test_sliders_of_the_defaults_are_the_defaults():
    assert choices.chosen(Settings(), values()) == Settings()


def test_whole_numbers_may_come_as_floats():
    chosen = choices.chosen(Settings(), values(num_inference_steps=7.0, fps=9, seed=3.0))
    assert chosen == dataclasses.replace(Settings(), num_inference_steps=7, fps=9.0, seed=3)
    assert type(chosen.seed) is int


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_inference_steps": None}, "something else for Steps"),
        ({"seed": 1.5, "fps": "7"}, "something else for Seed, Frames per second"),
        ({"seed": float("nan")}, "something else for Seed"),
        ({"num_frames": 1000}, "num_frames"),
    ],
)
def test_other_values_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        choices.chosen(Settings(), values(**wrong))
