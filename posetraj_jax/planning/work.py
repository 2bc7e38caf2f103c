"""What one device has to do in a run of a program: bytes of HBM, and the compiler's own cycles."""

import math
import re
from typing import NamedTuple

from posetraj_jax.planning.hlo import Instruction, Program, arrays_of

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
KERNEL_TELLS = {
    figure: re.compile(rf'"cost_estimate":\{{[^}}]*"{figure}":"?(\d+)')
    for figure in ("flops", "bytes_accessed")
}
"""What the author of a kernel says of one call."""
SPLASH = {"splash_mha_fwd": 2, "splash_mha_dkv": 5}
"""Attention's kernels, which tell no FLOPs: products of queries and keys of every head."""
SPLASH_OPERANDS = re.compile(r"operand_layout_constraints=\{s8\S+, s8\S+, (\S+), (\S+),")


class Kernel(NamedTuple):
    """Calls of one hand-written kernel, which the compiler knows nothing about."""

    flops: int
    """Of one call, padding counted: as its author says, or by the shapes that attention is given; 0
    for other kernels."""
    num_bytes: int
    """Of its operands and results once, or more where its author says so."""
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
        if is_kernel(instruction):
            kernels.append(kernel_of(instruction, runs, sizes))
            moved += runs * kernels[-1].num_bytes
        else:
            moved += runs * _moved(instruction, sizes)
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
    found = {name: tells.search(instruction.rest) for name, tells in KERNEL_TELLS.items()}
    told = {name: int(match[1]) for name, match in found.items() if match}
    flops = told["flops"] if "flops" in told else _flops_of_attention(instruction)
    return Kernel(flops, max(_moved(instruction, sizes), told.get("bytes_accessed", 0)), runs)


def _flops_of_attention(instruction: Instruction) -> int:
    found = SPLASH_OPERANDS.search(instruction.rest)
    products = next((n for name, n in SPLASH.items() if name in instruction.operation), 0)
    if not found or not products:
        return 0
    (queries,), (keys,) = arrays_of(found[1]), arrays_of(found[2])
    return 2 * products * math.prod(queries.shape) * keys.shape[-2]


def _moved(instruction: Instruction, sizes: dict[str, int]) -> int:
    operands = OPERAND.findall(instruction.rest.partition("), ")[0])
    if instruction.opcode == "dynamic-update-slice":  # in place
        return 2 * sizes.get(operands[1], 0)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * sizes[instruction.name]
    return sizes[instruction.name] + sum(sizes.get(name, 0) for name in operands)
