"""The settings that the page has sliders for; all others are those it was started with."""

from dataclasses import replace
from typing import Any, NamedTuple

from posetraj_jax.errors import UserError
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

    Raises:
        UserError: values that cannot be used.
    """
    changes = {
        choice.field: _of_kind(type(getattr(settings, choice.field)), value)
        for choice, value in zip(ALL, values, strict=True)
    }
    if wrong := [c.label for c in ALL if changes[c.field] is None]:
        raise UserError(
            "The video cannot be made with these settings",
            expected="numbers, without decimals where things are counted",
            got=f"something else for {', '.join(wrong)}",
            fix="move these sliders",
        )
    return replace(settings, **changes)


def _of_kind(kind: type, value: Any) -> int | float | None:
    """A number as settings have it; a browser has one kind of number, so 25 may be 25.0."""
    if type(value) not in (int, float) or (kind is int and not float(value).is_integer()):
        return None
    return kind(value)
