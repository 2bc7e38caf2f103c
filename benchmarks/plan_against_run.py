"""What a plan foretells against what then happens.

    python -m benchmarks.plan_against_run --config configs/stage1.py:micro

Plans a training step for the devices of this machine, then takes some steps with random numbers.
Everywhere what the step works on is compared, which is most of the memory at full size; on a GPU or
TPU also the peak of memory and the seconds, which the plan bounds from both sides. For full size:

    python -m benchmarks.plan_against_run --config configs/stage1.py --topology gpu
"""

import argparse

import jax

from benchmarks.random_step import make_step
from posetraj_jax import config_file, sharding
from posetraj_jax.planning import making, topology
from posetraj_jax.planning.making import Request
from posetraj_jax.sharding import MeshOptions


def main(arguments: list[str] | None = None) -> float:
    """Prints what was foretold and what happened; returns what is held over what was planned."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plan_against_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--topology", default="", help="needed on TPUs, whose slices have names")
    known, overrides = config_file.parse(parser, arguments)
    c = config_file.load(known.config, overrides)
    name = known.topology or topology.of_this_machine()
    page = making.page_of(c, Request(known.config, name, level="default"), cached=False)
    planned = page["programs"][0]["memory"]

    device = jax.devices()[0]
    step = make_step(c, sharding.make_mesh(MeshOptions(**c.mesh)))
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(step.arguments)
        for shard in leaf.addressable_shards
        if shard.device == device
    )
    step.run()
    seconds = sorted(step.run() for _ in range(known.steps))[known.steps // 2]
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")

    expected = sum(planned["arguments"].values())
    print(f"\n{known.config} on {page['devices']} x {page['device_kind']}; of one device, in GB")
    print(f"what the step works on  planned {expected / 1e9:8.4f}, measured {held / 1e9:8.4f}")
    if peak:
        total = planned["total"]
        print(f"memory at the peak      planned {total / 1e9:8.4f}, measured {peak / 1e9:8.4f}")
    if page["seconds_per_batch"]:
        least, most = page["seconds_per_batch"]
        print(f"seconds of a step       planned {least:.3g} to {most:.3g}, measured {seconds:.3g}")
        print(f"measured seconds / least planned: {seconds / least:.2f}")
    if peak:
        print(f"measured peak / planned: {peak / planned['total']:.3f}")
    print(f"held for the step / planned: {held / expected:.4f}")
    return held / expected


if __name__ == "__main__":
    main()
