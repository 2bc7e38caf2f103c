"""What a training run offers to those who use its ControlNet: architecture and checkpoints."""

from pathlib import Path
from typing import NamedTuple

from posetraj_jax import json_file
from posetraj_jax.errors import UserError
from posetraj_jax.models.controlnet import ControlNetConfig
from posetraj_jax.models.networks import ModelOptions, build_networks

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
AVERAGED, RAW = "ema", "params"
"""The two trees of a checkpoint that hold the ControlNet."""


class Trained(NamedTuple):
    """A ControlNet in a checkpoint; `weights.load(folder, target, AVERAGED)` reads it."""

    config: ControlNetConfig
    folder: Path
    step: int


def is_run(folder: Path) -> bool:
    """Whether `folder` is, or looks like, the folder of a training run."""
    return (folder / CHECKPOINTS).is_dir()


def find(run: Path, step: int | None = None) -> Trained:
    """The ControlNet that a run saved after `step` optimizer steps; the newest if None.

    Raises:
        UserError: No such checkpoint, or no readable record of the run's config.
    """
    found = {int(p.name): p for p in (run / CHECKPOINTS).glob("*") if p.name.isdigit()}
    if not found or (step is not None and step not in found):
        raise UserError(
            f"the run {run} has no such checkpoint",
            expected=f"step {step}" if step is not None else "at least one complete checkpoint",
            got=", ".join(map(str, sorted(found))) or "none",
            fix="take one of these steps" if found else "let the run reach its first save",
        )
    step = max(found) if step is None else step
    return Trained(_config(run / CONFIG_FILE), found[step], step)


def _config(record: Path) -> ControlNetConfig:
    fix = "restore the file from the run that wrote it"
    content = json_file.read_object(record, fix)
    try:
        fields = {
            name.removeprefix("model."): tuple(value) if isinstance(value, list) else value
            for name, value in content["config"].items()
            if name.startswith("model.")
        }
        options = ModelOptions(**fields | {"dtype": "float32"})
        return build_networks(options).controlnet.config
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"cannot use {record}",
            expected="the record that training writes, with the section `model` of the config",
            got=f"{type(error).__name__}: {error}",
            fix=fix,
        ) from error
