"""The one complete default configuration, and the variants that every stage shares.

A config file in `configs/` holds `get_config(variant)`, which starts from `default()` and overrides
fields; it never adds any (the ConfigDict is locked). `config_rules.validate` says what a legal one
is. Nothing here has effects: nothing is read, downloaded or allocated.

Sources: SVD is arXiv 2311.15127 and its published pipeline; "official" is the training code of
PoseTraj (arXiv 2503.16068). Where that code has a defect the default is mended; `official` flips
it back, and the README's table "Deviations" has the reasons.
"""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from posetraj_jax.errors import UserError

SHIPPED_CLIPS, SHIPPED_VIDEOS = "shipped_clips", "shipped_videos"
"""Values of `data.path` that name the rendered clips, and the videos in VIPSeg's format, inside the
package."""

OFFICIAL_MULTIPLICITY = {
    12: (4, 4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1),
    8: (4, 4, 4, 3, 3, 2, 2, 1),
    4: (2, 2, 2, 1),
}
"""How often the official UNet adds each residual, by the number of skips (svd, tiny, micro)."""


def default() -> ConfigDict:
    """Every field there is, with its unit, its default and its source: stage 1 on SVD, mended."""
    c = ConfigDict()
    c.stage = 1  # 0: SVD's UNet itself | 1: clips with the 3D box | 2: without | 3: real video
    c.seed = 0  # root of every random number of the run; official: unset
    c.steps = 50_000  # optimizer steps of the whole run; the official script goes on to 60 000
    c.batch_size = 1  # clips per forward pass, over all devices; official
    c.weights = ""  # folder of converted SVD weights; empty = random (small variants only)
    c.init_from = ""  # run, checkpoint or converted ControlNet to start from; empty = the UNet
    c.init_stages = (1,)  # stages that a run in init_from may be of
    c.trainable = "all"  # all | spatial | temporal parameters; a part in stage 0 only
    c.official = False  # set by `official`, which alone may choose camera.normalise = subtract
    c.model = _model()
    c.camera = _camera()
    c.data = _data()
    c.conditioning = _conditioning()
    c.diffusion = _diffusion()
    c.spa = _spa()
    c.optim = _optim()
    c.adapter = _adapter()
    c.mesh = _mesh()
    c.log = _log()
    c.eval = _eval()
    c.sample = _sample()
    c.save = _save()
    return c.lock()


def _model() -> ConfigDict:
    c = ConfigDict()
    c.variant = "svd"  # svd (14 frames) | svd_xt (25) | tiny (same blocks, narrow) | micro (tests)
    c.residual_multiplicity = (1,) * 12  # how often residual k is added to the UNet's skip k
    c.temporal_context = "batch_major"  # layout of the temporal layers' image context: diffusers
    c.copy_add_embedding = True  # ControlNet starts with the UNet's add_embedding too
    c.dtype = "auto"  # activations: bfloat16 on accelerators and float32 on CPU, or either
    c.attention = "auto"  # auto | xla | blocked (CPU) | cudnn (NVIDIA) | splash (TPU)
    # For every level, or for each from the widest image down; "blocks" fits 8 devices of 16 GB.
    c.remat = ("blocks",)  # recomputed: none | blocks (all of them) | dots (all but products)
    return c


def _camera() -> ConfigDict:
    c = ConfigDict()
    c.enabled = False  # the ControlNet reads the camera's extrinsics; stage 3
    c.encoder = "linear"  # linear (official): 12 numbers a frame as they are | mlp (the paper)
    c.init = "zero"  # start of the camera's columns: zero | uniform (official, +-1/sqrt(268))
    c.normalise = "relative"  # to frame 0's pose | none (official training) | subtract
    c.drop = 0.5  # probability that a clip's camera is dropped as a whole; official
    return c


