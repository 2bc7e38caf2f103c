"""The settings that the page has sliders for; all others are those it was started with."""

from dataclasses import fields
from typing import Any, NamedTuple

from posetraj_jax.sampling import Settings
from posetraj_jax.sampling.settings import RANGES


class Choice(NamedTuple):
    """One slider."""

    field: str
    """Of Settings."""
    label: str
    most: float
    """The slider's end; Settings allow more."""
    step: float
    info: str


FIRST = (
    Choice("max_guidance_scale", "Guidance", 10, 0.1, "how strictly the last frame obeys"),
    Choice("num_inference_steps", "Steps", 50, 1, "more take longer"),
    Choice("seed", "Seed", RANGES["seed"][1], 1, "the same seed makes the same video"),
)
MORE = (
    Choice("controlnet_conditioning_scale", "Strength of the tracks", 2, 0.05, "0: not at all"),
    Choice("min_guidance_scale", "Guidance of the first frame", 10, 0.1, "rises to the last"),
    Choice("num_frames", "Frames", 50, 1, "a new number is compiled first, for minutes"),
    Choice("fps", "Frames per second", 30, 1, "the networks are told, too"),
    Choice("motion_bucket_id", "Amount of motion", 255, 1, "as in Stable Video Diffusion"),
    Choice("noise_aug_strength", "Noise on the picture", 1, 0.01, "more lets the video differ"),
)
ALL = FIRST + MORE


def chosen(settings: Settings, values: tuple[Any, ...]) -> Settings:
    """Settings with what the sliders of `ALL` say.

    A browser has one kind of number, so 25 may come as 25.0.

    Raises:
        UserError: values that cannot be used.
    """
    given = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    for choice, value in zip(ALL, values, strict=True):
        is_int = type(given[choice.field]) is int
        is_whole = isinstance(value, float) and value.is_integer()
        given[choice.field] = int(value) if is_int and is_whole else value
    return Settings(**given)
