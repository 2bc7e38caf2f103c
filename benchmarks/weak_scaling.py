"""What sharding costs where nothing is gained by it: weak scaling over devices that are not real.

    python -m benchmarks.weak_scaling [--devices 1 2 4 8] [--fsdp 0] [--steps 5]

One CPU poses as several devices, which share its cores. N of them train on N clips, a clip each,
and one alone trains on the same N clips, in turns: as the work is the same and so are the cores,
a program that scaled perfectly would take the same time. What it takes longer is what splitting
costs: messages, kernels gathered for use, and smaller pieces. Beside it, what every device sends
in a step, read in the compiled program: with more devices it tends to a limit, all kernels once for
each pass.
"""

import argparse

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from benchmarks.random_step import Step, make_step
from posetraj_jax import config_file, sharding
from posetraj_jax.planning import collectives, hlo
from posetraj_jax.sharding import MeshOptions


def main(arguments: list[str] | None = None) -> float:
    """Prints a line per number of devices; returns the efficiency of the largest."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weak_scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--fsdp", type=int, default=0, help="as mesh.fsdp; 0: all (%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="of each (%(default)s)")
    parser.add_argument("--variant", default="micro", help="of stage 1 (%(default)s)")
    given = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(given.devices))
    efficiency = 1.0
    for count in given.devices:
        fields = {"optim.accumulate": "1", "batch_size": str(count)}
        c = config_file.load(f"stage1:{given.variant}", fields)
        one, all_of_them = (
            sharding.make_mesh(MeshOptions(fsdp=given.fsdp), jax.devices()[:devices])
            for devices in (1, count)
        )
        steps = [make_step(c, one), make_step(c, all_of_them)]
        alone, together = fastest(steps, given.steps)
        efficiency = alone / together
        sent = sent_bytes(steps[1], all_of_them) / 1e6
        print(
            f"{count} clips: 1 device {alone:6.2f} s, {count} devices {together:6.2f} s; "
            f"each sends {sent:.1f} MB a step",
            flush=True,
        )
    print(f"{given.devices[-1]} devices reach {efficiency:.2f} of the speed of one alone")
    return efficiency


def fastest(steps: list[Step], repeats: int) -> list[float]:
    """Seconds of the fastest run of each, which take turns; the first of each does not count."""
    rounds = [[step.run() for step in steps] for _ in tqdm(range(repeats + 1), leave=False)]
    return [min(seconds) for seconds in zip(*rounds[1:], strict=True)]


def sent_bytes(step: Step, mesh: Mesh) -> int:
    """What one device sends in a step."""
    program = hlo.parse(step.compiled.as_text().splitlines())
    return sum(row.sent_bytes for row in collectives.of_program(program, dict(mesh.shape)))


if __name__ == "__main__":
    main()
