"""What devices send each other: the collectives of a compiled program, by kind and mesh axis."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from posetraj_jax.planning.hlo import Array, Instruction, Program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
REDUCE_SCATTER_FUSION = "all-reduce-scatter"
"""A TPU's reduce-scatter: a fusion around an all-reduce, of which each device keeps its part."""

LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


class Traffic(NamedTuple):
    """All collectives of one kind along the same mesh axes, of one element type."""

    kind: str
    axis: str
    """As `axis_of` names it."""
    dtype: str
    count: int
    """Runs per step."""
    num_bytes: int
    """Of the whole arrays, on one device; an all-reduce twice, as it scatters and gathers."""
    sent_bytes: int
    """What one device sends at least."""


def of_program(program: Program, mesh: Mapping[str, int]) -> list[Traffic]:
    """Sums up the collectives of a program, the largest first.

    Args:
      mesh: axis → devices, outermost first; the program numbers the devices in this order.
    """
    total: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for name, instructions in program.computations.items():
        times = program.runs.get(name, 0)
        for instruction in instructions if times else ():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            if kind == "all-reduce" and name.startswith(REDUCE_SCATTER_FUSION):
                kind = "reduce-scatter"
            groups = groups_of(instruction, mesh)
            if groups.shape[1] == 1:
                continue  # a device by itself
            axis = axis_of(groups, mesh, in_pairs=kind == "collective-permute")
            for array in _whole(kind, instruction, len(groups[0])):
                of = total[kind, axis, array.dtype]
                payload = array.num_bytes * (2 if kind == "all-reduce" else 1)
                of[1] += times * payload
                of[2] += times * _sent(kind, payload, len(groups[0]))
            for dtype in {array.dtype for array in instruction.arrays[:1]}:
                total[kind, axis, dtype][0] += times
    rows = (Traffic(*key, *numbers) for key, numbers in total.items())
    return sorted(rows, key=lambda row: -row.num_bytes)


def groups_of(instruction: Instruction, mesh: Mapping[str, int]) -> np.ndarray:
    """The devices that talk to each other, one row per group; all in one where nothing is said."""
    rest, count = instruction.rest, int(np.prod(list(mesh.values())))
    if match := PAIRS.search(rest):
        return np.array(re.findall(r"(\d+),(\d+)", match[1]), int).reshape(-1, 2)
    if match := LISTED.search(rest):
        rows = [row.split(",") for row in re.findall(r"\{([\d,]+)\}", match[1])]
        return np.array(rows, int) if rows else np.arange(count)[None]
    if match := IOTA.search(rest):
        return _iota(match[2], match[3]).reshape(_sizes(match[1]))
    if match := NAMED.search(rest):
        return _named(*match.groups())
    return np.arange(count)[None]


def axis_of(groups: np.ndarray, mesh: Mapping[str, int], *, in_pairs: bool = False) -> str:
    """The mesh axes along which devices of one group differ: "fsdp", or "data+fsdp".

    Args:
      in_pairs: of a permutation, whose pairs go around an axis. Else groups that are smaller than
        their axes show it: "fsdp/2" for two devices within a longer axis.
    """
    place = np.stack(np.unravel_index(groups, tuple(mesh.values())))
    differ = [(axis != axis[:, :1]).any() for axis in place]
    names = [name for name, moves in zip(mesh, differ, strict=True) if moves]
    whole = int(np.prod([mesh[name] for name in names]))
    part = "" if in_pairs or groups.shape[1] == whole else f"/{groups.shape[1]}"
    return ("+".join(names) or "none") + part


def _whole(kind: str, instruction: Instruction, group: int) -> list[Array]:
    """The arrays as they are before a scatter or after a gather."""
    arrays, started = instruction.arrays, instruction.opcode.endswith("-start")
    if started and kind == "collective-permute":
        return arrays[:1]  # operand, result, and what the hardware needs
    if started and kind != "all-reduce":
        arrays = arrays[len(arrays) // 2 :]  # operands, then results
    if instruction.opcode.startswith("reduce-scatter"):
        return [Array(a.dtype, (group, *a.shape)) for a in arrays]
    return arrays


def _sent(kind: str, payload: int, group: int) -> int:
    return payload if kind == "collective-permute" else payload * (group - 1) // group


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


def _iota(sizes: str, order: str | None) -> np.ndarray:
    devices = np.arange(np.prod(_sizes(sizes))).reshape(_sizes(sizes))
    return devices.transpose(_sizes(order)) if order else devices


def _named(axes: str, sizes: str | None, order: str | None, used: str) -> np.ndarray:
    """Groups written as a mesh with axes of the compiler's own, and those that vary in a group."""
    lengths = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    devices = _iota(sizes, order) if sizes else np.arange(np.prod(list(lengths.values())))
    devices = devices.reshape(tuple(lengths.values()))
    # 'axis':(before)size is a part of an axis.
    parts = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", used)
    shape: list[Any] = []
    varying: list[int] = []
    for name, length in lengths.items():
        cuts = [(int(before), int(size)) for n, before, size in parts if n == name and before]
        whole = any(n == name and not before for n, before, _ in parts)
        before, size = cuts[0] if cuts else (1, length)
        varying += [len(shape) + 1] if cuts or whole else []
        shape += [before, size, length // before // size]
    grid = devices.reshape(shape)
    fixed = [axis for axis in range(grid.ndim) if axis not in varying]
    group = int(np.prod([shape[axis] for axis in varying]))
    return grid.transpose(*fixed, *varying).reshape(-1, group)
