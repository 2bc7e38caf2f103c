"""What a user may choose when sampling, with the names that users of diffusers know."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from posetraj_jax.errors import UserError, listed
from posetraj_jax.structs import SIZE_MULTIPLE

FITS = ("crop", "stretch")
LEAST_SIDE_PX, MOST_SIDE_PX = SIZE_MULTIPLE, 2048
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


@dataclass(frozen=True)
class Settings:
    """Numbers and sizes of a video; the defaults are those of Stable Video Diffusion."""

    height: int = 320
    """Of the video, pixels; a multiple of 64, as the width."""
    width: int = 576
    num_frames: int = 14
    num_inference_steps: int = 25
    min_guidance_scale: float | int = 1.0
    """Of the first frame; rises linearly to that of the last one."""
    max_guidance_scale: float | int = 3.0
    fps: float | int = 7.0
    """Frames per second of the video, which the networks are told."""
    motion_bucket_id: float | int = 127.0
    """How much motion the networks are asked for."""
    noise_aug_strength: float | int = 0.02
    """Standard deviation of the noise that is added to the picture, whose range is [-1, 1]."""
    decode_chunk_size: int = 0
    """Frames that are decoded at a time, which is the peak of memory; 0: all."""
    controlnet_conditioning_scale: float | int = 1.0
    """How strongly the tracks steer; 0 leaves Stable Video Diffusion alone."""
    seed: int = 0
    """Of the noise of the first video; the next one's is one more."""
    fit: str = "crop"
    """What becomes of a picture of another aspect ratio: its middle, or all of it stretched."""

    def __post_init__(self):
        """Refuses what cannot be sampled, all at once; raises UserError."""
        if wrong := list(self._problems()):
            raise UserError(
                "The video cannot be sampled as asked",
                expected="settings within their ranges",
                got=listed(wrong),
                fix="change these settings",
            )
        for field in fields(self):
            if type(field.default) is float:
                object.__setattr__(self, field.name, float(getattr(self, field.name)))

    def _problems(self) -> Iterator[str]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, type(field.default) | int):
                yield f"{field.name}: {value!r} is no {type(field.default).__name__}"
            elif field.name in RANGES:
                least, most = RANGES[field.name]
                if not least <= value <= most:
                    yield f"{field.name}: {value:g} is not between {least:g} and {most:g}"
        for name in ("height", "width"):
            value = getattr(self, name)
            if type(value) is int and value not in nearest_sizes(value):
                near = " or ".join(map(str, nearest_sizes(value)))
                yield f"{name}: {value} is no multiple of {SIZE_MULTIPLE}; the nearest are {near}"
        if self.fit not in FITS:
            yield f"fit: {self.fit!r} is none of {', '.join(FITS)}"


def nearest_sizes(pixels: int) -> tuple[int, ...]:
    """The legal sides next to a number of pixels; itself, if it is one."""
    within = min(max(pixels, LEAST_SIDE_PX), MOST_SIDE_PX)
    below = within // SIZE_MULTIPLE * SIZE_MULTIPLE
    if below == pixels:
        return (below,)
    return tuple(dict.fromkeys((below, min(below + SIZE_MULTIPLE, MOST_SIDE_PX))))
