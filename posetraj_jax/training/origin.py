"""What an earlier run offers to start from, and whether it fits: `init_from` of the config."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from posetraj_jax import runs, weights
from posetraj_jax.errors import UserError, listed
from posetraj_jax.models.controlnet import ControlNetConfig
from posetraj_jax.models.networks import Networks
from posetraj_jax.saved import Saved

MAY_DIFFER = ("camera", "camera_encoder", "camera_init", "temporal_context")
"""Fields of the architecture that may differ from an earlier stage's."""


@dataclass(frozen=True)
class InitialOptions:
    """Fields of the config that say where parameters come from; see there."""

    stage: int
    init_from: str
    init_stages: tuple[int, ...]
    trainable: str
    rank: int
    """Of an adapter's factors; 0 where everything in `trainable` trains."""
    weights: str
    seed: int
    copy_add_embedding: bool

    @property
    def trained(self) -> str:
        """The network that trains, or of which a part does: a field of `Networks`."""
        return runs.trained_network(self.stage)


class Origin(NamedTuple):
    """Trained parameters to start from."""

    saved: Saved
    unet: str | None
    """Digest of the UNet beside which they were trained; None if that is not known."""


def find_origin(options: InitialOptions, networks: Networks) -> Origin | None:
    """What `init_from` names, checked as far as is possible without reading a number.

    It may name the folder of a run, whose last checkpoint is taken, one of its checkpoints, or a
    converted component; None if it is empty.

    Raises:
      UserError: there is nothing, or nothing that fits; all problems at once.
    """
    if not options.init_from:
        return None
    path = Path(options.init_from).expanduser()
    in_checkpoint = path.parent.name == runs.CHECKPOINTS and path.name.isdigit()
    if runs.is_run(path) or (in_checkpoint and path.is_dir()):
        return _from_run(path, options, networks, in_checkpoint)
    if (path / weights.PARAMS).is_dir() and options.trained == "controlnet":
        stored = weights.load_config(path, ControlNetConfig)
        _refuse(path, _architecture_problems(stored, networks.controlnet.config))
        return Origin(Saved(path), unet=None)
    raise UserError(
        f"init_from = {options.init_from} cannot be started from",
        expected="the folder of a run, one of its checkpoints (RUN/checkpoints/STEP), or a "
        "converted ControlNet",
        got="another folder" if path.is_dir() else "a file" if path.exists() else "no such folder",
        fix="train the earlier stage first, or name its folder with --config.init_from=RUN; "
        "--config.init_from= starts without",
    )


def _from_run(
    path: Path, options: InitialOptions, networks: Networks, in_checkpoint: bool
) -> Origin:
    run = path.parent.parent if in_checkpoint else path
    trained = runs.find(run, int(path.name) if in_checkpoint else None)
    record, problems = trained.record, []
    if not in_checkpoint and trained.step < record["steps"]:
        problems.append(
            f"it has reached step {trained.step} of {record['steps']}: run its command again "
            f"until it ends, or name a checkpoint: {trained.folder}"
        )
    if record["stage"] not in options.init_stages:
        wanted = " or ".join(map(str, options.init_stages))
        problems.append(
            f"it is of stage {record['stage']}, not {wanted} (--config.init_stages allows others)"
        )
    if trained.name == options.trained:
        wanted = getattr(networks, trained.name).config
        problems += _architecture_problems(trained.config, wanted)
    else:
        problems.append(
            f"it trained the {trained.name}, and this stage trains the {options.trained}"
        )
    problems += _frozen_problems(record, options)
    saved = trained.saved
    if not (saved.folder / saved.item).is_dir():
        problems.append(f"{saved.folder} is damaged: it has no {saved.item}; name another one")
    _refuse(path, problems)
    return Origin(saved, trained.unet)


def require_same_unet(origin: Origin | None, unet: str) -> None:
    """Refuses an `origin` that was trained beside another UNet than the one with digest `unet`.

    Raises:
      UserError: the digests differ; those of UNets that are drawn are empty.
    """
    if origin is not None and origin.unet not in (None, unet):
        digests = f"{_short(origin.unet)}, not {_short(unet)}"
        _refuse(origin.saved.folder, [f"weights: its UNet had other numbers (digest {digests})"])


def _short(digest: str) -> str:
    return digest[:12] or "none: drawn at random"


def _architecture_problems(stored: Any, wanted: Any) -> list[str]:
    stored, wanted = asdict(stored), asdict(wanted)
    problems = [
        f"{name}: {stored[name]!r}, not {value!r}"
        for name, value in wanted.items()
        if stored[name] != value and name not in MAY_DIFFER
    ]
    if stored.get("camera") and not wanted["camera"]:
        problems.append("it has a camera branch, and camera.enabled is False")
    elif stored.get("camera") and stored["camera_encoder"] != wanted["camera_encoder"]:
        problems.append(f"camera.encoder: {stored['camera_encoder']!r}")
    return problems


def _frozen_problems(record: Mapping[str, Any], options: InitialOptions) -> list[str]:
    """What was trained beside other frozen networks does not fit; random ones follow the seed."""
    if bool(record["weights"]) != bool(options.weights):
        return [f"its frozen networks are weights = {record['weights']!r}"]
    if not options.weights and record["seed"] != options.seed:
        return [f"its frozen networks are drawn with seed {record['seed']}, not {options.seed}"]
    return []


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise UserError(
            f"this run cannot start from {path}",
            expected="a finished run of the stage before, of the same networks",
            got=listed(problems),
            fix="correct init_from, or the fields that differ",
        )
