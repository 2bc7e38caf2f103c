"""What a configuration must obey, and what a rerun may change of it."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from posetraj_jax.config import flatten
from posetraj_jax.errors import UserError, listed
from posetraj_jax.structs import SIZE_MULTIPLE

NUM_SKIPS = {"svd": 12, "svd_xt": 12, "tiny": 8, "micro": 4}
"""Skip connections of each variant's UNet."""

CHOICES = {
    "trainable": ("all", "spatial", "temporal"),
    "model.variant": tuple(NUM_SKIPS),
    "model.temporal_context": ("batch_major", "interleaved"),
    "model.dtype": ("auto", "bfloat16", "float32"),
    "model.attention": ("auto", "xla", "blocked", "cudnn", "splash"),
    "camera.encoder": ("linear", "mlp"),
    "camera.init": ("zero", "uniform"),
    "camera.normalise": ("relative", "none", "subtract"),
    "data.track_colours": ("red", "alternating"),
    "data.resize": ("lanczos", "bilinear"),
    "conditioning.noise_aug": ("pixels", "shared_latent"),
    "conditioning.time_ids": ("svd", "official"),
    "conditioning.clip_range": ("unit", "official"),
    "diffusion.sigma_density": ("cosine", "lognormal"),
    "mesh.frozen": ("sharded", "replicated"),
    "spa.temporal": ("bypass", "active"),
    "spa.source": ("single_frame", "sliced"),
    "spa.gradient": ("spatial", "all"),
}

REMAT = ("none", "blocks", "dots")
LEVELS = {"svd": 4, "svd_xt": 4, "tiny": 4, "micro": 2}
"""Resolutions of each variant's networks."""

INFINITY, POSITIVE = math.inf, sys.float_info.min
RANGES = {
    # field: (lowest value, first value too high)
    "stage": (0, 4),
    "seed": (0, 2**32),
    "steps": (1, INFINITY),
    "batch_size": (1, INFINITY),
    "camera.drop": (0, 1),
    "data.num_frames": (2, INFINITY),
    "data.box_thickness": (1, INFINITY),
    "data.max_clips": (0, INFINITY),
    "data.num_workers": (0, INFINITY),
    "data.read_threads": (0, INFINITY),
    "conditioning.noise_aug_strength": (0, INFINITY),
    "conditioning.motion_bucket_id": (0, 256),
    "conditioning.dropout": (0, 0.334),
    "diffusion.sigma_min": (POSITIVE, INFINITY),
    "diffusion.sigma_max": (POSITIVE, INFINITY),
    "diffusion.p_mean": (-INFINITY, INFINITY),
    "diffusion.p_std": (POSITIVE, INFINITY),
    "spa.weight": (0, INFINITY),
    "spa.frames": (1, INFINITY),
    "optim.lr": (0, INFINITY),
    "optim.warmup_steps": (0, INFINITY),
    "optim.b1": (0, 1),
    "optim.b2": (0, 1),
    "optim.eps": (POSITIVE, INFINITY),
    "optim.weight_decay": (0, INFINITY),
    "optim.clip_norm": (0, INFINITY),
    "optim.accumulate": (1, INFINITY),
    "optim.ema_decay": (0, 1),
    "mesh.fsdp": (0, INFINITY),
    "adapter.rank": (0, 257),
    "mesh.context": (1, INFINITY),
    "mesh.slices": (1, INFINITY),
    "log.every": (1, INFINITY),
    "eval.every": (1, INFINITY),
    "eval.clips": (1, INFINITY),
    "eval.noise_levels": (1, INFINITY),
    "eval.seed": (0, 2**32),
    "sample.every": (0, INFINITY),
    "sample.clips": (0, INFINITY),
    "sample.steps": (1, INFINITY),
    "sample.min_guidance_scale": (0, INFINITY),
    "sample.max_guidance_scale": (0, INFINITY),
    "save.every": (1, INFINITY),
    "save.keep": (1, INFINITY),
}

MAY_DIFFER_ON_RESUME = (
    *("steps", "log.", "save.", "sample.", "mesh."),
    *("data.num_workers", "data.read_threads", "model.remat", "model.attention"),
)
"""What a rerun of a command may change; not `eval.`, so that a run's losses stay comparable."""


