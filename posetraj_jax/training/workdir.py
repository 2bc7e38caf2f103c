"""The folder of a run: who may use it, and the record of what made it."""

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from posetraj_jax import config_rules, hosts, json_file, provenance, tree, weights
from posetraj_jax.errors import UserError, listed
from posetraj_jax.new_folder import new_folder
from posetraj_jax.nn.build import Network
from posetraj_jax.runs import BASE, CONFIG_FILE, UNET, require_base

SHARED_WITHIN_S = 20
"""Network file systems show a new file to other hosts after some seconds."""


def check(workdir: Path, flat_config: dict[str, Any]) -> None:
    """Finds out, changing nothing, whether `claim` will succeed; all processes of a run together.

    Raises:
      UserError: not writable, a path Orbax cannot use, another config's run, or not the same
        folder in all processes.
    """
    weights.require_plain_path(workdir)
    try:
        if (workdir / CONFIG_FILE).exists():
            _refuse_changes(workdir / CONFIG_FILE, flat_config)
        nearest = next(p for p in (workdir, *workdir.absolute().parents) if p.exists())
        with tempfile.TemporaryDirectory(dir=nearest):
            pass
        _require_shared(workdir, nearest)
    except OSError as error:
        raise _not_writable(workdir, error) from error


def _require_shared(workdir: Path, nearest: Path) -> None:
    """Refuses a folder in which what process 0 makes does not appear in all processes.

    Args:
      nearest: the folder itself, or the nearest one above it that exists.
    """
    # A process that cannot write has said so before process 0 makes what it will have to remove.
    hosts.gathered("workdir is writable", True)
    with ExitStack() as made:
        make = partial(tempfile.TemporaryDirectory, dir=nearest)
        probe = hosts.told("made in the workdir", lambda: Path(made.enter_context(make())).name)
        deadline = time.monotonic() + SHARED_WITHIN_S
        while not (nearest / probe).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        seen = hosts.gathered("workdir is shared", (nearest / probe).exists())
    if not all(seen):
        apart = ", ".join(str(process) for process, found in enumerate(seen) if not found)
        raise UserError(
            f"the workdir {workdir} is not the same folder on all hosts",
            expected="storage that all hosts share: each writes its part of a checkpoint",
            got=f"what process 0 makes in {nearest} does not appear to: {apart}",
            fix="give a folder on shared storage with --workdir",
        )


def claim(workdir: Path, flat_config: dict[str, Any], unet: str | None = None) -> None:
    """Makes the folder for a run, or checks that the run in it is this one.

    Writes the resolved config, the UNet's digest, library versions and the git revision to
    config.json, in process 0.

    Args:
      unet: digest of the UNet that was given, "" if it is drawn; None in a run that goes no
        further, which keeps what it has recorded.

    Raises:
      UserError: the run in it is of another config, or was trained with another UNet; then nothing
        has been changed. Or the folder is not writable.
    """
    if (workdir / CONFIG_FILE).exists():
        _refuse_changes(workdir / CONFIG_FILE, flat_config)
        recorded = _recorded(workdir / CONFIG_FILE)[UNET]
        if unet is not None and unet != recorded:
            raise _other_unet(workdir, flat_config["weights"], recorded, unet)
        unet = recorded
    if hosts.is_writer():
        record = {"config": flat_config, UNET: unet, "made_with": provenance.made_with()}
        _write(workdir, json.dumps(record, indent=2) + "\n")


def _write(workdir: Path, text: str) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        partial = workdir / f".{CONFIG_FILE}.partial"
        partial.write_text(text)
        partial.rename(workdir / CONFIG_FILE)
    except OSError as error:
        raise _not_writable(workdir, error) from error


def keep_base(workdir: Path, base: tree.Tree, controlnet: Network | None) -> None:
    """Writes what an adapter stands beside, once for all checkpoints; nothing without an adapter.

    So the run needs nothing of the run that it started from. What a start that was killed has left
    is replaced.

    Raises:
      UserError: the system refuses to write.
    """
    if not base:
        return
    if (workdir / BASE).is_dir():
        shutil.rmtree(workdir / BASE)
    with new_folder(workdir / BASE, tree.num_bytes(base)) as folder:
        weights.save(base, dataclasses.asdict(controlnet.config), folder)


def load_base(workdir: Path, abstract: tree.Tree) -> tree.Tree:
    """What `keep_base` wrote; {} for {}.

    Raises:
      UserError: it is not there any more, or cannot be read.
    """
    if not abstract:
        return {}
    require_base(workdir)
    return weights.load(workdir / BASE, abstract)


@contextmanager
def writing(workdir: Path) -> Iterator[None]:
    """Turns whatever the system refuses during a run (metrics, pictures) into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the run in {workdir} could not read or write a file",
            expected="a disk with space and permission",
            got=f"{type(error).__name__}: {error}",
            fix="mend what the line above names and run the same command again: it resumes",
        ) from error


def _not_writable(workdir: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to the workdir {workdir}",
        expected="a folder that can be made or written to",
        got=f"{type(error).__name__}: {error}",
        fix="free some space or mend the permissions, or give another folder with --workdir",
    )


def _other_unet(workdir: Path, folder: str, recorded: str, unet: str) -> UserError:
    return UserError(
        f"the run in {workdir} was trained with another UNet",
        expected=f"numbers with the digest {recorded or '(none: drawn at random)'}",
        got=f"{unet or '(none: drawn at random)'} in weights = {folder}",
        fix="put the weights back that the run began with, or start anew with another --workdir",
    )


def _recorded(record: Path) -> dict[str, Any]:
    """The whole record of a run, with the keys that are read."""
    fix = "restore the file, or start a new run with another --workdir"
    content = json_file.read_object(record, fix)
    try:
        return content | {"config": dict(content["config"]), UNET: str(content[UNET])}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"cannot read {record}",
            expected="the config.json that a run writes",
            got=f"{type(error).__name__}: {error}",
            fix=fix,
        ) from error


def _refuse_changes(record: Path, flat_config: dict[str, Any]) -> None:
    changed = config_rules.changed_fields(_recorded(record)["config"], flat_config)
    if changed:
        raise UserError(
            f"the workdir {record.parent} holds a run of a different config",
            expected="the same values; only "
            + ", ".join(config_rules.MAY_DIFFER_ON_RESUME)
            + " may differ",
            got=listed(changed),
            fix="rerun the old command to resume, or start anew with another --workdir",
        )
