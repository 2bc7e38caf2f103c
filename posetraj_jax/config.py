"""The one complete default configuration, how a config file overrides it, and what it must obey.

A config file in `configs/` holds `get_config(variant)`, which starts from `default()` and overrides
fields; it never adds any (the ConfigDict is locked). `load` resolves the file, the variants and the
command line's overrides, then `validate` collects every problem into one error. Parsing a config has
no effects: nothing is downloaded, no device is touched.
"""

import ast
import difflib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from posetraj_jax.errors import UserError, listed

PACKAGE = Path(__file__).resolve().parent
CONFIG_FOLDERS = (PACKAGE.parent / "configs", PACKAGE / "configs")
"""The checkout's configs, and their copy inside an installed package."""

SHIPPED_CLIPS = "shipped"
"""The value of `data.path` that names the rendered clips inside the package."""

PIXELS_PER_LATENT_GRID = 64
"""Frame sizes must divide by 8 (VAE) times 8 (three halvings of the UNet)."""

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

MAY_DIFFER_ON_RESUME = ("steps", "log.", "save.", "sample.", "mesh.")
"""What a rerun of a command may change. `eval.` is not among them: its losses must stay comparable."""


def default() -> ConfigDict:
    """Every field there is, with its unit and its default: stage 1 on SVD as published, mended.

    Where the official code has a defect the default is the mended value; `official` flips them back.
    """
    c = ConfigDict()
    c.stage = 1  # 1: frames with the 3D box drawn in
    c.seed = 0  # root of every random number of the run
    c.steps = 50_000  # optimizer steps of the whole run
    c.batch_size = 1  # clips per forward pass, over all devices and hosts
    c.weights = ""  # folder of converted SVD weights; empty = random initialisation (tiny only)

    c.model = ConfigDict()
    c.model.variant = "svd"  # svd (14 frames) | svd_xt (25 frames) | tiny (same blocks, narrow)
    c.model.residual_multiplicity = (1,) * 12  # how often residual k is added to the UNet's skip k
    c.model.temporal_context = "batch_major"  # layout of the temporal layers' image context
    c.model.copy_add_embedding = True  # ControlNet starts with the UNet's add_embedding too
    c.model.dtype = "auto"  # activations: bfloat16 on accelerators and float32 on CPU, or either
    c.model.remat = "none"  # recompute in backward: none | blocks (all) | dots (all but products)

    c.data = ConfigDict()
    c.data.path = ""  # folder of clip records or of official PoseTraj-10K clips; or "shipped"
    c.data.height = 320  # pixels; a multiple of 64
    c.data.width = 576  # pixels; a multiple of 64
    c.data.num_frames = 14  # frames of a training window
    c.data.draw_box = True  # target frames carry the object's projected 3D box
    c.data.condition_on_box = True  # the conditioning first frame carries the box too
    c.data.box_thickness = 2  # pixels at the stored size
    c.data.track_kinds = ("floor",)  # which tracked points are drawn: floor, centre, surface, object
    c.data.track_colours = "red"  # red | alternating (official VIPSeg training)
    c.data.resize = "lanczos"  # lanczos (antialiased) | bilinear (no antialiasing)
    c.data.max_clips = 0  # use only the first N clips by name; 0 = all
    c.data.num_workers = 0  # worker processes that decode; 0 = threads of this process
    c.data.read_threads = 2  # threads that decode ahead

    c.conditioning = ConfigDict()
    c.conditioning.noise_aug = "pixels"  # where the first frame's noise goes: pixels | shared_latent
    c.conditioning.noise_aug_strength = 0.02  # standard deviation of that noise, and its time id
    c.conditioning.motion_bucket_id = 127.0  # SVD's motion strength, 0..255
    c.conditioning.time_ids = "svd"  # svd: [fps - 1, motion, noise] | official: [6, noise, 128]
    c.conditioning.clip_range = "unit"  # CLIP sees [0,1] frames | official: normalised twice
    c.conditioning.dropout = 0.1  # p: image embedding dropped < 2p, image latents dropped in [p, 3p)

    c.diffusion = ConfigDict()
    c.diffusion.sigma_density = "cosine"  # cosine (official, interpolated shift) | lognormal (SVD)
    c.diffusion.sigma_min = 0.002  # of both the training density and the sampling grid
    c.diffusion.sigma_max = 700.0  # of both the training density and the sampling grid
    c.diffusion.p_mean = 0.7  # mean of ln(sigma), lognormal only
    c.diffusion.p_std = 1.6  # standard deviation of ln(sigma), lognormal only

    c.optim = ConfigDict()
    c.optim.lr = 1e-5  # peak learning rate
    c.optim.warmup_steps = 500  # optimizer steps of linear warm-up, then constant
    c.optim.b1 = 0.9  # Adam's decay of the first moment
    c.optim.b2 = 0.999  # Adam's decay of the second moment
    c.optim.eps = 1e-8  # Adam's epsilon
    c.optim.weight_decay = 0.01  # decoupled, on every trainable parameter
    c.optim.clip_norm = 1.0  # global gradient norm; 0 = no clipping
    c.optim.accumulate = 2  # forward passes per optimizer step
    c.optim.ema_decay = 0.9999  # of the moving average of the ControlNet; 0 = off

    c.mesh = ConfigDict()
    c.mesh.data = -1  # devices along which only the batch is split; -1 = all that fsdp leaves
    c.mesh.fsdp = 1  # devices along which parameters and the batch are split

    c.log = ConfigDict()
    c.log.every = 10  # steps between metric lines
    c.log.tensorboard = True  # write TensorBoard events beside metrics.jsonl

    c.eval = ConfigDict()
    c.eval.every = 1000  # steps between evaluations; also at step 0 and at the end
    c.eval.clips = 8  # fixed clips with fixed noise
    c.eval.seed = 1234  # root of the fixed noise

    c.sample = ConfigDict()
    c.sample.every = 10_000  # steps between sampled clips; 0 = only at the end
    c.sample.clips = 2  # how many clips are sampled
    c.sample.steps = 25  # denoising steps
    c.sample.min_guidance_scale = 1.0  # guidance of the first frame
    c.sample.max_guidance_scale = 3.0  # guidance of the last frame

    c.save = ConfigDict()
    c.save.every = 1000  # steps between checkpoints; also at the end and on SIGTERM
    c.save.keep = 3  # newest checkpoints that are kept
    return c.lock()


