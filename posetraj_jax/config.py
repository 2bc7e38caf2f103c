"""The one complete default configuration, its variants, and what a configuration must obey.

A config file in `configs/` holds `get_config(variant)`, which starts from `default()` and overrides
fields; it never adds any (the ConfigDict is locked). `validate` collects every problem into one
error. Nothing here has effects: nothing is read, downloaded or allocated.
"""

import difflib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from posetraj_jax.errors import UserError, listed

SHIPPED_CLIPS = "shipped"
"""The value of `data.path` that names the rendered clips inside the package."""

PIXELS_PER_LATENT_GRID = 64
"""Frame sizes must divide by 8 (VAE) times 8 (three halvings of the UNet)."""

OFFICIAL_MULTIPLICITY = {
    12: (4, 4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1),
    8: (4, 4, 4, 3, 3, 2, 2, 1),
}
"""How often the official UNet adds each residual, by the number of skips (svd, tiny)."""

CHOICES = {
    "model.variant": ("svd", "svd_xt", "tiny"),
    "model.temporal_context": ("batch_major", "interleaved"),
    "model.dtype": ("auto", "bfloat16", "float32"),
    "model.remat": ("none", "blocks", "dots"),
    "data.track_colours": ("red", "alternating"),
    "data.resize": ("lanczos", "bilinear"),
    "conditioning.noise_aug": ("pixels", "shared_latent"),
    "conditioning.time_ids": ("svd", "official"),
    "conditioning.clip_range": ("unit", "official"),
    "diffusion.sigma_density": ("cosine", "lognormal"),
}

INFINITY, POSITIVE = math.inf, sys.float_info.min
RANGES = {
    # field: (lowest value, first value too high)
    "stage": (1, 2),
    "seed": (0, 2**32),
    "steps": (1, INFINITY),
    "batch_size": (1, INFINITY),
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
    "optim.lr": (0, INFINITY),
    "optim.warmup_steps": (0, INFINITY),
    "optim.b1": (0, 1),
    "optim.b2": (0, 1),
    "optim.eps": (POSITIVE, INFINITY),
    "optim.weight_decay": (0, INFINITY),
    "optim.clip_norm": (0, INFINITY),
    "optim.accumulate": (1, INFINITY),
    "optim.ema_decay": (0, 1),
    "mesh.fsdp": (1, INFINITY),
    "log.every": (1, INFINITY),
    "eval.every": (1, INFINITY),
    "eval.clips": (1, INFINITY),
    "eval.seed": (0, 2**32),
    "sample.every": (0, INFINITY),
    "sample.clips": (0, INFINITY),
    "sample.steps": (1, INFINITY),
    "sample.min_guidance_scale": (0, INFINITY),
    "sample.max_guidance_scale": (0, INFINITY),
    "save.every": (1, INFINITY),
    "save.keep": (1, INFINITY),
}

MAY_DIFFER_ON_RESUME = ("steps", "log.", "save.", "sample.", "mesh.")
"""What a rerun of a command may change; not `eval.`, so that a run's losses stay comparable."""


def default() -> ConfigDict:
    """Every field there is, with its unit and its default: stage 1 on SVD as published, mended.

    Where the official code has a defect the default is mended; `official` flips it back.
    """
    c = ConfigDict()
    c.stage = 1  # 1: frames with the 3D box drawn in
    c.seed = 0  # root of every random number of the run
    c.steps = 50_000  # optimizer steps of the whole run
    c.batch_size = 1  # clips per forward pass, over all devices
    c.weights = ""  # folder of converted SVD weights; empty = random initialisation (tiny only)
    c.model = _model()
    c.data = _data()
    c.conditioning = _conditioning()
    c.diffusion = _diffusion()
    c.optim = _optim()
    c.mesh = _mesh()
    c.log = _log()
    c.eval = _eval()
    c.sample = _sample()
    c.save = _save()
    return c.lock()


