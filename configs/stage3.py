"""Stage 3: real video with the camera's extrinsics, so that object and camera motion come apart.

    python -m posetraj_jax.train --config configs/stage3.py:tiny          # minutes on a laptop
    python -m posetraj_jax.train --config configs/stage3.py \
        --config.weights=WEIGHTS_FOLDER --config.data.path=VIPSEG_FOLDER   # the real thing

Starts from the last checkpoint of stage 2 of the same variants; `--config.init_from=RUN` names
another run. VIPSEG_FOLDER has `imgs`, the tracks, and cameras where they are known (see README).

Variants, combined by commas: `svd` (the real thing), `v5e1` (an adapter, on a single TPU v5e),
`tiny` (narrow, on the shipped videos), `micro` (for tests), `official` (README "Deviations" back
to the official training).
"""

from ml_collections import ConfigDict

from posetraj_jax import config


def get_config(variant: str = "svd") -> ConfigDict:
    """Returns the configuration of the named variants."""
    return config.with_variants(variant, _stage, _small)


def _stage(c: ConfigDict) -> None:
    c.stage = 3
    c.init_from, c.init_stages = "runs/stage2-{variant}", (2,)
    c.camera.enabled = True
    c.data.draw_box = c.data.condition_on_box = False
    c.data.track_kinds = ("object", "stuff")
    c.steps = 100_000  # the checkpoint that the official inference scripts load


def _small(c: ConfigDict) -> None:
    c.data.path = config.SHIPPED_VIDEOS
    c.optim.lr = 5e-4
