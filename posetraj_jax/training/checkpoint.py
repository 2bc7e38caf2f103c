"""Checkpoints of a run: each part is a separate Orbax item, so inference reads parameters only."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from posetraj_jax import hosts, sharding
from posetraj_jax.errors import UserError
from posetraj_jax.training.state import TrainState

PARTS = ("params", "opt_state", "ema")


class Checkpoints:
    """The checkpoints under one folder, newest `keep` of them. Close it, or use it in `with`.

    All processes of a run have one of the same folder, and call everything together: each writes
    and reads the parts of its devices.
    """

    def __init__(self, folder: Path, keep: int):
        self._folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = _Manager(self._folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._manager.close()

    def latest_step(self) -> int | None:
        """The optimizer step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, batches: Any, config: dict[str, Any]) -> None:
        """Starts writing a checkpoint; it counts only once it is complete.

        Args:
          batches: the data iterator; its position, the same in all processes, is saved too.
          config: the flattened config, kept beside the numbers.

        Raises:
          UserError: too little disk space, or the disk refused an earlier or this checkpoint. The
            checkpoints before it are untouched.
        """
        step = int(state.step)
        if step == self.latest_step():
            return
        self._require_space(state)
        parts = {part: ocp.args.StandardSave(tree) for part, tree in _parts(state).items()}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **parts,
                    data=ocp.args.JsonSave(batches.get_state()),
                    config=ocp.args.JsonSave(config),
                ),
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise self._write_error(error) from error

    def wait(self) -> None:
        """Blocks until every started checkpoint is complete; raises UserError if one failed."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._write_error(error) from error

    def restore(self, abstract: TrainState, batches: Any) -> TrainState:
        """Reads the newest checkpoint straight onto its devices, whatever mesh wrote it.

        Args:
          abstract: ShapeDtypeStructs with shardings, from `state.lay_out`.
          batches: the data iterator; it is moved to where the checkpoint was written.

        Raises:
          UserError: the checkpoint cannot be read, or its position is of other data.
        """
        step = hosts.told("checkpoint to read", self.latest_step)
        parts = {part: ocp.args.StandardRestore(tree) for part, tree in _parts(abstract).items()}
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(**parts, data=ocp.args.JsonRestore()),
            )
        except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
            raise UserError(
                f"cannot read the checkpoint {self._folder / str(step)}",
                expected="a complete checkpoint of this config's networks",
                got=f"{type(error).__name__}: {error}".splitlines()[0],
                fix="remove this checkpoint to resume from the one before, or use another workdir",
            ) from error
        batches.set_state(restored["data"])
        number = np.asarray(step, abstract.step.dtype)
        number = sharding.put_whole(number, abstract.step.sharding)
        return abstract._replace(step=number, **{part: restored[part] for part in parts})

    def _require_space(self, state: TrainState) -> None:
        leaves = jax.tree.leaves(_parts(state))
        needed = sum(leaf.nbytes for leaf in leaves)
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise self._write_error(OSError(f"{free / 1e6:,.0f} MB are free"), needed)

    def _write_error(self, error: Exception, needed: int | None = None) -> UserError:
        wanted = "room for the checkpoint" + (f", {needed / 1e6:,.0f} MB" if needed else "")
        return UserError(
            f"cannot write a checkpoint to {self._folder}",
            expected=f"a writable disk with {wanted}",
            got=f"{error}".splitlines()[0],
            fix="free some space and run the same command again: it resumes from step "
            f"{self.latest_step() or 0}",
        )


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        return False  # `StopNotice` asks JAX, and counts: a question with another number confuses


def _parts(state: TrainState) -> dict[str, Any]:
    """The trees of a checkpoint by name, without those that the run does not have."""
    parts = {part: getattr(state, part) for part in PARTS}
    return {part: tree for part, tree in parts.items() if jax.tree.leaves(tree)}