def _model() -> ConfigDict:
    c = ConfigDict()
    c.variant = "svd"  # svd (14 frames) | svd_xt (25 frames) | tiny (same blocks, narrow)
    c.residual_multiplicity = (1,) * 12  # how often residual k is added to the UNet's skip k
    c.temporal_context = "batch_major"  # layout of the temporal layers' image context
    c.copy_add_embedding = True  # ControlNet starts with the UNet's add_embedding too
    c.dtype = "auto"  # activations: bfloat16 on accelerators and float32 on CPU, or either
    c.remat = "none"  # recompute in backward: none | blocks (all) | dots (all but products)
    return c


def _data() -> ConfigDict:
    c = ConfigDict()
    c.path = ""  # folder of clip records or of official PoseTraj-10K clips; or "shipped"
    c.height = 320  # pixels; a multiple of 64
    c.width = 576  # pixels; a multiple of 64
    c.num_frames = 14  # frames of a training window
    c.draw_box = True  # target frames carry the object's projected 3D box
    c.condition_on_box = True  # the conditioning first frame carries the box too
    c.box_thickness = 2  # pixels at the stored size
    c.track_kinds = ("floor",)  # which tracked points are drawn: floor, centre, surface, object
    c.track_colours = "red"  # red | alternating (official VIPSeg training)
    c.drop_hidden_tracks = False  # leave out segments of points that are hidden or outside
    c.resize = "lanczos"  # lanczos (antialiased) | bilinear (no antialiasing)
    c.max_clips = 0  # use only the first N clips by name; 0 = all
    c.num_workers = 0  # worker processes that decode; 0 = threads of this process
    c.read_threads = 2  # threads that decode ahead
    return c


def _conditioning() -> ConfigDict:
    c = ConfigDict()
    c.noise_aug = "pixels"  # where the first frame's noise goes: pixels | shared_latent
    c.noise_aug_strength = 0.02  # standard deviation of that noise, and its time id
    c.motion_bucket_id = 127.0  # SVD's motion strength, 0..255
    c.time_ids = "svd"  # svd: [fps - 1, motion, noise] | official: [6, noise, motion]
    c.clip_range = "unit"  # CLIP sees [0,1] frames | official: normalised twice
    c.dropout = 0.1  # p: image embedding dropped < 2p, image latents dropped in [p, 3p)
    return c


def _diffusion() -> ConfigDict:
    c = ConfigDict()
    c.sigma_density = "cosine"  # cosine (official, interpolated shift) | lognormal (SVD)
    c.sigma_min = 0.002  # lowest of the training density; sampling has the published range
    c.sigma_max = 700.0  # highest of the training density
    c.p_mean = 0.7  # mean of ln(sigma), lognormal only
    c.p_std = 1.6  # standard deviation of ln(sigma), lognormal only
    return c


def _optim() -> ConfigDict:
    c = ConfigDict()
    c.lr = 1e-5  # peak learning rate
    c.warmup_steps = 500  # optimizer steps of linear warm-up, then constant
    c.b1 = 0.9  # Adam's decay of the first moment
    c.b2 = 0.999  # Adam's decay of the second moment
    c.eps = 1e-8  # Adam's epsilon
    c.weight_decay = 0.01  # decoupled, on every trainable parameter
    c.clip_norm = 1.0  # global gradient norm; 0 = no clipping
    c.accumulate = 2  # forward passes per optimizer step
    c.ema_decay = 0.9999  # of the moving average of the ControlNet; 0 = off
    return c


def _mesh() -> ConfigDict:
    c = ConfigDict()
    c.data = -1  # devices along which only the batch is split; -1 = all that fsdp leaves
    c.fsdp = 1  # devices along which parameters and the batch are split
    return c


def _log() -> ConfigDict:
    c = ConfigDict()
    c.every = 10  # steps between metric lines
    c.tensorboard = True  # write TensorBoard events beside metrics.jsonl
    return c


def _eval() -> ConfigDict:
    c = ConfigDict()
    c.every = 1000  # steps between evaluations; also at step 0 and at the end
    c.clips = 8  # fixed clips with fixed noise
    c.seed = 1234  # root of the fixed noise
    return c


def _sample() -> ConfigDict:
    c = ConfigDict()
    c.every = 10_000  # steps between sampled clips; 0 = only at the end
    c.clips = 2  # how many clips are sampled
    c.steps = 25  # denoising steps
    c.min_guidance_scale = 1.0  # guidance of the first frame
    c.max_guidance_scale = 3.0  # guidance of the last frame
    return c


