"""What Stable Video Diffusion publishes beside its weights: noise range and image statistics.

Two JSON files of diffusers travel with the weights. Every field is compared with what the code here
does, because a field that nobody looks at could change the videos in silence.
"""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from posetraj_jax import json_file
from posetraj_jax.errors import UserError, listed

SCHEDULER = "scheduler/scheduler_config.json"
PREPROCESSOR = "feature_extractor/preprocessor_config.json"
"""Where the files lie, both in a folder of diffusers and in one of converted weights."""

FIX = "take this file from a published Stable Video Diffusion, image to video"
"""What to do about a bad file of a stranger, unless the caller knows better."""

LARGEST = 1e9
"""No number is larger, no positive one below 1 / LARGEST: float32 must hold their squares."""

SHORT = reprlib.Repr()
SHORT.maxstring = 60
"""Shows what a file says, which may be anything of any length."""


@dataclass(frozen=True)
class SigmaRange:
    """The noise levels of the sampling grid, without the final 0; by default those of SVD."""

    sigma_min: float = 0.002
    sigma_max: float = 700.0


@dataclass(frozen=True)
class ImageStatistics:
    """Mean and deviation per channel of the image encoder's images in [0, 1]; CLIP's by default."""

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


def scheduler_problems(fields: Mapping[str, Any]) -> list[str]:
    """One line per field of a scheduler_config.json that the sampler does not implement."""
    problems = _problems(fields, SCHEDULER_FIELDS)
    low, high = fields.get("sigma_min"), fields.get("sigma_max")
    if _is_positive(low) and _is_positive(high) and low >= high:
        problems.append(f"sigma_min: {low}, not below sigma_max = {high}")
    return problems


def preprocessor_problems(fields: Mapping[str, Any]) -> list[str]:
    """One line per field of a preprocessor_config.json that the conditioning does not implement."""
    return _problems(fields, PREPROCESSOR_FIELDS)


def read_sigma_range(folder: Path, fix: str = FIX) -> SigmaRange:
    """The range that the scheduler's file says.

    Args:
      folder: of diffusers, or of converted weights.
      fix: what to do about a file that cannot be used.

    Raises:
      UserError: no such file, not a JSON object, or fields that are not implemented, all named.
    """
    fields = _read(folder / SCHEDULER, scheduler_problems, fix)
    return SigmaRange(float(fields["sigma_min"]), float(fields["sigma_max"]))


def read_image_statistics(folder: Path, fix: str = FIX) -> ImageStatistics:
    """The statistics that the preprocessor's file says; arguments and errors as above."""
    fields = _read(folder / PREPROCESSOR, preprocessor_problems, fix)
    mean, std = (tuple(map(float, fields[name])) for name in ("image_mean", "image_std"))
    return ImageStatistics(mean, std)


def _read(path: Path, problems_of: Callable[[Any], list[str]], fix: str) -> dict[str, Any]:
    fields = json_file.read_object(path, fix)
    if problems := problems_of(fields):
        raise UserError(
            f"{path} asks for what is not implemented here",
            expected="what Stable Video Diffusion, image to video, was published with",
            got=listed(problems),
            fix=fix,
        )
    return fields


Check = tuple[Callable[[Any], bool], str]
"""What a value must be, as a function and in words."""


class Fields(NamedTuple):
    """All that a file may say, besides notes, whose names begin with an underscore."""

    required: dict[str, Check]
    optional: dict[str, Check]
    """Where a field is absent, diffusers or transformers takes a value that passes."""
    unused: tuple[str, ...]
    """Whatever they say, diffusers' StableVideoDiffusionPipeline does the same."""


def _problems(fields: Mapping[str, Any], known: Fields) -> list[str]:
    checks = known.required | known.optional
    problems = [f"{name}: missing" for name in known.required if name not in fields]
    for name, value in fields.items():
        if name in checks:
            is_good, expected = checks[name]
            if not is_good(value):
                problems.append(f"{name}: {SHORT.repr(value)}, not {expected}")
        elif name not in known.unused and not name.startswith("_"):
            problems.append(f"{name}: not known here")
    return problems


def _only(*values: Any) -> Check:
    """The type counts too: for Python 1 equals True."""
    pairs = [(type(value), value) for value in values]
    return lambda value: (type(value), value) in pairs, " or ".join(map(repr, values))


def _is_number(value: Any) -> bool:
    """Neither bool, which Python counts as int, nor NaN, for which no comparison holds."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value >= 1 / LARGEST


def _three(is_good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) == 3 and all(map(is_good, value))


SCHEDULER_FIELDS = Fields(
    required={
        "_class_name": _only("EulerDiscreteScheduler"),
        "prediction_type": _only("v_prediction"),
        "timestep_type": _only("continuous"),  # the networks are told ln(sigma) / 4
        "timestep_spacing": _only("leading"),  # initial noise of deviation sqrt(sigma_max^2 + 1)
        "use_karras_sigmas": _only(True),
        "sigma_min": (_is_positive, "a positive number"),
        "sigma_max": (_is_positive, "a positive number"),
    },
    optional={
        "use_exponential_sigmas": _only(False),
        "use_beta_sigmas": _only(False),
        "final_sigmas_type": _only("zero"),
    },
    unused=(
        # The Karras grid between two given sigmas replaces all that comes from the betas, …
        *("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
        # … and the continuous timesteps, which follow from that grid, replace the discrete ones.
        *("num_train_timesteps", "steps_offset", "interpolation_type"),
        # EulerDiscreteScheduler has no such arguments; they are left from another scheduler.
        *("clip_sample", "set_alpha_to_one", "skip_prk_steps"),
    ),
)

PREPROCESSOR_FIELDS = Fields(
    required={
        "image_mean": (_three(_is_number), "three finite numbers"),
        "image_std": (_three(_is_positive), "three positive numbers"),
    },
    optional={
        "image_processor_type": _only("CLIPImageProcessor"),
        "feature_extractor_type": _only("CLIPFeatureExtractor"),  # its former name
    },
    unused=(
        # The pipeline resizes to 224 x 224 itself, and its call switches these steps off, …
        *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
        *("do_rescale", "rescale_factor"),
        # … and this one on.
        "do_normalize",
        # It gives a tensor, which has three channels already.
        "do_convert_rgb",
    ),
)
