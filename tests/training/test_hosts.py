"""Several real processes train together: as one would, and none is left waiting for another."""

import signal
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from posetraj_jax import runs
from posetraj_jax.errors import EXIT_LOST_PROCESS
from posetraj_jax.training.checkpoint import Checkpoints
from posetraj_jax.training.metrics import read_jsonl
from posetraj_jax.training.state import lay_out
from tests.host_group import HostGroup
from tests.meshes import mesh_of

TOY = ("-m", "tests.training.toy_run")
LOST_S = 8


def toys(
    workdir: Path, steps: int | str, *flags: str, count: int = 2, devices: int = 2, absent: int = 0
) -> HostGroup:
    folder = workdir.with_name(f"{workdir.name}-{time.monotonic_ns()}")
    arguments = [*TOY, str(workdir), str(steps), *flags]
    return HostGroup(arguments, folder, count=count, devices=devices, absent=absent)


def finish(group: HostGroup) -> HostGroup:
    with group:
        assert group.codes() == [0] * len(group.processes), group.said()
    return group


def losses(workdir: Path) -> list[float]:
    return [row["train/loss"] for row in read_jsonl(workdir / "metrics.jsonl")[1:]]


def newest(workdir: Path) -> int:
    return max(runs.steps(workdir), default=0)


class Position:
    """Stands for the data: takes what a checkpoint says."""

    def set_state(self, state):
        self.state = state


def restored(workdir: Path, mesh=None):
    """The newest state and data position, read by this one process with its eight devices."""
    shapes = {"dense": {"kernel": jax.ShapeDtypeStruct((4096, 16), np.float32)}}
    _, abstract = lay_out(shapes, optax.adam(1e-2), mesh or mesh_of(2, 4), averages=True)
    position = Position()
    with Checkpoints(workdir / "checkpoints", keep=3) as checkpoints:
        return jax.device_get(checkpoints.restore(abstract, position)), position.state


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Three steps in one process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(toys(workdir, 3, "--mesh=2,4,1", count=1, devices=8))
    return workdir


def printed(group: HostGroup, index: int) -> list[str]:
    """What a process printed, without what gloo does."""
    lines = group.outputs[index].read_text().splitlines()
    return [line for line in lines if not line.startswith("[Gloo]")]


def errors_of(group: HostGroup) -> list[str]:
    return [path.read_text() for path in group.errors]


def after_two_steps(workdir: Path):
    return lambda: len(read_jsonl(workdir / "metrics.jsonl")) > 2


def test_two_processes_train_as_one_does(alone, tmp_path):
    """The same losses, so the same clips at the same places; and either's checkpoint is any's."""
    group = finish(toys(tmp_path / "run", 3, "--mesh=2,4,1", devices=4))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=1e-5)
    assert len(set(losses(alone))) == 3
    state, position = restored(tmp_path / "run")
    expected, expected_position = restored(alone)
    assert position == expected_position
    assert position["clips_taken"] == 24
    assert_same(state, restored(tmp_path / "run", mesh_of(8, 1))[0])
    np.testing.assert_allclose(*(s.ema["dense"]["kernel"] for s in (state, expected)), atol=1e-5)
    assert [line[:6] for line in printed(group, 0)] == ["digest"]
    assert printed(group, 1) == []
    assert "step/s" in errors_of(group)[0]
    assert "step/s" not in errors_of(group)[1]


@pytest.mark.full
@pytest.mark.parametrize(("count", "devices"), [(2, 4), (4, 2)])
@pytest.mark.parametrize("mesh", ["8,1,1", "2,2,2", "2,1,4", "1,1,8"])
def test_any_mesh_over_any_hosts_trains_as_one(alone, tmp_path, mesh, count, devices):
    """Where `context` reaches over hosts, these read the same clips."""
    group = toys(tmp_path / "run", 3, f"--mesh={mesh}", count=count, devices=devices)
    finish(group)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=1e-5)


@pytest.mark.full
def test_a_run_goes_on_with_other_hosts_as_if_it_had_not_stopped(alone, tmp_path):
    """The digests are of the start, which every group draws and places alike."""
    finish(toys(tmp_path / "straight", 6, "--mesh=2,4,1", count=1, devices=8))
    groups = [
        finish(toys(tmp_path / "run", 2, "--mesh=2,4,1", devices=4)),
        finish(toys(tmp_path / "run", 4, "--mesh=8,1,1", count=4, devices=2)),
        finish(toys(tmp_path / "run", 5, "--mesh=1,1,1", count=1, devices=1)),
        finish(toys(tmp_path / "run", 6, "--mesh=2,2,2", devices=4)),
    ]
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "straight"), rtol=1e-5)
    assert len({printed(group, 0)[0] for group in groups}) == 1
    position = restored(tmp_path / "run")[1]
    assert position == restored(tmp_path / "straight")[1]