def _save() -> ConfigDict:
    c = ConfigDict()
    c.every = 1000  # steps between checkpoints; also at the end and on SIGTERM
    c.keep = 3  # newest checkpoints that are kept
    return c


def official(c: ConfigDict) -> ConfigDict:
    """Flips every switch there is to what the official training does, defects included, in place.

    Source: the official training script of stages 1 and 2. README "Deviations" lists each field,
    and what no switch reproduces.
    """
    skips = len(c.model.residual_multiplicity)
    c.model.residual_multiplicity = OFFICIAL_MULTIPLICITY.get(skips, c.model.residual_multiplicity)
    c.model.temporal_context = "interleaved"
    c.model.copy_add_embedding = False
    c.data.track_colours = "alternating"
    c.data.drop_hidden_tracks = False
    c.data.resize = "bilinear"
    c.conditioning.noise_aug = "shared_latent"
    c.conditioning.motion_bucket_id = 128.0
    c.conditioning.time_ids = "official"
    c.conditioning.clip_range = "official"
    c.optim.warmup_steps = 0
    c.optim.clip_norm = 0.0
    c.optim.ema_decay = 0.0
    return c


def with_variants(
    c: ConfigDict, names: str, variants: Mapping[str, Callable[[ConfigDict], object]]
) -> ConfigDict:
    """Applies comma-separated variants to `c`; `official` exists everywhere and comes last.

    Raises:
      UserError: a name that is neither in `variants` nor "official".
    """
    known = {**variants, "official": official}
    wanted = names.split(",")
    for name in wanted:
        if name not in known:
            raise _unknown_variant(name, known)
    for name in sorted(wanted, key=lambda name: name == "official"):
        known[name](c)
    return c


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names the fields of two flattened configs that differ and must not on resume."""
    return [
        f"{field}: was {old.get(field)!r}, is {new.get(field)!r}"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field) and not field.startswith(MAY_DIFFER_ON_RESUME)
    ]


def flatten(c: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted field → value, with tuples as lists so that a JSON round trip changes nothing."""
    flat = {}
    for key, value in c.items():
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def validate(c: ConfigDict) -> None:
    """Checks ranges and relations that no type can express; collects all problems first."""
    flat = flatten(c)
    problems = [
        f"{field} = {flat[field]!r}: one of {', '.join(choices)}"
        for field, choices in CHOICES.items()
        if flat[field] not in choices
    ]
    problems += _size_problems(c)
    problems += [
        f"{field} = {flat[field]}: {_range_in_words(low, high)}"
        for field, (low, high) in RANGES.items()
        if not low <= flat[field] < high
    ]
    if not c.diffusion.sigma_min < c.diffusion.sigma_max:
        problems.append("diffusion.sigma_min: below diffusion.sigma_max")
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
        if size < PIXELS_PER_LATENT_GRID or size % PIXELS_PER_LATENT_GRID:
            below = max(size // PIXELS_PER_LATENT_GRID, 1) * PIXELS_PER_LATENT_GRID
            nearest = f"{below} or {below + PIXELS_PER_LATENT_GRID}"
            problems.append(f"data.{field} = {size}: a multiple of 64, such as {nearest}")
    skips = 8 if c.model.variant == "tiny" else 12
    if len(c.model.residual_multiplicity) != skips:
        got = len(c.model.residual_multiplicity)
        problems.append(f"model.residual_multiplicity has {got} numbers: {skips} for this variant")
    return problems


def suggestion(word: str, known: list[str], form: str) -> str:
    """What to do about a misspelt `word`: the nearest of the `known` ones, in the given form."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {form.format(close[0])}?"
    return "choose one of the names above"


def _unknown_variant(variant: str, known: Iterable[str]) -> UserError:
    return UserError(
        f"this config has no variant {variant!r}",
        expected="one or more of " + ", ".join(known) + ", separated by commas",
        got=variant,
        fix=suggestion(variant, list(known), "{}"),
    )
