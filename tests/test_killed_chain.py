"""One chain of the three stages, killed again and again, against one that nothing disturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from posetraj_jax import runs, stages
from tests import quick

ROOT = Path(__file__).parents[1]
KILLS, SEED = 20, 0
STEPS = 36
RUNS = ("stage1-micro", "stage2-micro", "stage3-micro")


@pytest.fixture(scope="module")
def make_stages(tmp_path_factory):
    """`make stages` on the smallest networks; programs are compiled once and then kept."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / ".core").touch()  # this very Python is the environment: nothing is to be installed
    environment = {
        **os.environ,
        "XLA_FLAGS": quick.XLA_FLAGS,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(target: Path) -> subprocess.Popen:
        command = ["make", "stages", f"VENV={folder}", f"BIN={Path(sys.executable).parent}"]
        return subprocess.Popen(
            [*command, "VARIANT=micro", f"RUNS={target}", f"FLAGS=--config.steps={STEPS}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def finish(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, printed[-3000:]
    return printed


def parameters(run: Path) -> dict:
    trained = runs.find(run)
    assert trained.step == trained.record["steps"]
    with ocp.StandardCheckpointer() as checkpointer:
        parts = (runs.RAW, runs.AVERAGED, "opt_state")
        return {part: checkpointer.restore(trained.folder / part) for part in parts}


def checkpoints(target: Path) -> list[int]:
    """The newest step of each stage."""
    return [(runs.steps(target / run) or [0])[-1] for run in RUNS]


def wait_for_progress(process: subprocess.Popen, target: Path, steps: int) -> bool:
    """Until the stages together have saved so many steps; whether that took any time."""
    waited = False
    while sum(checkpoints(target)) < steps:
        assert process.poll() is None, "the chain ended before it was killed often enough"
        time.sleep(0.02)
        waited = True
    return waited


def kill_moments() -> Iterator[tuple[int, float, float]]:
    """After how many saved steps to kill, and how many seconds later: if these steps were just
    saved, and if they were there from the start, so that the kill may fall into starting."""
    moments = random.Random(SEED)
    last = len(RUNS) * STEPS - 12  # else the chain could end first
    for steps in sorted(moments.sample(range(last), KILLS)):
        yield steps, moments.uniform(0.0, 0.5), moments.uniform(0.0, 12.0)


@pytest.mark.full
def test_a_chain_killed_twenty_times_ends_as_one_that_was_not(make_stages, tmp_path):
    table = finish(make_stages(tmp_path / "straight"))
    rows = [stages.read_row(tmp_path / "straight" / run) for run in RUNS]
    assert all(row.after < row.before for row in rows), table
    reached = []
    for steps, soon, while_starting in kill_moments():
        process = make_stages(tmp_path / "killed")
        waited = wait_for_progress(process, tmp_path / "killed", steps)
        time.sleep(soon if waited else while_starting)
        assert process.poll() is None, "the chain ended before it was killed often enough"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        reached.append(checkpoints(tmp_path / "killed"))
    print(f"steps of the three stages at each kill: {reached}")
    finished = {steps.count(STEPS) for steps in reached}
    assert finished == {0, 1, 2}, "no kill fell into one of the stages"
    assert finish(make_stages(tmp_path / "killed")).splitlines()[-4:] == table.splitlines()[-4:]
    for run in RUNS:
        straight, killed = (parameters(tmp_path / name / run) for name in ("straight", "killed"))
        jax.tree.map(np.testing.assert_array_equal, straight, killed)
