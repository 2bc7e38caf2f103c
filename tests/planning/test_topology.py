"""Topologies by name, and names that are none."""

import re

import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.planning import topology
from posetraj_jax.planning.chips import GIB, GPUS, TPUS, chip_of, gpu_of

pytest.importorskip("libtpu")


@pytest.mark.parametrize("chip", [*TPUS, *GPUS], ids=lambda chip: chip.name)
def test_chips_are_plausible(chip):
    assert chip.usable_bytes <= chip.hbm_bytes < 200 * GIB
    assert chip.usable_bytes > 0.94 * chip.hbm_bytes
    # The ridge of the roofline: FLOPs for every byte of HBM.
    assert 100 < chip.flops / chip.hbm_bandwidth < 600
    assert chip.link_bandwidth < chip.hbm_bandwidth


def test_a_gpu_is_found_by_its_longer_name():
    assert gpu_of("NVIDIA H100 80GB HBM3").name == "h100"
    assert gpu_of("NVIDIA H200").name == "h200"
    assert gpu_of("NVIDIA H100 PCIe").name == "h100-pcie"
    assert gpu_of("NVIDIA H200 NVL").name == "h200-nvl"
    assert gpu_of("NVIDIA A100-SXM4-40GB").name == "a100-40gb"
    assert gpu_of("NVIDIA A100-SXM4-80GB").name == "a100"
    assert gpu_of("Tesla T4") is None


def test_a_chip_is_found_by_what_a_machine_or_a_plan_calls_it():
    for chip in (*TPUS, *GPUS):
        assert chip_of(chip.device_kind) is chip
    assert chip_of("TPU v5p").name == "v5p"
    assert chip_of("TPU v5e").name == "v5e"
    assert chip_of("cpu") is None
    assert chip_of("TPU v5 lite pod") is None


def test_the_devices_of_this_machine_have_a_name(monkeypatch):
    assert topology.of_this_machine() == "cpu:8"
    monkeypatch.setattr(topology.jax, "default_backend", lambda: "gpu")
    assert topology.of_this_machine() == "gpu"
    monkeypatch.setattr(topology.jax, "default_backend", lambda: "tpu")
    with pytest.raises(UserError, match="name it with --topology"):
        topology.of_this_machine()


@pytest.mark.parametrize(
    ("name", "devices", "links"),
    [
        ("v5e:1x1", 1, 0),
        ("v5e:1x2", 2, 1),
        ("v5e:2x4", 8, 3),
        ("v5e:4x4", 16, 4),
        ("v6e:1x1", 1, 0),
        ("v5p:2x2x2", 8, 3),
        ("v4:2x2x4", 16, 4),
        ("cpu:4", 4, 1),
    ],
)
def test_slices_have_as_many_devices_as_chips(name, devices, links, capfd):
    found = topology.find(name)
    assert (len(found.devices), found.links) == (devices, links)
    if found.chip:
        assert found.devices[0].device_kind == found.chip.device_kind
    assert capfd.readouterr().err == ""


def test_slices_join():
    found = topology.find("v5e:2x2", slices=2)
    assert [device.slice_index for device in found.devices] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("v9:2x2", "no chip of that name"),
        ("v5e", "no such form"),
        ("v5e:2x2x", "no such form"),
        ("v5e:0x4", "no such form"),
        ("v5e:4", "1 dimensions, where v5e has 2"),
        ("v5p:2x2", "2 dimensions, where v5p has 3"),
        ("v5e:3x3", "not divisible"),
        ("cpu:0", "no such form"),
        ("gpu:2", "no such form"),
        ("", "no such form"),
    ],
)
def test_other_names_are_refused_with_the_list(name, got):
    with pytest.raises(UserError, match=r"there is no topology") as error:
        topology.find(name)
    assert got in error.value.got
    assert "v5e:4x4" in error.value.expected


def test_more_cpu_devices_than_there_are_and_no_gpu():
    topology.prepare("cpu:4096")  # too late here, and that is said by `find`
    with pytest.raises(UserError, match="4096 CPU devices"):
        topology.find("cpu:4096")
    with pytest.raises(UserError, match="no GPU"):
        topology.find("gpu")


def test_without_libtpu_the_command_that_brings_it_is_named(monkeypatch):
    def missing(*args, **kwargs):
        raise RuntimeError("libtpu.so is not found")

    monkeypatch.setattr(topology.topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=re.escape("cannot be planned")) as error:
        topology.find("v5e:2x2")
    assert error.value.fix == 'pip install "jax[tpu]"'
