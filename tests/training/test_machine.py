"""What is known of a machine is told, and what is not is not made up."""

import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from posetraj_jax.training import machine
from posetraj_jax.training.machine import Machine


def device(kind, stats=None):
    return SimpleNamespace(device_kind=kind, memory_stats=lambda: stats, process_index=0)


def test_a_cpu_has_no_utilisation_and_tells_no_memory():
    here = Machine(jax.devices(), None)
    figures = here.figures(0.5)
    assert figures["utilisation"] is None
    told = [figures[f"memory/device_{figure}"] for figure in ("in_use", "peak", "limit")]
    assert told == [None] * 3
    assert "8 x cpu; utilisation: not known" in str(here)
    assert "device memory: not told by this backend" in str(here)


def test_utilisation_is_work_over_time_over_the_peak_of_all_devices():
    chips = Machine([device("TPU v5 lite")] * 4, step_flops=197 * 10**12)
    assert chips.utilisation(0.5) == pytest.approx(0.5)
    assert chips.utilisation(None) is None
    assert "197 TF per step, against 197 TF/s of each" in str(chips)
    assert Machine([device("TPU v99")], step_flops=1).utilisation(0.5) is None


def test_memory_is_that_of_the_fullest_device():
    devices = [
        device("NVIDIA H100 80GB HBM3", {"bytes_in_use": used, "peak_bytes_in_use": 2 * used})
        for used in (3, 5, 4)
    ]
    assert machine.device_memory(devices) == {
        "memory/device_in_use": 5,
        "memory/device_peak": 10,
        "memory/device_limit": None,
    }


def test_only_devices_of_this_process_are_asked_for_their_memory():
    own = device("TPU v5 lite", {"bytes_in_use": 3})
    others = SimpleNamespace(device_kind=own.device_kind, process_index=1)  # asking would fail
    machine_of_two = Machine([others, own], step_flops=None)
    assert machine_of_two.figures(None)["memory/device_in_use"] == 3
    assert "2 x TPU v5 lite" in str(machine_of_two)
    assert "device memory: in the metrics" in str(machine_of_two)


def test_host_memory_follows_what_the_process_writes():
    if os.uname().sysname != "Linux":
        assert machine.host_memory() is None
        return
    before = machine.host_memory()
    written = np.ones(200_000_000, np.uint8)
    assert machine.host_memory() - before == pytest.approx(written.nbytes, rel=0.1)


def test_host_memory_is_not_known_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "PROCESS", tmp_path / "status")
    assert machine.host_memory() is None