def kill(run: Path, count: int, killed: int) -> None:
    """Trains until there is a checkpoint, kills a process, and sees what the others say.

    They end within a minute by default: LOST_S is shortened here, for a test's sake, from 30 s.
    """
    with toys(run, 400, "--pause=0.1", f"--lost_s={LOST_S}", count=count) as group:
        group.wait_until(lambda: newest(run) >= 4)
        group.send(killed, signal.SIGKILL)
        began = time.monotonic()
        codes = group.codes(seconds=30)
        print(f"process {killed} of {count}: ended after {time.monotonic() - began:.1f} s")
    assert codes.pop(killed) == -signal.SIGKILL
    assert codes == [EXIT_LOST_PROCESS] * (count - 1), group.said()
    for index, said in enumerate(errors_of(group)):
        if index != killed:
            assert f"error: process {killed} of this run cannot be reached any more" in said
            assert "run the same command again on all hosts" in said
            assert "Traceback" not in said
    assert 4 <= newest(run) < 400


def test_a_killed_process_ends_the_other(tmp_path):
    kill(tmp_path / "run", count=2, killed=1)


@pytest.mark.full
@pytest.mark.parametrize(("count", "killed"), [(2, 1), (2, 0), (4, 2), (4, 0)])
def test_a_run_continues_exactly_after_a_process_was_killed(tmp_path, count, killed):
    straight, run = tmp_path / "straight", tmp_path / "run"
    kill(run, count, killed)
    steps = newest(run) + 9
    finish(toys(run, steps, count=count))
    finish(toys(straight, steps, count=count))
    assert_same(restored(run), restored(straight))
    assert losses(run) == losses(straight)


@pytest.mark.full
@pytest.mark.parametrize(("count", "told"), [(2, 1), (2, 0), (4, 3)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_notice_to_one_process_stops_all_at_the_same_step(tmp_path, count, told, number):
    run = tmp_path / "run"
    with toys(run, 400, "--pause=0.05", count=count) as group:
        group.wait_until(after_two_steps(run))
        group.send(told, number)
        assert group.codes(seconds=60) == [143] * count, group.said()
    stopped = newest(run)
    assert 2 <= stopped < 400
    assert read_jsonl(run / "metrics.jsonl")[-1]["step"] == stopped
    assert not [said for said in errors_of(group) if "error:" in said]
    assert restored(run)[1]["clips_taken"] == 8 * stopped


@pytest.mark.full
@pytest.mark.parametrize("failed", [0, 1])
def test_a_mistake_on_one_host_is_said_by_all(tmp_path, failed):
    with toys(tmp_path / "run", 3, f"--fail_in={failed}") as group:
        assert group.codes(seconds=60) == [2, 2], group.said()
    for index, said in enumerate(errors_of(group)):
        assert "toy trouble" in said
        other = f"process {failed} of this run has stopped, so this one stops too"
        assert (other in said) == (index != failed)
        assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_a_workdir_that_is_not_shared_is_refused(tmp_path):
    for index in (0, 1):
        (tmp_path / str(index)).mkdir()
    with toys(tmp_path / "{index}" / "run", 3, "--shared_s=1") as group:
        assert group.codes(seconds=60) == [2, 2], group.said()
    for said in errors_of(group):
        assert "is not the same folder on all hosts" in said
        assert "does not appear to: 1" in said
    assert [list((tmp_path / str(index)).iterdir()) for index in (0, 1)] == [[], []]


@pytest.mark.full
def test_settings_that_differ_are_refused(tmp_path):
    with toys(tmp_path / "run", "3{index}") as group:
        assert group.codes(seconds=60) == [2, 2], group.said()
    for said in errors_of(group):
        assert "process 1 has other settings than process 0" in said
        assert "steps: 31, in process 0 30" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_processes_that_never_come_are_not_waited_for_for_ever(tmp_path):
    with toys(tmp_path / "run", 3, "--connect_s=3", absent=1) as group:
        assert group.codes(seconds=60) == [EXIT_LOST_PROCESS] * 2, group.said()
    for said in errors_of(group):
        assert "the processes of this run have not found each other" in said
        assert "3 processes that start within 3 s" in said
    assert not (tmp_path / "run").exists()