def with_variants(
    c: ConfigDict, names: str, variants: Mapping[str, Callable[[ConfigDict], object]]
) -> ConfigDict:
    """Applies comma-separated variants to `c`; `official` is known everywhere and always comes last.

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


def official(c: ConfigDict) -> ConfigDict:
    """Flips every switch to what the official code does, defects included, in place.

    Source: the official training script of stages 1 and 2. README "Deviations" lists each field.
    """
    c.model.residual_multiplicity = official_multiplicity(len(c.model.residual_multiplicity))
    c.model.temporal_context = "interleaved"
    c.model.copy_add_embedding = False
    c.data.track_colours = "alternating"
    c.data.resize = "bilinear"
    c.conditioning.noise_aug = "shared_latent"
    c.conditioning.motion_bucket_id = 128.0
    c.conditioning.time_ids = "official"
    c.conditioning.clip_range = "official"
    c.optim.warmup_steps = 0
    c.optim.clip_norm = 0.0
    c.optim.ema_decay = 0.0
    return c


def official_multiplicity(skips: int) -> tuple[int, ...]:
    """How often the official UNet adds each residual, for a UNet of four levels with `skips` skips.

    Its add loop sits inside the loop over the down blocks and starts over at every block, so a skip
    made at level i is increased once for each of the levels i..3: (4,4,4,4,3,3,3,2,2,2,1,1) at SVD.
    """
    layers = (skips - 4) // 4
    per_level = [(4, 1 + layers + 1), (3, layers + 1), (2, layers + 1), (1, layers)]
    return tuple(times for times, count in per_level for _ in range(count))


def load(spec: str, overrides: Mapping[str, str] | None = None) -> ConfigDict:
    """Resolves `configs/stage1.py:tiny,official` plus dotted overrides into a validated config.

    Args:
      spec: a path or bare name of a config file, then optionally `:` and comma-separated variants.
        Relative paths are tried from the working directory, then from the package's configs.
      overrides: dotted field → text, as given on the command line (`{"optim.lr": "3e-4"}`).

    Raises:
      UserError: no such file, variant or field, a value of the wrong type, or an invalid config.
    """
    path, _, variants = spec.partition(":")
    c = _get_config(_find_file(path), variants)
    for field, text in (overrides or {}).items():
        _override(c, field, text)
    validate(c)
    return c


def name_of(spec: str) -> str:
    """The run's name: `configs/stage1.py:tiny,official` → `stage1-tiny-official`."""
    path, _, variants = spec.partition(":")
    return "-".join([Path(path).stem, *(variants.split(",") if variants else ["svd"])])


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names the fields of two flattened configs that differ and must not on resume."""
    return [
        f"{field}: was {old.get(field)!r}, is {new.get(field)!r}"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field) and not field.startswith(MAY_DIFFER_ON_RESUME)
    ]


def flatten(c: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted field → value, with tuples as lists so that a JSON round trip changes nothing."""
    flat = {}
    for key, value in c.items():
        if isinstance(value, ConfigDict | dict):
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
    at_least_one = ("steps", "batch_size", "data.num_frames", "optim.accumulate", "mesh.fsdp")
    at_least_one += ("log.every", "eval.every", "eval.clips", "sample.steps", "save.every")
    at_least_one += ("save.keep", "data.box_thickness", "data.read_threads")
    problems += [f"{name} = {flat[name]}: at least 1" for name in at_least_one if flat[name] < 1]
    not_negative = ("optim.lr", "optim.clip_norm", "optim.weight_decay", "optim.warmup_steps")
    not_negative += ("conditioning.noise_aug_strength", "data.max_clips", "data.num_workers")
    not_negative += ("sample.every", "sample.clips", "seed")
    problems += [f"{name} = {flat[name]}: not negative" for name in not_negative if flat[name] < 0]
    if not 0 <= c.optim.ema_decay < 1:
        problems.append(f"optim.ema_decay = {c.optim.ema_decay}: in [0, 1)")
    if not 0 <= c.conditioning.dropout <= 1 / 3:
        problems.append(f"conditioning.dropout = {c.conditioning.dropout}: in [0, 1/3]")
    if not 0 < c.diffusion.sigma_min < c.diffusion.sigma_max:
        problems.append("diffusion.sigma_min: positive and below diffusion.sigma_max")
    if c.mesh.data < 1 and c.mesh.data != -1:
        problems.append(f"mesh.data = {c.mesh.data}: at least 1, or -1 for all devices")
    if problems:
        raise UserError(
            "the configuration is not valid",
            expected="every field within its range",
            got=listed(problems),
            fix="change these fields in the config file or with --config.<field>=<value>",
        )


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


