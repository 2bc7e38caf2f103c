"""Fine-tunes SVD's UNet itself: image to video, no trajectories.

    python -m posetraj_jax.train --config configs/svd_finetune.py:tiny    # minutes on a laptop
    python -m posetraj_jax.train --config configs/svd_finetune.py \
        --config.weights=WEIGHTS_FOLDER --config.data.path=CLIPS_FOLDER   # the real thing

`--config.trainable=temporal` (or spatial) trains a part of it, with moments for that part only.
`convert_weights.flax_to_diffusers` turns the run into a UNet for diffusers.

Variants, combined by commas: `svd` (the real thing), `tiny` (narrow, on the shipped clips),
`micro` (for tests), `official` (README "Deviations" back to the official training).
"""

from ml_collections import ConfigDict

from posetraj_jax import config


def get_config(variant: str = "svd") -> ConfigDict:
    """Returns the configuration of the named variants."""
    return config.with_variants(variant, _stage, _small)


def _stage(c: ConfigDict) -> None:
    c.stage = 0
    c.init_stages = (0,)
    c.spa.weight = 0.0
    c.data.draw_box = c.data.condition_on_box = False
    c.data.track_kinds = ()  # no trajectory maps


def _small(c: ConfigDict) -> None:
    c.optim.lr = 5e-4
