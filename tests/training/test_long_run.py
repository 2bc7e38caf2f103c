"""A run of thousands of steps neither grows nor compiles again."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from posetraj_jax.training.metrics import read_jsonl
from tests import quick

ROOT = Path(__file__).parents[2]
STEPS, SETTLED = 2000, 200
MOST_GROWTH = 0.02
FIELDS = {
    "batch_size": 1,
    "steps": STEPS,
    "log.every": 20,
    "save.every": 200,
    "save.keep": 1,
    "eval.every": 500,
    "eval.clips": 1,
    "eval.noise_levels": 1,
    "sample.clips": 0,
}


@pytest.mark.full
def test_memory_stays_flat_and_the_step_is_compiled_once(tmp_path):
    """With data, logs, evaluations and checkpoints, as a user trains; memory is the process's own.

    Medians of 10 rows each, both from a checkpoint on: what the allocator has at one moment, and
    what it keeps after writing, is noise.
    """
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    command = ["-m", "posetraj_jax.train", "--config", "stage1:micro", *fields]
    done = subprocess.run(
        [sys.executable, *command, "--workdir", str(tmp_path / "run")],
        env=os.environ | {"XLA_FLAGS": quick.XLA_FLAGS},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [row for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if row["step"]]
    settled = [row["memory/host"] for row in rows if SETTLED <= row["step"] < SETTLED + 200]
    last = [row["memory/host"] for row in rows if STEPS - 200 <= row["step"] < STEPS]
    assert len(settled) == len(last) == 10
    growth = np.median(last) / np.median(settled) - 1
    print(
        f"{STEPS} steps: {np.median(settled) / 1e6:.1f} MB from step {SETTLED} on, "
        f"{np.median(last) / 1e6:.1f} MB at the end: {growth:+.2%}"
    )
    assert growth < MOST_GROWTH
    assert {row["compilations"] for row in rows} == {1}
