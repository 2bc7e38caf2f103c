"""Folders like those that training leaves behind, with parameters that say where they are from."""

import json
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp

from posetraj_jax import config_file, runs
from posetraj_jax.config import flatten
from posetraj_jax.training.checkpoint import Checkpoints
from posetraj_jax.training.state import TrainState


def write_run(
    folder: Path, spec: str, shapes: Any, *, saved=(5, 10), unit: float = 1.0, **fields: str
) -> Path:
    """A run of config `spec` with checkpoints after the steps `saved`.

    Every raw parameter of step n is n x unit, every averaged one minus that.
    """
    write_record(folder, spec, **fields)
    with Checkpoints(folder / "checkpoints", keep=len(saved)) as checkpoints:
        for step in saved:
            params, ema = filled(shapes, unit * step), filled(shapes, -unit * step)
            state = TrainState(jnp.int32(step), params, {"count": jnp.int32(step)}, ema)
            checkpoints.save(state, iter(grain.MapDataset.range(3).to_iter_dataset()), {})
    return folder


def write_record(folder: Path, spec: str, unet: str = "", **fields: str) -> None:
    """The config.json of a run; `unet` is the digest of the weights that it was given."""
    folder.mkdir(parents=True)
    record = {"config": flatten(config_file.load(spec, fields)), runs.UNET: unet}
    (folder / "config.json").write_text(json.dumps(record))


def filled(shapes: Any, value: float) -> Any:
    """Every leaf full of one number."""
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), shapes)
