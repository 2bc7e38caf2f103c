"""One batch is ready ahead, and no checkpoint knows of it."""

import threading

import grain
import jax
import numpy as np
import pytest

from posetraj_jax import sharding
from posetraj_jax.data import pipeline
from posetraj_jax.data.pipeline import DataOptions
from posetraj_jax.data.records import write_dataset
from posetraj_jax.errors import UserError
from posetraj_jax.structs import Batch
from posetraj_jax.training.device_batches import DeviceBatches
from tests.data.clips import make_clip
from tests.meshes import mesh_of

WAIT_S = 60


def batch(number):
    return Batch(None, *[number] * 5)


def tenfold(numbers):
    return batch(10 * numbers.fps)


class Numbers(grain.DatasetIterator):
    """Counts, and tells when a number is asked for."""

    def __init__(self):
        super().__init__()
        self.place, self.closed, self.asked = 0, False, threading.Semaphore(0)

    def __next__(self):
        self.place += 1
        self.asked.release()
        if self.place == 4:
            raise UserError("number 4", expected="another", got="4", fix="none")
        return batch(self.place)

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]

    def close(self):
        self.closed = True


def test_one_is_made_ahead_and_the_state_is_that_of_what_was_taken():
    numbers = Numbers()
    with DeviceBatches(numbers, tenfold) as batches:
        assert numbers.asked.acquire(timeout=WAIT_S)  # before anybody wants it
        assert batches.get_state() == {"place": 0}
        assert next(batches) == batch(10)
        assert numbers.asked.acquire(timeout=WAIT_S)
        assert batches.get_state() == {"place": 1}
        assert next(batches) == batch(20)
        assert batches.get_state() == {"place": 2}
        assert numbers.asked.acquire(timeout=WAIT_S)
        assert not numbers.asked.acquire(timeout=0.1)  # and only one
    assert numbers.place == 3
    assert numbers.closed


def test_what_is_wrong_with_a_batch_is_raised_when_its_turn_comes():
    with DeviceBatches(Numbers(), tenfold) as batches:
        assert [next(batches).fps for _ in range(3)] == [10, 20, 30]
        for _ in range(2):
            with pytest.raises(UserError, match="number 4"):
                next(batches)
        assert batches.get_state() == {"place": 3}


def test_a_broken_batch_that_nobody_takes_hurts_nobody():
    numbers = Numbers()
    with DeviceBatches(numbers, tenfold) as batches:
        assert [next(batches).fps for _ in range(3)] == [10, 20, 30]
    assert numbers.closed


def test_setting_a_state_forgets_what_was_made_ahead():
    with DeviceBatches(Numbers(), tenfold) as batches:
        next(batches)
        batches.set_state({"place": 7})
        assert batches.get_state() == {"place": 7}
        assert next(batches) == batch(80)


@pytest.mark.parametrize("workers", [0, 1])
def test_continues_exactly_behind_what_was_taken(tmp_path, workers):
    """With Grain itself, and its worker processes: the same batches, on the mesh."""
    write_dataset([make_clip(i) for i in range(6)], tmp_path)
    options = DataOptions(
        path=str(tmp_path),
        height=64,
        width=64,
        batch_size=8,
        draw_box=False,
        condition_on_box=False,
        seed=3,
        num_workers=workers,
    )
    mesh = mesh_of(4, 2)

    def put(batch):
        return sharding.put_batch(batch, mesh)

    straight = pipeline.train_batches(options)
    expected = [next(straight) for _ in range(4)]
    straight.close()
    with DeviceBatches(pipeline.train_batches(options), put) as batches:
        first = [next(batches), next(batches)]
        place = batches.get_state()
    rest = pipeline.train_batches(options)
    rest.set_state(place)
    with DeviceBatches(rest, put) as batches:
        seen = [*first, next(batches), next(batches)]
    jax.tree.map(np.testing.assert_array_equal, seen, expected)
    assert len(seen[0].fps.sharding.device_set) == 8