def validate(c: ConfigDict) -> None:
    """Checks ranges and relations that no type can express; collects all problems first."""
    flat = flatten(c)
    problems = [
        f"{field} = {flat[field]!r}: one of {', '.join(choices)}"
        for field, choices in CHOICES.items()
        if flat[field] not in choices
    ]
    problems += [*_size_problems(c), *_stage_problems(c)]
    problems += [
        f"{field} = {flat[field]}: {_range_in_words(low, high)}"
        for field, (low, high) in RANGES.items()
        if not low <= flat[field] < high
    ]
    levels = LEVELS.get(c.model.variant, len(c.model.remat))
    if len(c.model.remat) not in (1, levels) or set(c.model.remat) - set(REMAT):
        problems.append(
            f"model.remat = {','.join(c.model.remat)}: one of {', '.join(REMAT)}, or {levels} of "
            "them, the widest image's first"
        )
    if not c.diffusion.sigma_min < c.diffusion.sigma_max:
        problems.append("diffusion.sigma_min: below diffusion.sigma_max")
    if c.spa.frames > c.data.num_frames:
        problems.append(f"spa.frames = {c.spa.frames}: at most data.num_frames")
    if c.mesh.data < 1 and c.mesh.data != -1:
        problems.append(f"mesh.data = {c.mesh.data}: at least 1, or -1 for all devices")
    if problems:
        raise UserError(
            "the configuration is not valid",
            expected="every field within its range",
            got=listed(problems),
            fix="change these fields in the config file or with --config.<field>=<value>",
        )


def _range_in_words(low: int | float, high: int | float) -> str:
    at_least = "positive" if low == POSITIVE else f"at least {low}"
    return at_least + (" and finite" if high == INFINITY else f" and below {high}")


def _size_problems(c: ConfigDict) -> list[str]:
    problems = []
    for field in ("height", "width"):
        size = c.data[field]
        if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
            below = max(size // SIZE_MULTIPLE, 1) * SIZE_MULTIPLE
            nearest = f"{below} or {below + SIZE_MULTIPLE}"
            problems.append(f"data.{field} = {size}: a multiple of 64, such as {nearest}")
    skips = NUM_SKIPS.get(c.model.variant, len(c.model.residual_multiplicity))
    if len(c.model.residual_multiplicity) != skips:
        got = len(c.model.residual_multiplicity)
        problems.append(f"model.residual_multiplicity has {got} numbers: {skips} for this variant")
    return problems


def _stage_problems(c: ConfigDict) -> list[str]:
    """What only some stages may ask for."""
    problems = []
    if c.stage == 0 and c.camera.enabled:
        problems.append("camera.enabled: stage 0 has no ControlNet to read a camera")
    if c.stage == 0 and c.spa.weight and c.spa.source == "sliced":
        problems.append("spa.source = 'sliced': stage 0 has no ControlNet")
    if c.stage > 0 and c.trainable != "all":
        problems.append(
            f"trainable = {c.trainable!r}: a ControlNet trains as a whole; or stage = 0"
        )
    if c.adapter.rank:
        problems += _adapter_problems(c)
    if c.stage > 0 and not c.data.track_kinds:
        problems.append("data.track_kinds is empty: name at least one kind, such as 'floor'")
    reaches_spatial_only = c.spa.weight and c.spa.gradient == "spatial"
    if c.trainable == "temporal" and reaches_spatial_only:
        problems.append(
            f"spa.weight = {c.spa.weight}: trainable = 'temporal' has no parameter that it reaches"
        )
    if c.conditioning.noise_aug == "shared_latent" and c.data.condition_on_box != c.data.draw_box:
        problems.append(
            "conditioning.noise_aug = 'shared_latent': conditions on the target's own first "
            "frame, so data.condition_on_box must be as data.draw_box"
        )
    if c.camera.normalise == "subtract" and not c.official:
        problems.append(
            "camera.normalise = 'subtract': a camera at rest is then the same as none; "
            "only the official variant may"
        )
    return problems


def _adapter_problems(c: ConfigDict) -> list[str]:
    problems = []
    if c.stage == 0:
        problems.append(
            "adapter.rank: stage 0 has no ControlNet that an adapter could stand beside"
        )
    if c.mesh.context > 1:
        problems.append(
            "adapter.rank: gradients of factors are not shown to be right where devices share a "
            "clip, so mesh.context = 1"
        )
    if not c.model.copy_add_embedding:
        problems.append(
            "adapter.rank: with model.copy_add_embedding = False it would adapt random numbers"
        )
    return problems


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names the fields of two flattened configs that differ and must not on resume."""
    return [
        f"{field}: was {old.get(field)!r}, is {new.get(field)!r}"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field) and not field.startswith(MAY_DIFFER_ON_RESUME)
    ]
