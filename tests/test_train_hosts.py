"""Training itself in several processes, as on a pod: equal to one, and safe to stop and to kill."""

import dataclasses
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from posetraj_jax import config_file, runs, tree, weights
from posetraj_jax.errors import EXIT_LOST_PROCESS
from posetraj_jax.models.networks import ModelOptions, build_networks
from posetraj_jax.training import options
from posetraj_jax.training.checkpoint import Checkpoints
from posetraj_jax.training.metrics import read_jsonl
from posetraj_jax.training.program import TrainProgram, make_program
from tests.host_group import HostGroup
from tests.meshes import mesh_of, one_device
from tests.training.conftest import redrawn

pytestmark = pytest.mark.full
SMALL = {"log.every": 1, "eval.every": 3, "eval.clips": 2, "sample.clips": 1, "sample.steps": 2}
SPEC = "configs/stage3.py:micro"
OF_EIGHT = {"batch_size": 8, "mesh.fsdp": 4, "save.every": 1, "optim.warmup_steps": 0}


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """One cache of compiled programs for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
        yield


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory):
    """A ControlNet to start from, without the zeros that would hide almost every gradient."""
    network = build_networks(ModelOptions("micro", (1,) * 4)).controlnet
    folder = tmp_path_factory.mktemp("weights") / "controlnet"
    params = redrawn(network.init(jax.random.key(0)))
    weights.save(params, dataclasses.asdict(network.config), folder)
    return folder


def start(workdir: Path, controlnet: Path, *, count: int, devices: int, **fields) -> HostGroup:
    chosen = {**SMALL, "init_from": controlnet, **fields}
    overrides = [f"--config.{name}={value}" for name, value in chosen.items()]
    arguments = ["-m", "posetraj_jax.train", "--config", SPEC, "--workdir", str(workdir)]
    folder = workdir.with_name(f"{workdir.name}-{time.monotonic_ns()}")
    return HostGroup([*arguments, *overrides], folder, count=count, devices=devices)


def finish(*args, **fields) -> None:
    with start(*args, **fields) as group:
        assert group.codes(seconds=900) == [0] * len(group.processes), group.said()


def logged(workdir: Path, name: str) -> dict[int, float]:
    """A metric by step."""
    rows = read_jsonl(workdir / "metrics.jsonl")
    return {row["step"]: row[name] for row in rows if name in row}


def losses(workdir: Path) -> dict[int, float]:
    return logged(workdir, "train/loss")


class Position:
    def set_state(self, state):
        self.state = state


def program_on(mesh) -> TrainProgram:
    o = options.from_config(config_file.load(SPEC))
    return make_program(build_networks(o.model), mesh, o.initial, o.step)


def restored(workdir: Path, mesh) -> tuple:
    """The newest state and data position, read by this one process."""
    position = Position()
    with Checkpoints(workdir / runs.CHECKPOINTS, keep=9) as checkpoints:
        state = checkpoints.restore(program_on(mesh).state, position)
        return jax.device_get(state), position.state


def first_gradient(workdir: Path) -> dict[str, np.ndarray]:
    """Of every tensor: after one step Adam's first moment is a part of it."""
    abstract = program_on(one_device()).state.opt_state
    with ocp.StandardCheckpointer() as reader:
        opt_state = reader.restore(workdir / runs.CHECKPOINTS / "1" / "opt_state", abstract)
    moment = tree.flatten(jax.device_get(optax.tree.get(opt_state, "mu")))
    b1 = config_file.load(SPEC).optim.b1
    return {path: leaf / (1 - b1) for path, leaf in moment.items()}


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def alone(controlnet, tmp_path_factory):
    """Three steps in one process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(workdir, controlnet, count=1, devices=8, steps=3, **OF_EIGHT)
    return workdir


@pytest.mark.parametrize(
    ("count", "devices", "mesh"),
    [(2, 4, {}), (4, 2, {}), (4, 2, {"mesh.fsdp": 2, "mesh.context": 4})],
    ids=["fsdp within each", "fsdp over two", "each clip over two"],
)
def test_several_processes_equal_one_of_eight_devices(
    alone, controlnet, tmp_path, count, devices, mesh
):
    run = tmp_path / "run"
    finish(run, controlnet, count=count, devices=devices, steps=3, **OF_EIGHT | mesh)
    assert sorted(losses(alone)) == sorted(losses(run)) == [1, 2, 3]
    for name in ("train/loss", "eval/loss"):
        one, several = logged(alone, name), logged(run, name)
        print(name, one, "differs by", max(abs(several[step] - one[step]) for step in one))
        assert several == pytest.approx(one, rel=1e-5, abs=1e-5)
    one, several = first_gradient(alone), first_gradient(run)
    largest = max(np.abs(leaf).max() for leaf in one.values())
    assert largest > 0
    scales = {path: max(np.abs(leaf).max(), 1e-2 * largest) for path, leaf in one.items()}
    apart = {path: np.abs(several[path] - leaf).max() / scales[path] for path, leaf in one.items()}
    print(len(apart), "gradients differ by at most", max(apart.values()), "of their scales")
    assert max(apart.values()) <= 1e-4, max(apart, key=apart.get)
    (one, place), (several, same_place) = restored(alone, one_device()), restored(run, one_device())
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), one.params, several.params)
    lr = config_file.load(SPEC).optim.lr
    print("parameters differ by at most", max(jax.tree.leaves(apart)) / lr, "learning rates")
    assert max(jax.tree.leaves(apart)) <= lr
    assert place == same_place
    assert len(list(run.glob("samples/step_000003/*.gif"))) == 1


def test_a_checkpoint_of_any_number_of_processes_is_trained_on_by_any(alone, controlnet, tmp_path):
    """One process goes on with four's checkpoint, and two with one's."""
    one, four = tmp_path / "one", tmp_path / "four"
    shutil.copytree(alone, one)
    finish(four, controlnet, count=4, devices=2, steps=3, **OF_EIGHT)
    assert_same(restored(four, mesh_of(2, 4))[0], restored(four, one_device())[0])
    finish(one, controlnet, count=2, devices=4, steps=5, **OF_EIGHT)
    finish(four, controlnet, count=1, devices=8, steps=5, **OF_EIGHT)
    assert sorted(losses(one)) == sorted(losses(four)) == [1, 2, 3, 4, 5]
    assert losses(four) == pytest.approx(losses(one), rel=1e-4)
    assert restored(one, one_device())[1] == restored(four, one_device())[1]


@pytest.fixture(scope="module")
def undisturbed(controlnet, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(workdir, controlnet, count=2, devices=1, **LONG)
    return workdir


LONG = {"steps": 24, "save.every": 3, "batch_size": 2, "eval.every": 24}


@pytest.mark.parametrize("killed", [1, 0])
def test_a_killed_process_is_named_within_a_minute_and_the_run_continues_exactly(
    undisturbed, controlnet, tmp_path, killed
):
    run = tmp_path / "run"
    with start(run, controlnet, count=2, devices=1, **LONG) as group:
        group.wait_until(lambda: bool(runs.steps(run)), seconds=600)
        group.send(killed, signal.SIGKILL)
        began = time.monotonic()
        codes = group.codes(seconds=60)
        print(f"ended after {time.monotonic() - began:.1f} s")
    assert codes == [EXIT_LOST_PROCESS if i != killed else -signal.SIGKILL for i in (0, 1)]
    said = group.errors[1 - killed].read_text()
    assert f"error: process {killed} of this run cannot be reached any more" in said
    assert runs.steps(run)[-1] < 24
    finish(run, controlnet, count=2, devices=1, **LONG)
    assert losses(run) == losses(undisturbed)
    assert_same(restored(run, one_device()), restored(undisturbed, one_device()))


def test_sigterm_to_one_saves_in_all_and_the_run_continues_exactly(
    undisturbed, controlnet, tmp_path
):
    run = tmp_path / "run"
    with start(run, controlnet, count=2, devices=1, **LONG) as group:
        group.wait_until(lambda: 4 in losses(run), seconds=600)
        group.send(1, signal.SIGTERM)
        assert group.codes(seconds=120) == [143, 143], group.said()
    stopped = runs.steps(run)[-1]
    assert 4 <= stopped < 24
    assert max(losses(run)) == stopped
    finish(run, controlnet, count=2, devices=1, **LONG)
    assert losses(run) == losses(undisturbed)
    assert_same(restored(run, one_device()), restored(undisturbed, one_device()))


def test_mistakes_before_training_leave_nobody_waiting(controlnet, tmp_path):
    with start(tmp_path / "run", controlnet, count=2, devices=1, batch_size=3) as group:
        assert group.codes(seconds=60) == [2, 2]
    assert all("batch_size = 3" in path.read_text() for path in group.errors)
    assert not (tmp_path / "run").exists()
