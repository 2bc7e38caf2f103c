"""Stage 2: the clips of stage 1 without box, so that plain frames turn as the boxed ones did.

    python -m posetraj_jax.train --config configs/stage2.py:tiny          # minutes on a laptop
    python -m posetraj_jax.train --config configs/stage2.py \
        --config.weights=WEIGHTS_FOLDER --config.data.path=CLIPS_FOLDER   # the real thing

Starts from the last checkpoint of stage 1 of the same variants; `--config.init_from=RUN` names
another run.

Variants, combined by commas: `svd` (the real thing), `v5e1` (an adapter, on a single TPU v5e),
`tiny` (narrow, on the shipped clips), `micro` (for tests), `official` (README "Deviations" back
to the official training).
"""

from ml_collections import ConfigDict

from posetraj_jax import config


def get_config(variant: str = "svd") -> ConfigDict:
    """Returns the configuration of the named variants."""
    return config.with_variants(variant, _stage, _small)


def _stage(c: ConfigDict) -> None:
    c.stage = 2
    c.init_from, c.init_stages = "runs/stage1-{variant}", (1,)
    c.data.draw_box = c.data.condition_on_box = False
    c.steps = 50_000  # official: as many as stage 1


def _small(c: ConfigDict) -> None:
    c.optim.lr = 5e-4
