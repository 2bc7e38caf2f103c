"""What a user may choose when sampling, with the names that users of diffusers know."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any

from posetraj_jax.errors import UserError, listed
from posetraj_jax.structs import SIZE_MULTIPLE

FITS = ("crop", "stretch")
LEAST_VIDEO_SIDE_PX, MOST_VIDEO_SIDE_PX = SIZE_MULTIPLE, 2048
LARGEST_SHOWN = 10**15
RANGES: dict[str, tuple[float, float]] = {
    "num_frames": (2, 100),
    "num_inference_steps": (1, 1000),
    "min_guidance_scale": (0, 100),
    "max_guidance_scale": (0, 100),
    "fps": (1, 60),
    "motion_bucket_id": (0, 255),
    "noise_aug_strength": (0, 10),
    "decode_chunk_size": (0, 100),
    "controlnet_conditioning_scale": (0, 10),
    "seed": (0, 2**32 - 1),
}


def _setting(default: Any, says: str) -> Any:
    """A field whose meaning, with its unit, is what `--help` says of it."""
    return field(default=default, metadata={"says": says})


@dataclass(frozen=True)
class Settings:
    """Numbers and sizes of a video; the defaults are those of Stable Video Diffusion."""

    height: int = _setting(320, "of the video, pixels; a multiple of 64")
    width: int = _setting(576, "of the video, pixels; a multiple of 64")
    num_frames: int = _setting(14, "frames of the video")
    num_inference_steps: int = _setting(25, "denoising steps; more take longer")
    min_guidance_scale: float | int = _setting(
        1.0, "guidance of the first frame, by which it obeys the picture; 1: none; rises linearly"
    )
    max_guidance_scale: float | int = _setting(3.0, "guidance of the last frame")
    fps: float | int = _setting(7.0, "frames per second; the networks are told, too")
    motion_bucket_id: float | int = _setting(127.0, "how much motion the networks are asked for")
    noise_aug_strength: float | int = _setting(
        0.02, "standard deviation of the noise added to the picture, whose range is [-1, 1]"
    )
    decode_chunk_size: int = _setting(
        0, "frames decoded at a time, which is the peak of memory; 0: all"
    )
    controlnet_conditioning_scale: float | int = _setting(
        1.0, "how strongly the tracks steer; 0 leaves Stable Video Diffusion alone"
    )
    seed: int = _setting(0, "of the noise of the first video; the next one's is one more")
    fit: str = _setting(
        "crop",
        "what a video shows of a picture of another shape: its middle, or all of it, stretched",
    )

    def __post_init__(self):
        """Refuses what cannot be sampled, all at once; raises UserError."""
        if wrong := list(self._problems()):
            raise UserError(
                "The video cannot be sampled as asked",
                expected="settings within their ranges",
                got=listed(wrong),
                fix="change these settings",
            )
        for each in fields(self):
            if type(each.default) is float:
                object.__setattr__(self, each.name, float(getattr(self, each.name)))

    def _problems(self) -> Iterator[str]:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, type(each.default) | int):
                yield f"{each.name}: {_shown(value)} is no {type(each.default).__name__}"
            elif each.name in RANGES:
                least, most = RANGES[each.name]
                if not least <= value <= most:
                    yield f"{each.name}: {_shown(value)} is not between {least:g} and {most:g}"
        for name in ("height", "width"):
            value = getattr(self, name)
            if type(value) is int and value not in nearest_sizes(value):
                near = " or ".join(map(str, nearest_sizes(value)))
                wrong = f"{_shown(value)} is no multiple of {SIZE_MULTIPLE}"
                yield f"{name}: {wrong}; the nearest are {near}"
        if self.fit not in FITS:
            yield f"fit: {self.fit!r} is none of {', '.join(FITS)}"


def nearest_sizes(pixels: int) -> tuple[int, ...]:
    """The legal sides next to a number of pixels; itself, if it is one."""
    within = min(max(pixels, LEAST_VIDEO_SIDE_PX), MOST_VIDEO_SIDE_PX)
    below = within // SIZE_MULTIPLE * SIZE_MULTIPLE
    if below == pixels:
        return (below,)
    return tuple(dict.fromkeys((below, min(below + SIZE_MULTIPLE, MOST_VIDEO_SIDE_PX))))


def explain(setting: Field) -> str:
    """What a field of Settings means: unit, range and default."""
    least, most = RANGES.get(setting.name, (LEAST_VIDEO_SIDE_PX, MOST_VIDEO_SIDE_PX))
    span = "" if setting.name == "fit" else f"; {least} to {most}"
    return f"{setting.metadata['says']}{span} ({setting.default})"


def _shown(value: Any) -> str:
    """A value for people; a whole number may have thousands of digits, which nobody reads."""
    if type(value) is int and abs(value) >= LARGEST_SHOWN:
        return "a number of more than 15 digits"
    return f"{value:g}" if type(value) in (int, float) else repr(value)
