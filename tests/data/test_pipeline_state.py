"""Where a stream of batches continues after a restart, and that its memory does not grow."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from clips import make_clip

from posetraj_jax.data.batch_stream import PLACE
from posetraj_jax.data.pipeline import DataOptions, train_batches
from posetraj_jax.data.records import write_dataset
from posetraj_jax.errors import UserError

TAKEN, MORE = 3, 4
MEMORY_PROGRAM = Path(__file__).with_name("windows_memory.py")


def frames_of(batches, count: int) -> np.ndarray:
    """The frames of the next examples, whatever the size of a batch."""
    taken = itertools.islice(batches, count)
    return np.concatenate([batch.frames_uint8 for batch in taken])


def saved(options: DataOptions) -> tuple[dict, np.ndarray]:
    """A state as a file holds it, and the frames of the batches after it."""
    batches = train_batches(options)
    frames_of(batches, TAKEN)
    state = json.loads(json.dumps(batches.get_state()))
    expected = frames_of(batches, MORE)
    batches.close()
    return state, expected


@pytest.mark.parametrize(("before", "now"), [(2, 0), (1, 2)])
def test_another_number_of_workers_continues_exactly(options, before, now):
    state, expected = saved(replace(options, num_workers=before))
    batches = train_batches(replace(options, num_workers=now))
    batches.set_state(state)
    assert batches.get_state() == state
    np.testing.assert_array_equal(frames_of(batches, MORE), expected)
    batches.close()


@pytest.mark.parametrize(
    "changes", [{"read_threads": 0}, {"read_threads": 5}, {"batch_size": 1}, {"batch_size": 4}]
)
def test_threads_and_another_batch_size_continue_with_the_next_clip(options, changes):
    state, expected = saved(options)
    batches = train_batches(replace(options, **changes))
    batches.set_state(state)
    count = len(expected) // changes.get("batch_size", options.batch_size)
    np.testing.assert_array_equal(frames_of(batches, count), expected)


def test_hosts_together_continue_where_one_was(options):
    state, expected = saved(options)
    hosts = [train_batches(options, rows) for rows in [(0,), (1,)]]
    for host in hosts:
        host.set_state(state)
    frames = [frames_of(host, MORE) for host in hosts]
    np.testing.assert_array_equal(np.stack(frames, axis=1).reshape(expected.shape), expected)
    assert hosts[0].get_state() == hosts[1].get_state()


def test_an_iterator_goes_back(options):
    state, expected = saved(options)
    batches = train_batches(options)
    frames_of(batches, TAKEN + 2)
    batches.set_state(state)
    np.testing.assert_array_equal(frames_of(batches, MORE), expected)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": 4}, r"seed: 3 in the checkpoint, now 4"),
        ({"num_frames": 15}, r"num_frames: 14 in the checkpoint, now 15"),
        ({"max_clips": 4}, r"num_clips: 5 in the checkpoint, now 4"),
    ],
)
def test_what_changes_the_order_is_refused_by_name(options, changes, field):
    state, _ = saved(options)
    with pytest.raises(UserError, match=field):
        train_batches(replace(options, **changes)).set_state(state)


def test_other_clips_are_refused(options, tmp_path):
    state, _ = saved(options)
    lengths = (20, 17, 18, 19, 16)  # the same names, the same number of clips
    write_dataset([make_clip(n, length) for n, length in enumerate(lengths)], tmp_path)
    with pytest.raises(UserError, match="names_and_lengths"):
        train_batches(replace(options, path=str(tmp_path))).set_state(state)


@pytest.mark.parametrize("state", [{"next_index": 3}, {}, [], None])
def test_a_state_of_something_else_is_refused(options, state):
    with pytest.raises(UserError, match="cannot be continued from the checkpoint"):
        train_batches(options).set_state(state)


@pytest.mark.parametrize("taken", [-1, "3", 1.5, True, None])
def test_a_place_that_is_none_is_refused(options, taken):
    state = train_batches(options).get_state() | {PLACE: taken}
    with pytest.raises(UserError, match="cannot be continued from the checkpoint"):
        train_batches(options).set_state(state)


def test_a_checkpoint_is_restored_with_other_workers_or_refused(options, tmp_path):
    batches = train_batches(options)
    frames_of(batches, TAKEN)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.Composite(data=ocp.args.JsonSave(batches.get_state())))
        manager.wait_until_finished()
        expected = frames_of(batches, MORE)
        fresh = train_batches(replace(options, num_workers=1))
        restore(manager, fresh)
        np.testing.assert_array_equal(frames_of(fresh, MORE), expected)
        fresh.close()
        with pytest.raises(UserError, match="seed: 3 in the checkpoint, now 5"):
            restore(manager, train_batches(replace(options, seed=5)))


def restore(manager: ocp.CheckpointManager, batches) -> None:
    batches.set_state(manager.restore(1, args=ocp.args.Composite(data=ocp.args.JsonRestore())).data)


def test_a_batch_that_failed_is_not_counted_as_taken(options, tmp_path):
    folder = write_dataset([make_clip(0)], tmp_path)
    (shard,) = folder.glob("*array_record-*")
    whole = shard.read_bytes()
    data = bytearray(whole)
    data[600] ^= 255
    shard.write_bytes(data)
    batches = train_batches(replace(options, path=str(tmp_path), batch_size=1))
    for _ in range(2):
        with pytest.raises(UserError, match="Record 0 of"):
            next(batches)
    assert batches.get_state()[PLACE] == 0


@pytest.mark.parametrize("num_workers", [pytest.param(0, marks=pytest.mark.full), 1])
def test_memory_is_flat(dataset, num_workers):
    """In a process of its own, because pytest's grows."""
    command = [sys.executable, str(MEMORY_PROGRAM), dataset, str(num_workers)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    early, late = json.loads(output.splitlines()[-1])
    assert late < 1.1 * early, output