def _find_file(path: str) -> Path:
    name = path if path.endswith(".py") else f"{path}.py"
    candidates = [Path(name), *(folder / Path(name).name for folder in CONFIG_FOLDERS)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted({p.stem for folder in CONFIG_FOLDERS for p in folder.glob("[!_]*.py")})
    raise UserError(
        f"there is no config file {path!r}",
        expected="a path, or one of " + ", ".join(f"configs/{name}.py" for name in known),
        got=path,
        fix=_suggestion(Path(name).stem, known, "configs/{}.py"),
    )


def _get_config(path: Path, variants: str) -> ConfigDict:
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(
            f"{path} is not a config file",
            expected="a function get_config(variant)",
            got="no such function",
            fix="see configs/stage1.py for the form",
        )
    return module.get_config(variants) if variants else module.get_config()


def _unknown_variant(variant: str, known: Iterable[str]) -> UserError:
    return UserError(
        f"this config has no variant {variant!r}",
        expected="one or more of " + ", ".join(known) + ", separated by commas",
        got=variant,
        fix=_suggestion(variant, list(known), "{}"),
    )


def _override(c: ConfigDict, field: str, text: str) -> None:
    flat = flatten(c)
    if field not in flat:
        raise UserError(
            f"there is no config field {field!r}",
            expected="a field of posetraj_jax/config.py",
            got=f"--config.{field}={text}",
            fix=_suggestion(field, list(flat), "--config.{}"),
        )
    *sections, name = field.split(".")
    for section in sections:
        c = c[section]
    c[name] = _parse(field, text, c[name])


def _parse(field: str, text: str, current: Any) -> Any:
    """Reads `text` as a value of the type that the field has now."""
    kind = type(current)
    try:
        if kind is str:
            return text
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind is tuple:
            return tuple(type(current[0])(part) for part in text.strip("()[] ").split(",") if part)
        return kind(ast.literal_eval(text)) if kind is float else int(text)
    except (ValueError, KeyError, SyntaxError, TypeError):
        raise UserError(
            f"config field {field!r} cannot take this value",
            expected=f"{kind.__name__}, such as {current!r}",
            got=text,
            fix=f"write --config.{field}={current}",
        ) from None


def _suggestion(word: str, known: list[str], form: str) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {form.format(close[0])}?"
    return "choose one of the names above"
