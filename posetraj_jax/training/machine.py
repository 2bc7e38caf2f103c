"""What a machine holds and does, as far as it is known; what is not known is None."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from posetraj_jax import flops
from posetraj_jax.models.networks import Networks, Parameters, build_networks
from posetraj_jax.planning.chips import chip_of
from posetraj_jax.training.clock import Row
from posetraj_jax.training.options import TrainingOptions
from posetraj_jax.training.program import (
    BatchShape,
    TrainProgram,
    abstract_batch,
    abstract_key,
    make_program,
)

DEVICE_MEMORY = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use", "limit": "bytes_limit"}
"""Figure → JAX's name."""
PROCESS = Path("/proc/self/status")


@dataclass(frozen=True)
class Machine:
    """The devices of a run, and the work that a step is for them."""

    devices: Sequence[Any]
    """Of all processes."""
    step_flops: int | None
    """Model FLOPs of a step over all devices; None where no peak is known to compare with."""

    def figures(self, step_seconds: float | None) -> Row:
        """Memory in bytes, and the utilisation: model FLOPs per second over the devices' peak."""
        return {
            "utilisation": self.utilisation(step_seconds),
            **device_memory(self._own_devices()),
            "memory/host": host_memory(),
        }

    def utilisation(self, step_seconds: float | None) -> float | None:
        """A share of the peak in bfloat16, without what is recomputed; None: not known."""
        chip = chip_of(self.devices[0].device_kind)
        if chip is None or self.step_flops is None or step_seconds is None:
            return None
        return self.step_flops / step_seconds / len(self.devices) / chip.flops

    def _own_devices(self) -> list[Any]:
        """Those of this process: others' do not tell it of their memory."""
        return [d for d in self.devices if d.process_index == jax.process_index()]

    def __str__(self) -> str:
        kind = self.devices[0].device_kind
        known = "not known: the table of chips has none of that name"
        if self.step_flops is not None:
            tera, peak = self.step_flops / 1e12, chip_of(kind).flops / 1e12
            known = f"{tera:.4g} TF per step, against {peak:.4g} TF/s of each"
        is_told = any(value is not None for value in device_memory(self._own_devices()).values())
        memory = "in the metrics" if is_told else "not told by this backend"
        return f"{len(self.devices)} x {kind}; utilisation: {known}; device memory: {memory}"


def device_memory(devices: Sequence[Any]) -> Row:
    """Bytes on the fullest of these devices; None where the backend does not say, as on CPU."""
    told = [stats for device in devices if (stats := device.memory_stats())]
    figures: Row = {}
    for figure, name in DEVICE_MEMORY.items():
        most = max((stats[name] for stats in told if name in stats), default=None)
        figures[f"memory/device_{figure}"] = None if most is None else float(most)
    return figures


def host_memory() -> float | None:
    """Bytes that this process itself has written, files not counted; None where not on Linux."""
    lines = PROCESS.read_text().splitlines() if PROCESS.exists() else []
    found = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
    return 1024.0 * found[0] if found else None


def describe(
    o: TrainingOptions, networks: Networks, program: TrainProgram, mesh: Mesh, frozen: Parameters
) -> Machine:
    """The machine of a run; counts FLOPs, which takes a trace, only where the chip is known."""
    devices = list(mesh.devices.flat)
    if chip_of(devices[0].device_kind) is None:
        return Machine(devices, None)
    lean = replace(o.model, attention="xla", remat=("none",))
    step = make_program(build_networks(lean), mesh, o.initial, o.step).step
    d = o.data
    shape = BatchShape(d.batch_size, d.num_frames, d.height, d.width, bool(d.latents))
    batch = abstract_batch(networks, mesh, shape)
    return Machine(devices, flops.count(step, program.state, frozen, batch, abstract_key(mesh)))