def _data() -> ConfigDict:
    c = ConfigDict()
    c.path = ""  # clip records, PoseTraj-10K or VIPSeg folders; shipped_clips | shipped_videos
    c.height = 320  # pixels; a multiple of 64; official
    c.width = 576  # pixels; a multiple of 64; official
    c.num_frames = 14  # frames of a training window; SVD
    c.latents = ""  # folder that data_prep.encode_latents wrote; empty = encode in every step
    c.draw_box = True  # target frames carry the object's projected 3D box; stage 1
    c.condition_on_box = True  # the conditioning first frame carries the box too; stage 1
    c.box_thickness = 2  # pixels at the stored size; measured on the paper's figure
    c.track_kinds = ("floor",)  # which points are drawn: floor centre surface object stuff void
    c.track_colours = "red"  # red (official sampling) | alternating (official VIPSeg training)
    c.drop_hidden_tracks = False  # leave out segments of points hidden or outside; official: no
    c.resize = "lanczos"  # lanczos (antialiased; official sampling) | bilinear (official training)
    c.max_clips = 0  # use only the first N clips by name; 0 = all
    c.num_workers = 0  # worker processes that decode; 0 = threads of this process
    c.read_threads = 2  # threads that decode ahead
    return c


def _conditioning() -> ConfigDict:
    c = ConfigDict()
    c.noise_aug = "pixels"  # where the first frame's noise goes: pixels (SVD) | shared_latent
    c.noise_aug_strength = 0.02  # standard deviation of that noise, and its time id; SVD, official
    c.motion_bucket_id = 127.0  # motion strength, 0..255; SVD (official: 128)
    c.time_ids = "svd"  # svd: [fps - 1, motion, noise] | official: [6, noise, motion]
    c.clip_range = "unit"  # CLIP sees [0,1] frames (SVD) | official: normalised twice
    c.dropout = 0.1  # p: image embedding dropped < 2p, image latents in [p, 3p); official
    return c


def _diffusion() -> ConfigDict:
    c = ConfigDict()
    c.sigma_density = "cosine"  # cosine (official, interpolated shift) | lognormal (SVD)
    c.sigma_min = 0.002  # lowest of the training density, scaled latents; official
    c.sigma_max = 700.0  # highest of the training density; official
    c.p_mean = 0.7  # mean of ln(sigma), lognormal only; SVD
    c.p_std = 1.6  # standard deviation of ln(sigma), lognormal only; SVD
    return c


def _spa() -> ConfigDict:
    c = ConfigDict()
    c.weight = 0.5  # of the spatial promotion loss in the sum; 0 = off; official
    c.frames = 1  # frames per clip that become stills; official, paper
    c.temporal = "bypass"  # temporal layers on stills: bypass (SVD's images) | active (official)
    c.source = "single_frame"  # the ControlNet sees the still | sliced (official: the clip)
    c.gradient = "spatial"  # its gradient reaches spatial parameters (paper) | all (official)
    return c


def _optim() -> ConfigDict:
    c = ConfigDict()
    c.lr = 1e-5  # peak learning rate; official
    c.warmup_steps = 500  # optimizer steps of linear warm-up; official: asked for, but ignored
    c.b1 = 0.9  # Adam's decay of the first moment; official
    c.b2 = 0.999  # Adam's decay of the second moment; official
    c.eps = 1e-8  # Adam's epsilon; official
    c.weight_decay = 0.01  # decoupled, on every trainable parameter; official
    c.clip_norm = 1.0  # global gradient norm; 0 = no clipping (official)
    c.accumulate = 2  # forward passes per optimizer step; official
    c.ema_decay = 0.9999  # of the moving average of what trains; 0 = off (official)
    return c


def _adapter() -> ConfigDict:
    c = ConfigDict()
    c.rank = 0  # > 0: low-rank factors of the ControlNet's encoder train; 0: all of it (official)
    return c


def _mesh() -> ConfigDict:
    c = ConfigDict()
    c.data = -1  # devices along which only the batch is split; -1 = all that the others leave
    c.fsdp = 0  # devices that share parameters and the batch; 0 = as many as divide, up to 16
    c.context = 1  # devices that share a clip: its frames or, where these do not divide, its rows
    c.slices = 1  # TPU slices, or GPU hosts, joined by the slow network, along `data`
    c.frozen = "sharded"  # the frozen networks: sharded over fsdp as what trains | replicated
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
    c.noise_levels = 4  # bands of the noise density; each clip is evaluated once in each
    c.seed = 1234  # root of the fixed noise
    return c


def _sample() -> ConfigDict:
    c = ConfigDict()
    c.every = 10_000  # steps between sampled clips; 0 = only at the end
    c.clips = 2  # how many clips are sampled
    c.steps = 25  # denoising steps; SVD
    c.min_guidance_scale = 1.0  # guidance of the first frame; SVD
    c.max_guidance_scale = 3.0  # guidance of the last frame; SVD
    return c


