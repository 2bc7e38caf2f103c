"""How long training stands still for a checkpoint: `python -m benchmarks.checkpoint_stall`.

Trains tiny stage 1 on the shipped clips as a user does, and saves every few steps. The loop stands
still while the numbers are copied; they are written while it goes on. Both are in the run's own
metrics: the time of the call, and the steps after it, which may be slower while the disk is busy.
Beside it, the same state is saved and waited for. On a CPU the writing shares cores with the steps,
and the copy is one of memory; on an accelerator the copy goes over its link.
"""

import argparse
import tempfile
import time
from pathlib import Path

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from posetraj_jax import config_file, runs, train
from posetraj_jax.models.networks import build_networks
from posetraj_jax.sharding import MeshOptions, make_mesh
from posetraj_jax.training import options
from posetraj_jax.training.checkpoint import Checkpoints
from posetraj_jax.training.metrics import JSONL, read_jsonl
from posetraj_jax.training.program import make_program
from posetraj_jax.training.state import TrainState

EVERY = 8
"""Steps: the first two after a save are compared with the last three before the next."""


def main(arguments: list[str] | None = None) -> float:
    """Trains in a temporary folder and prints; returns the stall in steps."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpoint_stall", description=__doc__
    )
    parser.add_argument("--saves", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--variant", default="tiny", help="of stage 1 (%(default)s)")
    given = parser.parse_args(arguments)
    fields = {"steps": (given.saves + 1) * EVERY, "save.every": EVERY, "save.keep": 1}
    fields |= {"log.every": 1, "log.tensorboard": False, "sample.clips": 0}
    fields |= {"eval.every": 10**9, "eval.clips": 1, "eval.noise_levels": 1}
    c = config_file.load(
        f"stage1:{given.variant}", {name: str(value) for name, value in fields.items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        train.run(c, Path(folder) / "run")
        rows = {row["step"]: row for row in read_jsonl(Path(folder) / "run" / JSONL)}
        waited, size = _seconds_of_waiting(c, Path(folder) / "run" / runs.CHECKPOINTS)
    saved = range(EVERY, given.saves * EVERY + 1, EVERY)
    stalls = [rows[step + 1]["time/checkpoint"] for step in saved]
    after = [rows[step + number]["time/step"] for step in saved for number in (1, 2)]
    quiet = [rows[step - number]["time/step"] for step in saved for number in (0, 1, 2)]
    step, stall = float(np.median(quiet)), float(np.median(stalls))
    print(f"\n{len(stalls)} checkpoints of {size / 1e6:.0f} MB; a step takes {step:.3f} s")
    print(f"a step while it is written:     {np.median(after):.3f} s")
    print(f"the call, of each checkpoint:   {', '.join(f'{s:.3f}' for s in stalls)} s")
    print(f"saved and waited for:           {waited:.3f} s, {waited / step:.2f} steps")
    print(f"stall / step: {stall / step:.3f}")
    return stall / step


def _seconds_of_waiting(c: ConfigDict, folder: Path) -> tuple[float, int]:
    """What a save takes whose end is waited for, and the bytes of the state."""
    o, mesh = options.from_config(c), make_mesh(MeshOptions(**c.mesh))
    program = make_program(build_networks(o.model), mesh, o.initial, o.step)
    zeros = jax.jit(
        lambda: jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), program.state),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, program.state),
    )
    state: TrainState = jax.block_until_ready(zeros())
    with Checkpoints(folder.with_name("waited"), 1) as checkpoints:
        began = time.perf_counter()
        checkpoints.save(state._replace(step=jax.numpy.int32(1)), _place(), {})
        checkpoints.wait()
        seconds = time.perf_counter() - began
    return seconds, sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _place() -> grain.DatasetIterator:
    """Stands in for the data: nothing is read here."""
    return iter(grain.MapDataset.range(1).to_iter_dataset())


if __name__ == "__main__":
    main()
