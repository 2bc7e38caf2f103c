"""The folder of a run: who may use it, and the record of what made it."""

import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from posetraj_jax import config
from posetraj_jax.errors import UserError, listed

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
RECORDED_PACKAGES = ("posetraj_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


def claim(workdir: Path, flat_config: dict[str, Any]) -> None:
    """Makes the folder for a run, or checks that the run in it is this one.

    Writes the resolved config, library versions and the git revision to config.json.

    Raises:
      UserError: not writable, or another config's run; then nothing has been changed.
    """
    record = workdir / CONFIG_FILE
    if record.exists():
        _refuse_changes(record, flat_config)
    text = json.dumps({"config": flat_config, "made_with": _provenance()}, indent=2) + "\n"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        partial = record.with_suffix(".partial")
        partial.write_text(text)
        partial.rename(record)
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {workdir}",
            expected="a folder that can be made or written to",
            got=f"{type(error).__name__}: {error}",
            fix="give another folder with --workdir",
        ) from error


def _refuse_changes(record: Path, flat_config: dict[str, Any]) -> None:
    try:
        saved = json.loads(record.read_text())["config"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read {record}",
            expected="the config.json that a run writes",
            got=f"{type(error).__name__}: {error}",
            fix="restore the file, or start a new run with another --workdir",
        ) from error
    changed = config.changed_fields(saved, flat_config)
    if changed:
        raise UserError(
            f"the workdir {record.parent} holds a run of a different config",
            expected="the same values; only "
            + ", ".join(config.MAY_DIFFER_ON_RESUME)
            + " may differ",
            got=listed(changed),
            fix="rerun the old command to resume, or start anew with another --workdir",
        )


def _provenance() -> dict[str, str]:
    made_with = {}
    for package in RECORDED_PACKAGES:
        try:
            made_with[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            made_with[package] = "not installed"
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    made_with["git"] = git.stdout.strip() or "not a checkout"
    return made_with
