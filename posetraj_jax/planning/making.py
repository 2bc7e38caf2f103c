"""From a config and a topology to the numbers of a page."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from posetraj_jax import config, sharding
from posetraj_jax.planning import (
    advice,
    collectives,
    compilation,
    plan_cache,
    programs,
    roofline,
    topology,
    work,
)
from posetraj_jax.planning.compilation import Compiled, Memory
from posetraj_jax.planning.programs import Plan, Planned
from posetraj_jax.planning.progress import Progress
from posetraj_jax.planning.topology import Topology
from posetraj_jax.sharding import MeshOptions


@dataclasses.dataclass(frozen=True)
class Request:
    """What a plan is asked about; the fields decide the page."""

    name: str
    """Of the config, for people."""
    topology: str
    samples: bool = False
    """The sampler instead of the training step."""
    level: str = "O0"
    """Of `compilation.LEVELS`."""
    clips_per_device: int = 0
    """Sets `batch_size` to as many for every device; 0 leaves the config's."""


def page_of(c: ConfigDict, request: Request, *, cached: bool = True) -> dict[str, Any]:
    """The numbers of a plan, as JSON holds them; compiles for minutes unless it did so before.

    Args:
      c: a validated config.
      cached: whether a page that was made before will do.

    Raises:
      UserError: no such topology, or the config's mesh or batch does not fit its devices.
    """
    topology.prepare(request.topology)
    asked = {"config": config.flatten(c), **dataclasses.asdict(request)}
    digest = plan_cache.fingerprint(asked)
    if cached and (page := plan_cache.load(digest)):
        return page
    page = _make(c, request) | {"fingerprint": digest}
    plan_cache.save(digest, page)
    return page


def with_clips(c: ConfigDict, target: Topology, clips_per_device: int) -> ConfigDict:
    """The config with as many clips for every device; devices that share clips count as one."""
    mesh = MeshOptions(**c.mesh).over(len(target.devices))
    changed = c.copy_and_resolve_references()
    changed.batch_size = clips_per_device * mesh.data * mesh.fsdp
    return changed


def _make(c: ConfigDict, request: Request) -> dict[str, Any]:
    target = topology.find(request.topology, c.mesh.slices)
    if request.clips_per_device:
        c = with_clips(c, target, request.clips_per_device)
    plan = (programs.sampling if request.samples else programs.training)(c, target)
    progress = Progress()
    made, memories = [], []
    for planned in plan.programs:
        compiled = compilation.compile_program(planned, target.platform, request.level, progress)
        made.append(_program(planned, compiled, plan, target, request.level))
        memories.append(compiled.memory)
    return _page(c, request, plan, target, made) | {
        "advice": _advice(c, request, target, made, memories),
        "seconds": progress.seconds,
    }


def _program(
    planned: Planned, compiled: Compiled, plan: Plan, target: Topology, level: str
) -> dict[str, Any]:
    """The numbers of one compiled program."""
    per_device = compiled.flops / len(target.devices)
    traffic = collectives.of_program(compiled.program, dict(plan.mesh.shape))
    done = work.of_program(compiled.program)
    bounds = target.chip and roofline.bounds_of(
        per_device, done, traffic, target.chip, target.links, level=level
    )
    return {
        "name": planned.name,
        "runs": planned.runs,
        "fits": _fits(compiled, target),
        "refused": compiled.refused,
        "memory": _memory(compiled.memory),
        "model_flops": compiled.model_flops,
        "flops": compiled.flops,
        "flops_per_device": per_device,
        "hbm_bytes": done.hbm_bytes if target.chip else 0,
        "instructions_without_estimate": done.without_cycles,
        "loops_of_unknown_length": compiled.program.endless,
        "kernel_calls": sum(kernel.runs for kernel in done.kernels),
        "collectives": [row._asdict() for row in traffic],
        "bounds": bounds._asdict() if bounds else None,
        "binding": bounds.binding if bounds else "",
    }


def _fits(compiled: Compiled, target: Topology) -> bool | None:
    if target.chip is None:
        return None
    return not compiled.refused and compiled.memory.total <= target.chip.usable_bytes


def _memory(memory: Memory) -> dict[str, Any]:
    moment = memory.moment
    return {
        "arguments": memory.arguments,
        "arena": memory.arena,
        "code": memory.code,
        "total": memory.total,
        "peak": memory.peak,
        "moment": moment.source or "code of the compiler's own" if moment else "",
        "kinds": moment.kinds if moment else {},
        "largest": [one._asdict() for one in moment.live] if moment else [],
        "measured": memory.measured,
    }


def _page(
    c: ConfigDict, request: Request, plan: Plan, target: Topology, made: list[dict[str, Any]]
) -> dict[str, Any]:
    passes = 1 if request.samples else c.optim.accumulate
    bounds = [(program["bounds"], program["runs"]) for program in made if program["bounds"]]
    least = sum(bound["least"] * runs for bound, runs in bounds)
    most = sum(bound["most"] * runs for bound, runs in bounds)
    return {
        "config": request.name,
        "topology": request.topology + (f" x {c.mesh.slices}" if c.mesh.slices > 1 else ""),
        "fits": None if target.chip is None else all(program["fits"] for program in made),
        "usable_bytes": target.chip.usable_bytes if target.chip else 0,
        "hbm_bytes": target.chip.hbm_bytes if target.chip else 0,
        "devices": len(target.devices),
        "device_kind": target.devices[0].device_kind,
        "mesh": dict(plan.mesh.shape),
        "dtype": plan.dtype,
        "attention": plan.attention,
        "remat": ",".join(c.model.remat),
        "size": {
            "frames": c.data.num_frames,
            "height": c.data.height,
            "width": c.data.width,
        },
        "clips": plan.clips,
        "clips_per_device": plan.clips / passes / sharding.batch_shards(plan.mesh),
        "passes": passes,
        "per": "batch of videos" if request.samples else "optimizer step",
        "seconds_per_batch": [least, most] if bounds else None,
        "binding": made[0]["binding"],
        "programs": made,
        "notes": _notes(c, target, made, request.level),
        "level": request.level,
        "versions": plan_cache.versions(),
    }


def _notes(c: ConfigDict, target: Topology, made: list[dict[str, Any]], level: str) -> list[str]:
    notes = []
    if target.platform == "cpu":
        notes.append(
            "of memory on a CPU only the arguments mean anything: XLA for CPU does not recompute "
            "as TPUs do; plan for a TPU slice"
        )
    if c.mesh.slices > 1:
        notes.append("the slow network between slices is counted as if it were the fast one")
    endless = sum(program["loops_of_unknown_length"] for program in made)
    if endless:
        notes.append(f"{endless} loops have a length unknown to the compiler, and count once")
    absurd = sum(program["instructions_without_estimate"] for program in made)
    if absurd and level != "O0":
        notes.append(f"the static estimate leaves out {absurd} instructions without a number")
    return notes


def _advice(
    c: ConfigDict,
    request: Request,
    target: Topology,
    made: list[dict[str, Any]],
    memories: list[Memory],
) -> list[str]:
    worst = max(memories, key=lambda memory: memory.total)
    if target.chip is None or all(program["fits"] for program in made):
        return []
    return advice.advise(c, target, worst, trains=not request.samples)
