"""What to change where a program does not fit: flags, the cheapest first."""

from ml_collections import ConfigDict

from posetraj_jax.planning.compilation import Memory
from posetraj_jax.planning.memory_report import ACTIVATIONS
from posetraj_jax.planning.topology import Topology
from posetraj_jax.sharding import MAX_FSDP, MeshOptions

STATE = ("parameters", "optimizer", "EMA", "frozen")
"""Kinds of arguments that more devices along `fsdp` divide."""


def advise(c: ConfigDict, topology: Topology, memory: Memory, *, trains: bool) -> list[str]:
    """Flags that lower the memory of a program, each with what it does and costs."""
    devices = len(topology.devices)
    mesh = MeshOptions(**c.mesh).over(devices)
    found = []
    if trains:
        found += _of_activations(c, memory)
    more = mesh.fsdp * 2
    state = sum(memory.arguments.get(kind, 0) for kind in STATE)
    if more <= MAX_FSDP and devices % (more * mesh.context) == 0:
        found.append(
            f"--config.mesh.fsdp={more}: {state / 2 / 1e9:.2f} GB less of parameters and optimizer"
        )
    if c.mesh.frozen == "replicated" and mesh.fsdp > 1:
        found.append("--config.mesh.frozen=sharded: the frozen networks over fsdp too")
    clips = c.batch_size // (mesh.data * mesh.fsdp)
    if clips > 1:
        found.append(
            f"--clips_per_device {clips // 2}: about {1 - clips // 2 / clips:.0%} less of "
            "activations"
            + (f"; --config.optim.accumulate={c.optim.accumulate * 2} makes up" if trains else "")
        )
    if (
        devices % (mesh.fsdp * mesh.context * 2) == 0
        and c.data.num_frames % (2 * mesh.context) == 0
    ):
        found.append(
            f"--config.mesh.context={mesh.context * 2}: {mesh.context * 2} devices share a clip's "
            "frames and its activations"
        )
    if trains and c.stage > 0 and not c.adapter.rank:
        found.append("the variant :v5e1 of the config: an adapter trains instead of everything")
    found.append("a larger slice, or chips with more HBM")
    return found


def _of_activations(c: ConfigDict, memory: Memory) -> list[str]:
    kinds = memory.moment.kinds if memory.moment else {}
    found = []
    if set(c.model.remat) != {"blocks"}:
        kept = kinds.get(ACTIVATIONS, 0) / 1e9
        found.append(
            f"--config.model.remat=blocks: most of {kept:.2f} GB of activations, for up to a third "
            "more FLOPs"
        )
    if not c.data.latents:
        found.append(
            "--config.data.latents=FOLDER (data_prep.encode_latents): no image encoder, and a "
            "fifth of the FLOPs less"
        )
    return found
