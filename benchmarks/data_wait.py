"""Whether training waits for its data: `python -m benchmarks.data_wait`.

Trains tiny stage 1 on the shipped clips as a user does, and reads what the run itself has measured:
how long the loop waited for a batch, against how long a step took. Beside it, in the same process
and in turns with it, what reading and moving a batch takes where nothing runs meanwhile, which is
what a step would wait if nothing were read ahead.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from posetraj_jax import config_file, sharding, train
from posetraj_jax.data import pipeline
from posetraj_jax.sharding import MeshOptions
from posetraj_jax.training import options
from posetraj_jax.training.metrics import JSONL, read_jsonl

BAR = 0.01
"""Of a step, at most."""


def main(arguments: list[str] | None = None) -> float:
    """Trains in a temporary folder and prints; returns the share of a step that is waiting."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_wait", description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="after the first (%(default)s)")
    parser.add_argument("--variant", default="tiny", help="of stage 1 (%(default)s)")
    given = parser.parse_args(arguments)
    fields = {"steps": given.steps + 1, "log.every": 1, "log.tensorboard": False}
    fields |= {"eval.every": 10**9, "eval.clips": 1, "eval.noise_levels": 1, "sample.clips": 0}
    c = config_file.load(
        f"stage1:{given.variant}", {name: str(value) for name, value in fields.items()}
    )
    alone = _seconds_of_a_batch(c, given.steps)
    with tempfile.TemporaryDirectory() as folder:
        train.run(c, Path(folder) / "run")
        rows = [row for row in read_jsonl(Path(folder) / "run" / JSONL) if row.get("time/step")]
    step = float(np.mean([row["time/step"] for row in rows]))
    waited = float(np.mean([row["time/data"] for row in rows]))
    print(f"\n{len(rows)} steps of {step:.3f} s")
    print(f"a batch, nothing else running: {1e3 * alone:8.3f} ms, {alone / step:.3%} of a step")
    print(f"waited for, read ahead:        {1e3 * waited:8.3f} ms; the bar is {BAR:.0%} of a step")
    print(f"data wait / step: {waited / step:.3%}")
    return waited / step


def _seconds_of_a_batch(c: ConfigDict, count: int) -> float:
    """The median of reading a batch and moving it to the devices, without Grain's own read-ahead.

    Grain reads ahead on its own; the first batches after a start are not ready yet.
    """
    mesh = sharding.make_mesh(MeshOptions(**c.mesh))
    seconds = []
    for _ in range(min(count, 10)):
        batches = pipeline.train_batches(options.from_config(c).data)
        began = time.perf_counter()
        jax.block_until_ready(sharding.put_batch(next(batches), mesh))
        seconds.append(time.perf_counter() - began)
        batches.close()
    return float(np.median(seconds))


if __name__ == "__main__":
    main()
