"""What a training run offers to those who use its parameters: architecture and checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from posetraj_jax import json_file
from posetraj_jax.errors import UserError
from posetraj_jax.models.networks import Networks, build_networks, options_of
from posetraj_jax.saved import Saved

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
AVERAGED, RAW = "ema", "params"
"""The trees of a checkpoint that hold what was trained; the first only if an average was kept."""
BASE = "base"
"""Folder in that of a run whose checkpoints hold an adapter: what it stands beside."""
UNET = "unet"
"""Key of the record: the digest of the UNet that was given, "" if it was drawn from the seed."""

READ_FIELDS = dict.fromkeys(("stage", "steps", "seed", "adapter.rank"), int)
READ_FIELDS |= {"optim.ema_decay": float}
READ_FIELDS |= dict.fromkeys(("weights", "init_from", "trainable"), str)
"""Fields of a run's config that others read, besides those of its networks."""


class Trained(NamedTuple):
    """What a run has trained; `saved` reads it."""

    record: Mapping[str, Any]
    """The run's flattened config."""
    unet: str
    """As `UNET` says."""
    networks: Networks
    folder: Path
    """Of the checkpoint."""
    step: int

    @property
    def name(self) -> str:
        """Which network: a field of `Networks`."""
        return trained_network(self.record["stage"])

    @property
    def item(self) -> str:
        """The tree of the checkpoint to use: averaged, if the run kept an average."""
        return AVERAGED if self.record["optim.ema_decay"] else RAW

    @property
    def saved(self) -> Saved:
        """Where the parameters lie: of the whole network, or of the part of it that trained."""
        rank = self.record["adapter.rank"]
        base = self.folder.parents[1] / BASE if rank else None
        return Saved(self.folder, self.item, base, rank)

    @property
    def config(self) -> Any:
        """The architecture of that network."""
        return getattr(self.networks, self.name).config


def trained_network(stage: int) -> str:
    """The network that a stage trains: stage 0 fine-tunes the UNet, the others the ControlNet."""
    return "controlnet" if stage else "unet"


def is_run(folder: Path) -> bool:
    """Whether `folder` is, or looks like, the folder of a training run."""
    return (folder / CHECKPOINTS).is_dir()


def steps(run: Path) -> list[int]:
    """The optimizer steps of a run's complete checkpoints, rising."""
    return sorted(int(p.name) for p in (run / CHECKPOINTS).glob("*") if p.name.isdigit())


def find(run: Path, step: int | None = None) -> Trained:
    """What a run saved after `step` optimizer steps; the newest if None.

    Raises:
        UserError: No such checkpoint, or no readable record of the run's config; or what its
            adapter stands beside is missing.
    """
    found = steps(run)
    if not found or (step is not None and step not in found):
        raise UserError(
            f"the run {run} has no such checkpoint",
            expected=f"step {step}" if step is not None else "at least one complete checkpoint",
            got=", ".join(map(str, found)) or ("none" if run.is_dir() else "no such folder"),
            fix="take one of these steps" if found else "let the run reach its first save",
        )
    step = found[-1] if step is None else step
    trained = Trained(*_read(run / CONFIG_FILE), run / CHECKPOINTS / str(step), step)
    if trained.record["adapter.rank"]:
        require_base(run)
    return trained


def require_base(run: Path) -> None:
    """Refuses a run of an adapter that has lost what the adapter stands beside.

    Raises:
        UserError: The folder is not there.
    """
    if not (run / BASE).is_dir():
        raise UserError(
            f"the run {run} cannot be used without what its adapter stands beside",
            expected=f"the folder {run / BASE}, which the run wrote when it began",
            got="no such folder",
            fix="copy the whole folder of the run, or train it again in another --workdir",
        )


def _read(record: Path) -> tuple[Mapping[str, Any], str, Networks]:
    fix = "restore the file from the run that wrote it"
    content = json_file.read_object(record, fix)
    try:
        fields = dict(content["config"])
        for name, kind in READ_FIELDS.items():
            if not isinstance(fields[name], kind):
                raise TypeError(f"{name} is no {kind.__name__}")
        if not isinstance(content[UNET], str):
            raise TypeError(f"{UNET} is no str")
        return fields, content[UNET], build_networks(options_of(fields, "float32"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"cannot use {record}",
            expected="the record that training writes, with the whole config",
            got=f"{type(error).__name__}: {error}",
            fix=fix,
        ) from error
