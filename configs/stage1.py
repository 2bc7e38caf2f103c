"""Stage 1: PoseTraj-10K clips with the 3D box drawn in, so that the ControlNet learns 6D pose.

    python -m posetraj_jax.train --config configs/stage1.py:tiny          # minutes on a laptop
    python -m posetraj_jax.train --config configs/stage1.py \
        --config.weights=WEIGHTS_FOLDER --config.data.path=CLIPS_FOLDER   # the real thing

Variants, combined by commas: `svd` (the real thing), `tiny` (same blocks, narrow, on the shipped
clips), `official` (every switch of README "Deviations" back to the official training).
"""

from ml_collections import ConfigDict

from posetraj_jax import config


def get_config(variant: str = "svd") -> ConfigDict:
    """Returns the configuration of the named variants."""
    return config.with_variants(config.default(), variant, {"svd": _svd, "tiny": _tiny})


def _svd(c: ConfigDict) -> None:
    c.stage = 1
    c.data.draw_box = c.data.condition_on_box = True


def _tiny(c: ConfigDict) -> None:
    _svd(c)
    c.model.variant = "tiny"
    c.model.residual_multiplicity = (1,) * 8
    c.data.path = config.SHIPPED_CLIPS
    c.data.height, c.data.width = 128, 192
    c.steps = 90
    c.optim.lr, c.optim.warmup_steps, c.optim.accumulate = 1e-3, 10, 1
    c.optim.ema_decay = 0.95
    c.eval.every = 30
    c.sample.steps = 10
    c.save.every = 45