def _save() -> ConfigDict:
    c = ConfigDict()
    c.every = 1000  # steps between checkpoints; also at the end and on SIGTERM
    c.keep = 3  # newest checkpoints that are kept
    return c


def tiny(c: ConfigDict) -> ConfigDict:
    """Shrinks a stage to minutes on a laptop: narrow random networks, shipped data, in place."""
    c.model.variant = "tiny"
    c.model.residual_multiplicity = (1,) * 8
    c.model.remat = ("none",)
    c.data.path = SHIPPED_CLIPS
    c.data.height, c.data.width = 128, 192
    c.steps = 90
    c.optim.lr, c.optim.warmup_steps, c.optim.accumulate = 1e-3, 10, 1
    c.optim.ema_decay = 0.95
    c.mesh.fsdp = 1  # too narrow to be worth sharing
    c.eval.every, c.eval.clips = 30, 4
    c.sample.steps = 10
    c.save.every = 45
    return c


def micro(c: ConfigDict) -> ConfigDict:
    """Shrinks `tiny` to what compiles in seconds: two levels, two frames; for tests, in place."""
    tiny(c)
    c.model.variant = "micro"
    c.model.residual_multiplicity = (1,) * 4
    c.data.height = c.data.width = 64
    c.data.num_frames = 2
    c.steps, c.save.every, c.log.every = 12, 3, 1
    c.eval.every, c.eval.clips, c.eval.noise_levels = 12, 2, 2
    c.sample.clips, c.sample.steps = 1, 2
    return c


def v5e1(c: ConfigDict) -> ConfigDict:
    """Fits a ControlNet's stage into one TPU v5e (16 GB, as Colab's), in place.

    An adapter trains, beside bfloat16 numbers that stay, with the batch in 8 passes. Its learning
    rate is higher than that of whole kernels, as in LoRA (arXiv 2106.09685).
    """
    c.adapter.rank = 32
    c.optim.lr, c.optim.accumulate = 1e-4, 8
    return c


def official(c: ConfigDict) -> ConfigDict:
    """Flips every switch there is to what the official training does, defects included, in place.

    Source: the official training scripts. README "Deviations" lists each field, and what no switch
    reproduces.
    """
    c.official = True
    c.model.residual_multiplicity = OFFICIAL_MULTIPLICITY[len(c.model.residual_multiplicity)]
    c.model.temporal_context = "interleaved"
    c.model.copy_add_embedding = False
    c.camera.encoder = "linear"
    c.camera.init = "uniform"
    c.camera.normalise = "none"
    c.data.track_colours = "alternating"
    c.data.drop_hidden_tracks = False
    c.data.resize = "bilinear"
    if "stuff" in c.data.track_kinds:
        c.data.track_kinds = ("object", "stuff", "void")
    c.conditioning.noise_aug = "shared_latent"
    c.conditioning.motion_bucket_id = 128.0
    c.conditioning.time_ids = "official"
    c.conditioning.clip_range = "official"
    c.spa.temporal = "active"
    c.spa.source = "sliced"
    c.spa.gradient = "all"
    c.optim.warmup_steps = 0
    c.optim.clip_norm = 0.0
    c.optim.ema_decay = 0.0
    return c


SMALL = {"tiny": tiny, "micro": micro}
VARIANTS = {"svd": lambda c: c, "v5e1": v5e1, **SMALL, "official": official}
"""In the order in which they are applied."""


def with_variants(
    names: str, stage: Callable[[ConfigDict], Any], small: Callable[[ConfigDict], Any] | None = None
) -> ConfigDict:
    """The default, changed by a stage and then by the comma-separated variants.

    A stage may write `init_from = "runs/stage1-{variant}"`: the run of the same variants.

    Args:
      names: of svd (the real thing), v5e1, tiny, micro, official.
      stage: changes what the stage is about.
      small: changes what else tiny and micro need in this stage.

    Raises:
      UserError: another name.
    """
    c, wanted = default(), names.split(",")
    for name in wanted:
        if name not in VARIANTS:
            raise _unknown_variant(name, VARIANTS)
    stage(c)
    c.init_from = c.init_from.format(variant="-".join(wanted))
    for name in sorted(wanted, key=list(VARIANTS).index):
        VARIANTS[name](c)
        if name in SMALL and small is not None:
            small(c)
    return c


def flatten(c: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted field → value, with tuples as lists so that a JSON round trip changes nothing."""
    flat = {}
    for key, value in c.items():
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


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
