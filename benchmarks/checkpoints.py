"""What checkpoints cost: `python -m benchmarks.checkpoints`.

Trains tiny stage 1 on the shipped clips as a user does, and saves every few steps. The loop stands
still while the numbers are copied; they are written while it goes on. Both are in the run's own
metrics: the time of the call, and the steps after it, which may be slower while the disk is busy.
Beside it, a state of the same shapes is saved and waited for, read back, and its files are read
plainly. On a CPU the writing shares cores with the steps, and the copy is one of memory; on an
accelerator the copy goes over its link. What was just written is read from memory, not from disk.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
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
        alone = _alone(c, Path(folder) / "alone" / runs.CHECKPOINTS)
    saved = range(EVERY, given.saves * EVERY + 1, EVERY)
    stalls = [rows[step + 1]["time/checkpoint"] for step in saved]
    after = [rows[step + number]["time/step"] for step in saved for number in (1, 2)]
    quiet = [rows[step - number]["time/step"] for step in saved for number in (0, 1, 2)]
    step, stall = float(np.median(quiet)), float(np.median(stalls))
    print(f"\n{len(stalls)} checkpoints of {alone.size / 1e6:.0f} MB; a step takes {step:.3f} s")
    print(f"a step while it is written:     {np.median(after):.3f} s")
    print(f"the call, of each checkpoint:   {', '.join(f'{s:.3f}' for s in stalls)} s")
    print(f"saved and waited for:           {alone.saved:.3f} s, {alone.saved / step:.2f} steps")
    print(f"restored:                       {alone.restored:.3f} s")
    print(f"its files only read:            {alone.read:.3f} s")
    print(f"restored / read: {alone.restored / alone.read:.1f}")
    print(f"stall / step: {stall / step:.3f}")
    return stall / step


class Alone(NamedTuple):
    """A checkpoint while nothing else runs."""

    size: int
    """bytes"""
    saved: float
    """seconds, as the next two"""
    restored: float
    read: float


def _alone(c: ConfigDict, folder: Path) -> Alone:
    """Saves a state of the run's shapes, restores it, and reads its files."""
    o, mesh = options.from_config(c), make_mesh(MeshOptions(**c.mesh))
    program = make_program(build_networks(o.model), mesh, o.initial, o.step)
    state = jax.block_until_ready(_random(program.state))
    with Checkpoints(folder, 1) as checkpoints:
        saved = _seconds(lambda: (checkpoints.save(state, _place(), {}), checkpoints.wait()))
    with Checkpoints(folder, 1) as checkpoints:
        restored = _seconds(lambda: checkpoints.restore(program.state, _place()))
    files = [path for path in folder.rglob("*") if path.is_file()]
    read = _seconds(lambda: [path.read_bytes() for path in files])
    return Alone(sum(leaf.nbytes for leaf in jax.tree.leaves(state)), saved, restored, read)


def _random(abstract: TrainState) -> TrainState:
    """A state of random numbers, since zeros would be compressed away."""

    def drawn(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        numbers = np.random.default_rng(leaf.size).standard_normal(leaf.shape, np.float32)
        return jax.device_put(numbers.astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(drawn, abstract)._replace(step=jnp.int32(1))


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - began


def _place() -> grain.DatasetIterator:
    """Stands in for the data: nothing is read here."""
    return iter(grain.MapDataset.range(1).to_iter_dataset())


if __name__ == "__main__":
    main()
