"""Devices by the name of a topology, most of which are not there: TPU slices, `cpu:N`, `gpu`."""

import contextlib
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from posetraj_jax.errors import UserError
from posetraj_jax.planning.chips import TPUS, Chip, gpu_of, tpu_named

EXAMPLES = "v5e:1x1, v5e:2x4, v5e:4x4, v6e:4x4, v5p:2x2x2, v4:2x2x4, cpu:8, gpu"
HOST = (2, 2, 1)
"""Chips of one TPU host, along each dimension of a slice that has several hosts."""


@dataclass(frozen=True)
class Topology:
    """Devices to compile for."""

    name: str
    platform: str
    """tpu, cpu or gpu."""
    devices: tuple[Any, ...]
    chip: Chip | None
    """None for a CPU."""
    shape: tuple[int, ...]
    """Chips along each dimension of the network of one slice."""

    @property
    def links(self) -> int:
        """Of one chip to its neighbours: one on a side of two chips, two on a longer one.

        A GPU has one, to a switch.
        """
        if self.platform != "tpu":
            return min(len(self.devices) - 1, 1)
        return sum(min(size - 1, 2) for size in self.shape)


def of_this_machine() -> str:
    """The name of the devices that JAX finds here.

    Raises:
      UserError: they are TPUs, whose slices go by the names of their makers.
    """
    kind = jax.default_backend()
    if kind == "tpu":
        raise UserError(
            "the slice that this machine belongs to is not known by name",
            expected=f"its topology, one of {EXAMPLES}, …",
            got=f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
            fix="name it with --topology",
        )
    return f"cpu:{len(jax.devices())}" if kind == "cpu" else kind


def prepare(name: str) -> None:
    """Settles what JAX must know before it first looks for devices.

    Planning for a TPU needs no device at all, so JAX looks at none but the CPU.
    """
    if name == "gpu":
        return
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu asks a cloud that is not there
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # two plans at a time
    jax.config.update("jax_platforms", "cpu")
    if (match := re.fullmatch(r"cpu:(\d{1,4})", name)) and int(match[1]) > 0:
        with contextlib.suppress(RuntimeError):  # too late; `find` says so where it matters
            jax.config.update("jax_num_cpu_devices", int(match[1]))


def find(name: str, slices: int = 1) -> Topology:
    """The devices of a topology.

    Args:
      name: such as `v5e:4x4` (chips along each dimension), `cpu:8`, or `gpu`: those of here.
      slices: how many TPU slices of this kind are joined.

    Raises:
      UserError: no such topology, or what describes it is not installed.
    """
    kind, _, layout = name.partition(":")
    if kind == "gpu" and not layout:
        return _local_gpus()
    if kind == "cpu" and re.fullmatch(r"[1-9]\d{0,3}", layout):
        return _cpus(name, int(layout))
    chip = tpu_named(kind)
    if chip is None or not re.fullmatch(r"[1-9]\d{0,2}(x[1-9]\d{0,2})*", layout):
        raise _unknown(name, "no chip of that name, or no such form")
    shape = tuple(int(size) for size in layout.split("x"))
    if len(shape) != chip.dimensions:
        raise _unknown(name, f"{len(shape)} dimensions, where {kind} has {chip.dimensions}")
    options: dict[str, Any] = dict(chip.options)
    if math.prod(shape) < math.prod(HOST):
        options["chips_per_host_bounds"] = (*shape, 1)[:3]
    if slices > 1:
        options["num_slices"] = slices
    devices = _tpus(name, options)
    if devices[0].device_kind != chip.device_kind or len(devices) != math.prod(shape) * slices:
        raise _unknown(name, f"{len(devices)} x {devices[0].device_kind}")
    return Topology(name, "tpu", devices, chip, shape)


def _tpus(name: str, options: dict[str, Any]) -> tuple[Any, ...]:
    try:
        with _quietly():
            found = topologies.get_topology_desc(name, "tpu", **options)
    except (jax.errors.JaxRuntimeError, RuntimeError, ImportError) as error:
        if "INVALID_ARGUMENT" in str(error):
            raise _unknown(name, str(error).partition("INVALID_ARGUMENT:")[2].strip()) from error
        raise UserError(
            "TPU slices cannot be planned on this machine",
            expected="libtpu, whose compiler needs no TPU",
            got=str(error).strip().splitlines()[0],
            fix='pip install "jax[tpu]"',
        ) from error
    return tuple(found.devices)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps off the screen what libtpu's C++ prints where it finds no TPU; errors are raised."""
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(screen, 2)
            os.close(screen)


def _cpus(name: str, count: int) -> Topology:
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(
            f"this process cannot have {count} CPU devices",
            expected=f"{count}",
            got=f"{len(devices)}, settled by XLA_FLAGS or by what ran before",
            fix="unset --xla_force_host_platform_device_count in XLA_FLAGS",
        )
    return Topology(name, "cpu", tuple(devices[:count]), None, (count,))


def _local_gpus() -> Topology:
    try:
        with _quietly():
            devices = tuple(jax.devices("gpu"))
    except RuntimeError as error:
        raise UserError(
            "there is no GPU to plan for",
            expected="a GPU that JAX finds on this machine",
            got=str(error).strip().splitlines()[0],
            fix='pip install "jax[cuda12]" on a machine with a GPU, or plan for a TPU slice',
        ) from error
    chip = gpu_of(devices[0].device_kind)
    if chip is None:
        raise _unknown("gpu", f"{devices[0].device_kind}, which the table of chips lacks")
    return Topology("gpu", "gpu", devices, chip, (len(devices),))


def _unknown(name: str, got: str) -> UserError:
    kinds = ", ".join(chip.name for chip in TPUS)
    return UserError(
        f"there is no topology {name!r}",
        expected=f"one of {kinds} with its chips along each dimension, cpu:N or gpu: {EXAMPLES}",
        got=got,
        fix="name a slice as its maker does: v5e and v6e have two dimensions, v4 and v5p three",
    )
