"""Where the compiler expects a training step to spend its time on a TPU that need not be there.

    python -m benchmarks.static_time --topology v5p:2x2x1 --clips_per_device 1 \\
        --config configs/stage3.py --config.model.remat=none

Compiles the step at the default level of optimisation, which takes half an hour and 20 GB at full
size, and adds up the compiler's estimated cycles by level of the networks and by kind of work.
Kernels, of which it knows nothing, count as the longer of products at the peak and bytes at the
bandwidth. The last line is the sum over the time that the step's model FLOPs take at the peak.
Exact for a version of the compiler; no device runs anything. Needs the extra `tpu`.
"""

import argparse
import re
from collections import defaultdict
from typing import NamedTuple

from posetraj_jax import config_file
from posetraj_jax.planning import compilation, making, programs, roofline, topology, work
from posetraj_jax.planning.chips import Chip
from posetraj_jax.planning.hlo import Instruction, Program
from posetraj_jax.planning.progress import Progress

LEVELS = (
    # What a row stands for, pattern of the names that JAX gives to operations.
    ("level 0", r"\b(down|up)_0\b"),
    ("level 1", r"\b(down|up)_1\b"),
    ("level 2", r"\b(down|up)_2\b"),
    ("level 3 and middle", r"\b(down_3|up_3|mid)\b"),
    ("maps", r"\bmaps\b"),
    ("the rest of the networks", r"\b(UNet|ControlNet|VAE|CLIPVision)\b"),
    ("optimizer and others", r""),
)
KINDS = ("products", "kernels", "reductions", "copies", "messages", "elementwise")
MESSAGES = r"all-|reduce-scatter|collective-"
NOTHING = {"fusion", "parameter", "constant", "bitcast", "tuple", "async-start"}
COPIES = r"copy|transpose|slice|concatenate|gather|pad|reshape"


class Breakdown(NamedTuple):
    """Seconds of one step on one device."""

    rows: dict[tuple[str, str], float]
    """(level, kind) → seconds."""
    floor: float
    """Of the model FLOPs at the peak."""

    @property
    def total(self) -> float:
        """Nothing overlaps."""
        return sum(self.rows.values())


def main(arguments: list[str] | None = None) -> Breakdown:
    """Prints the table and the ratio."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.static_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--topology", default="v5p:2x2x1")
    parser.add_argument("--clips_per_device", type=int, default=1)
    known, overrides = config_file.parse(parser, arguments)
    topology.prepare(known.topology)
    target = topology.find(known.topology)
    c = making.with_clips(config_file.load(known.config, overrides), target, known.clips_per_device)
    (step,) = programs.training(c, target).programs
    compiled = compilation.compile_program(step, target.platform, "default", Progress())
    floor = compiled.model_flops / len(target.devices) / target.chip.flops
    found = Breakdown(break_down(compiled.program, target.chip), floor)
    print(f"{known.config} {overrides} on {known.topology}, milliseconds")
    print(table(found))
    print(f"\nmodel FLOPs at the peak take {1e3 * found.floor:.1f} ms")
    print(f"the compiler expects {found.total / found.floor:.2f} times as much")
    return found


def break_down(program: Program, chip: Chip) -> dict[tuple[str, str], float]:
    """Seconds of every level and kind."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    sizes = work.sizes_of(program)
    for instruction, runs in program.executed():
        spent = runs * (work.cycles_of(instruction) or 0) / chip.clock
        if work.is_kernel(instruction):
            kernel = work.kernel_of(instruction, runs, sizes)
            spent += runs * roofline.seconds_of(kernel, chip)
        if spent:
            seconds[level_of(instruction), kind_of(instruction, program)] += spent
    return dict(seconds)


def level_of(instruction: Instruction) -> str:
    """The row of an instruction."""
    return next(name for name, pattern in LEVELS if re.search(pattern, instruction.operation))


def kind_of(instruction: Instruction, program: Program) -> str:
    """The column of an instruction; a fusion is what is dearest in it."""
    if work.is_kernel(instruction):
        return "kernels"
    fused = re.search(r"\bcalls=%([^\s,)]+)", instruction.rest)
    inside = program.computations.get(fused[1], []) if fused else []
    opcodes = {instruction.opcode, *(i.opcode for i in inside)}
    if any(re.match(MESSAGES, opcode) for opcode in opcodes):
        return "messages"
    if opcodes & {"convolution", "dot"}:
        return "products"
    if opcodes & {"reduce", "reduce-window"}:
        return "reductions"
    moves = all(re.match(COPIES, opcode) for opcode in opcodes - NOTHING)
    return "copies" if moves else "elementwise"


def table(found: Breakdown) -> str:
    """Levels down, kinds across, sums at the ends; Markdown."""
    lines = [("", *KINDS, "sum"), ("---",) * (len(KINDS) + 2)]
    for name in (*(name for name, _ in LEVELS), None):
        cells = [
            sum(s for (level, k), s in found.rows.items() if name in (None, level) and k == kind)
            for kind in KINDS
        ]
        numbers = [f"{1e3 * value:.1f}" for value in (*cells, sum(cells))]
        lines.append((name or "sum", *numbers))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
