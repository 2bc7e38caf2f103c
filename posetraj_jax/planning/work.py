"""What one device has to do in a run of a program: bytes of HBM, and the compiler's own cycles."""

import re
from typing import NamedTuple

from posetraj_jax.planning.hlo import Instruction, Program

FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
        *("call", "after-all", "partition-id", "opt-barrier", "async-done", "async-update"),
    )
)
"""Instructions that move nothing themselves."""

OPERAND = re.compile(r"%([\w.\-]+)")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
ABSURD_CYCLES = 10**12
"""A quarter of an hour for one instruction: the compiler writes such numbers where it has none."""
KERNEL = 'custom_call_target="tpu_custom_call"'
KERNEL_FLOPS = re.compile(r'"cost_estimate":\{[^}]*"flops":"?(\d+)')


class Kernel(NamedTuple):
    """Calls of one hand-written kernel, which the compiler knows nothing about."""

    flops: int
    """Of one call, as its author says; 0 if he does not."""
    num_bytes: int
    runs: int


class Work(NamedTuple):
    """Of one device, in one run of a program."""

    hbm_bytes: int
    """Read and written, with padding; every instruction reads what it uses from HBM."""
    cycles: int
    """The sum of the compiler's estimates; kernels have none."""
    without_cycles: int
    """Instructions whose estimate is absurd, so that it is left out."""
    kernels: list[Kernel]


def of_program(program: Program) -> Work:
    """Adds up the instructions of a program as often as they run."""
    sizes = sizes_of(program)
    moved = cycles = absurd = 0
    kernels = []
    for instruction, runs in program.executed():
        estimate = cycles_of(instruction)
        if estimate is None:
            absurd += runs
        else:
            cycles += runs * estimate
        if instruction.opcode in FREE or instruction.opcode.endswith("-done"):
            continue
        moved += runs * _moved(instruction, sizes)
        if is_kernel(instruction):
            kernels.append(kernel_of(instruction, runs, sizes))
    return Work(moved, cycles, absurd, kernels)


def sizes_of(program: Program) -> dict[str, int]:
    """Bytes of HBM of everything that is made, by name."""
    return {i.name: sum(a.hbm_bytes for a in i.arrays) for i, _ in program.executed()}


def cycles_of(instruction: Instruction) -> int | None:
    """The compiler's estimate for one run, 0 where it gives none; None for an absurd one."""
    match = CYCLES.search(instruction.rest)
    cycles = int(match[1]) if match else 0
    return cycles if cycles < ABSURD_CYCLES else None


def is_kernel(instruction: Instruction) -> bool:
    """Whether it calls a hand-written kernel."""
    return KERNEL in instruction.rest


def kernel_of(instruction: Instruction, runs: int, sizes: dict[str, int]) -> Kernel:
    """What is known of the kernel that it calls."""
    told = KERNEL_FLOPS.search(instruction.rest)
    return Kernel(int(told[1]) if told else 0, _moved(instruction, sizes), runs)


def _moved(instruction: Instruction, sizes: dict[str, int]) -> int:
    operands = OPERAND.findall(instruction.rest.partition("), ")[0])
    if instruction.opcode == "dynamic-update-slice":  # in place
        return 2 * sizes.get(operands[1], 0)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * sizes[instruction.name]
    return sizes[instruction.name] + sum(sizes.get(name, 0) for name in operands)
