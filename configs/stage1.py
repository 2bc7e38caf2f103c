"""Stage 1: PoseTraj-10K clips with the 3D box drawn in, so that the ControlNet learns 6D pose.

    python -m posetraj_jax.train --config configs/stage1.py:tiny          # minutes on a laptop
    python -m posetraj_jax.train --config configs/stage1.py \
        --config.weights=WEIGHTS_FOLDER --config.data.path=CLIPS_FOLDER   # the real thing

Variants, combined by commas: `svd` (the real thing), `v5e1` (an adapter, on a single TPU v5e),
`tiny` (narrow, on the shipped clips), `micro` (for tests), `official` (README "Deviations" back
to the official training).
"""

from ml_collections import ConfigDict

from posetraj_jax import config


def get_config(variant: str = "svd") -> ConfigDict:
    """Returns the configuration of the named variants."""
    return config.with_variants(variant, _stage)


def _stage(c: ConfigDict) -> None:
    c.stage = 1
    c.data.draw_box = c.data.condition_on_box = True
