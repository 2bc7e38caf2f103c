"""Training itself in several processes, as on a pod: equal to one, and safe to stop and to kill."""

import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from posetraj_jax import config_file, runs
from posetraj_jax.errors import EXIT_LOST_PROCESS
from posetraj_jax.models.networks import ModelOptions, build_networks
from posetraj_jax.training import options
from posetraj_jax.training.checkpoint import Checkpoints
from posetraj_jax.training.metrics import read_jsonl
from posetraj_jax.training.program import make_program
from tests.host_group import HostGroup
from tests.meshes import mesh_of, one_device
from tests.runs import write_run

pytestmark = pytest.mark.full
SMALL = {"log.every": 1, "eval.every": 3, "eval.clips": 2, "sample.clips": 1, "sample.steps": 2}
SPEC = "configs/stage3.py:micro"


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """One cache of compiled programs for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
        yield


@pytest.fixture(scope="module")
def stage2(tmp_path_factory):
    """A finished run of stage 2, for stage 3 to start from."""
    shapes = build_networks(ModelOptions("micro", (1,) * 4)).controlnet.abstract()
    folder = tmp_path_factory.mktemp("runs") / "stage2"
    return write_run(folder, "stage2:micro", shapes, unit=-1e-3, steps="10")


def start(workdir: Path, stage2: Path, *, count: int, devices: int, **fields) -> HostGroup:
    chosen = {**SMALL, "init_from": stage2, **fields}
    overrides = [f"--config.{name}={value}" for name, value in chosen.items()]
    arguments = ["-m", "posetraj_jax.train", "--config", SPEC, "--workdir", str(workdir)]
    folder = workdir.with_name(f"{workdir.name}-{time.monotonic_ns()}")
    return HostGroup([*arguments, *overrides], folder, count=count, devices=devices)


def finish(*args, **fields) -> None:
    with start(*args, **fields) as group:
        assert group.codes(seconds=900) == [0] * len(group.processes), group.said()


def losses(workdir: Path) -> dict[int, float]:
    rows = read_jsonl(workdir / "metrics.jsonl")
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def evaluated(workdir: Path) -> list[float]:
    rows = read_jsonl(workdir / "metrics.jsonl")
    return [row["eval/loss"] for row in rows if "eval/loss" in row]


class Position:
    def set_state(self, state):
        self.state = state


def restored(workdir: Path, mesh) -> tuple:
    """The newest state and data position, read by this one process."""
    o = options.from_config(config_file.load(SPEC))
    program = make_program(build_networks(o.model), mesh, o.initial, o.step)
    position = Position()
    with Checkpoints(workdir / runs.CHECKPOINTS, keep=9) as checkpoints:
        return jax.device_get(checkpoints.restore(program.state, position)), position.state


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_two_processes_of_four_devices_equal_one_of_eight(stage2, tmp_path):
    """Losses, evaluations and data; the checkpoint of either is read by any, and trained on."""
    one, two = tmp_path / "one", tmp_path / "two"
    mesh = {"batch_size": 8, "mesh.fsdp": 4}
    finish(one, stage2, count=1, devices=8, steps=3, **mesh)
    finish(two, stage2, count=2, devices=4, steps=3, **mesh)
    assert sorted(losses(one)) == [1, 2, 3]
    np.testing.assert_allclose(list(losses(two).values()), list(losses(one).values()), atol=1e-5)
    np.testing.assert_allclose(evaluated(two), evaluated(one), atol=1e-5)
    assert len(list(two.glob("samples/step_000003/*.gif"))) == 1
    whole, position = restored(two, mesh_of(2, 4))
    assert_same(whole, restored(two, one_device())[0])
    assert position == restored(one, one_device())[1]
    finish(one, stage2, count=2, devices=4, steps=5, **mesh)
    finish(two, stage2, count=1, devices=8, steps=5, **mesh)
    np.testing.assert_allclose(list(losses(two).values()), list(losses(one).values()), atol=1e-4)
    assert sorted(losses(one)) == sorted(losses(two)) == [1, 2, 3, 4, 5]
    assert restored(one, one_device())[1] == restored(two, one_device())[1]


@pytest.fixture(scope="module")
def undisturbed(stage2, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(workdir, stage2, count=2, devices=1, **LONG)
    return workdir


LONG = {"steps": 24, "save.every": 3, "batch_size": 2, "eval.every": 24}


@pytest.mark.parametrize("killed", [1, 0])
def test_a_killed_process_is_named_within_a_minute_and_the_run_continues_exactly(
    undisturbed, stage2, tmp_path, killed
):
    run = tmp_path / "run"
    with start(run, stage2, count=2, devices=1, **LONG) as group:
        group.wait_until(lambda: bool(runs.steps(run)), seconds=600)
        group.send(killed, signal.SIGKILL)
        began = time.monotonic()
        codes = group.codes(seconds=60)
        print(f"ended after {time.monotonic() - began:.1f} s")
    assert codes == [EXIT_LOST_PROCESS if i != killed else -signal.SIGKILL for i in (0, 1)]
    said = group.errors[1 - killed].read_text()
    assert f"error: process {killed} of this run cannot be reached any more" in said
    assert runs.steps(run)[-1] < 24
    finish(run, stage2, count=2, devices=1, **LONG)
    assert losses(run) == losses(undisturbed)
    assert_same(restored(run, one_device()), restored(undisturbed, one_device()))


def test_sigterm_to_one_saves_in_all_and_the_run_continues_exactly(undisturbed, stage2, tmp_path):
    run = tmp_path / "run"
    with start(run, stage2, count=2, devices=1, **LONG) as group:
        group.wait_until(lambda: 4 in losses(run), seconds=600)
        group.send(1, signal.SIGTERM)
        assert group.codes(seconds=120) == [143, 143], group.said()
    stopped = runs.steps(run)[-1]
    assert 4 <= stopped < 24
    assert max(losses(run)) == stopped
    finish(run, stage2, count=2, devices=1, **LONG)
    assert losses(run) == losses(undisturbed)
    assert_same(restored(run, one_device()), restored(undisturbed, one_device()))


def test_mistakes_before_training_leave_nobody_waiting(stage2, tmp_path):
    with start(tmp_path / "run", stage2, count=2, devices=1, batch_size=3) as group:
        assert group.codes(seconds=60) == [2, 2]
    assert all("batch_size = 3" in path.read_text() for path in group.errors)
    assert not (tmp_path / "run").exists()
