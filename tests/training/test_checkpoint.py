"""Checkpoints: exact, on another mesh too, the newest few, and safe on a full disk."""

import dataclasses
import resource
import signal
from collections import namedtuple

import grain.python as grain
import jax
import numpy as np
import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.training import checkpoint
from posetraj_jax.training.checkpoint import Checkpoints
from tests.meshes import mesh_of, one_device
from tests.training.conftest import OPTIM, abstract_of, start


def numbers():
    return iter(grain.MapDataset.range(1000).shuffle(seed=3).to_iter_dataset())


def at_step(state, step):
    return state._replace(step=jax.numpy.int32(step))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def save_and_wait(checkpoints, state):
    checkpoints.save(state, numbers(), {})
    checkpoints.wait()


@pytest.fixture(scope="module")
def state(networks):
    return start(networks, mesh_of(2, 4))[0]


def test_restores_bitwise_on_another_mesh_with_its_data(state, networks, tmp_path):
    batches = numbers()
    for _ in range(5):
        next(batches)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(at_step(state, 7), batches, {"steps": 9})
    expected = next(batches)
    other, _, _ = start(networks, one_device())
    fresh = numbers()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        restored = checkpoints.restore(abstract_of(other), fresh)
    assert int(restored.step) == 7
    assert_same(restored._replace(step=0), state._replace(step=0))
    assert next(fresh) == expected
    assert len(restored.params["conv_in"]["kernel"].sharding.device_set) == 1


def test_a_run_without_an_average_saves_none(networks, tmp_path):
    """Neither in memory nor on the disk, and the raw parameters stand in for it."""
    optim = dataclasses.replace(OPTIM, ema_decay=0.0)
    state, _, _ = start(networks, one_device(), optim)
    assert state.ema == {}
    assert state.averaged is state.params
    batches = numbers()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(at_step(state, 3), batches, {})
    assert not (tmp_path / "3" / "ema").exists()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        restored = checkpoints.restore(abstract_of(state), batches)
    assert_same(restored, at_step(state, 3))


def test_keeps_only_the_newest(state, tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(at_step(state, step), numbers(), {})
            checkpoints.wait()
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [2, 3]


def test_too_little_space_is_refused_before_writing(state, tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(at_step(state, 1), numbers(), {})
        checkpoints.wait()
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage(100, 99, 1))
        with pytest.raises(UserError, match="cannot write a checkpoint") as caught:
            checkpoints.save(at_step(state, 2), numbers(), {})
        assert "resumes from step 1" in str(caught.value)
        assert checkpoints.latest_step() == 1


def test_a_disk_that_fails_while_writing_leaves_the_checkpoint_before(state, tmp_path):
    """Writes past a size limit fail like a full disk, in the middle of a file."""
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            checkpoints.save(at_step(state, 1), numbers(), {})
            checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            with pytest.raises(UserError, match="cannot write a checkpoint"):
                save_and_wait(checkpoints, at_step(state, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 1
        assert_same(checkpoints.restore(abstract_of(state), numbers()).params, state.params)


def test_a_damaged_checkpoint_is_named(state, tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(at_step(state, 1), numbers(), {})
    for path in (tmp_path / "1" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    unreadable = pytest.raises(UserError, match="cannot read the checkpoint")
    with Checkpoints(tmp_path, keep=2) as checkpoints, unreadable:
        checkpoints.restore(abstract_of(state), numbers())
