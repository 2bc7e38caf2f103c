"""What a TPU program keeps in HBM and when, from the reports that the compiler writes beside it.

The arena of temporaries is one block, in which every buffer has its place for a while; the reports
tell each one's offset, size, and first and last instruction.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from posetraj_jax.planning.hlo import Instruction, Program, arrays_of

ALLOCATION = re.compile(r"allocation \d+: size (\d+)(?:, color (\d+))?(.*)$")
PARAMETER = re.compile(r", parameter (\d+), shape \|.*\| at ShapeIndex \{([\d,]*)\}")
VALUE = re.compile(r" value: <\d+ (\S+?)(?:\{[\d,]*\})? @\d+> \(size=(\d+),offset=(\d+)\): (.*)$")
VALUE_NAME = re.compile(r" value: <\d+ (\S+) @")
STEP = re.compile(r"    (\d+):(\S+)$")
LIVE = re.compile(r"    (\S+?)(\{[\d,]*\}):(\d+)-(\d+)$")
SECTION = re.compile(r"  (\S.*):$")

GATHERED, ACTIVATIONS, TEMPORARIES = "gathered kernels", "activations", "temporaries"
"""Of the arena: kernels gathered for use, what the forward pass keeps for the backward pass, and
everything else."""


class Buffer(NamedTuple):
    """A piece of the arena, for as long as it is needed."""

    name: str
    """Of the instruction that writes it."""
    num_bytes: int
    offset: int
    first: int
    last: int
    """Instructions, counted along the schedule."""
    type: str


class Arena(NamedTuple):
    """HBM as the compiler divides it, bytes."""

    arguments: dict[str, int]
    """By kind; padded to the hardware's tiles."""
    constants: int
    results: int
    """That are not written over an argument."""
    arena: int
    """The block of temporaries, gaps included."""
    buffers: list[Buffer]
    schedule: list[str]
    """Names of the instructions in the order in which they run."""

    @property
    def allocated(self) -> int:
        """All of it."""
        return sum(self.arguments.values()) + self.constants + self.results + self.arena


class Live(NamedTuple):
    """A buffer at the fullest moment."""

    num_bytes: int
    kind: str
    type: str
    operation: str
    source: str
    """A line of this package; empty where the compiler does not say."""


class Peak(NamedTuple):
    """The fullest moment of the arena."""

    num_bytes: int
    source: str
    """Of the instruction that runs then."""
    kinds: dict[str, int]
    live: list[Live]
    """The largest first."""


def read_arena(
    assignment: Iterable[str], live_ranges: Iterable[str], kind_of: Callable[[int], str]
) -> Arena:
    """Reads the reports `buffer-assignment` and `live-range`.

    Args:
      kind_of: the kind of the argument with this number.

    Raises:
      ValueError: these are no such reports.
    """
    schedule, ranges = _read_ranges(live_ranges)
    arguments: dict[str, int] = defaultdict(int)
    constants = results = arena = 0
    buffers: list[Buffer] = []
    inside = False
    for line in assignment:
        line = line.rstrip("\n")
        if inside and (match := VALUE.match(line)):
            name, size, offset, kind = match.groups()
            written = VALUE_NAME.match(line)[1]
            index = written if written.endswith("}") else written + "{}"
            if index in ranges:
                buffers.append(Buffer(name, int(size), int(offset), *ranges[index], kind))
        elif match := ALLOCATION.match(line):
            size, color, rest = int(match[1]), match[2], match[3]
            inside = color is None and "preallocated-temp" in rest
            if color is not None or "thread-local" in rest:
                continue  # not HBM
            if parameter := PARAMETER.match(rest):
                # Thousands of arguments come as one tuple, and the index tells which it is.
                of_tuple = parameter[2].split(",")[0]
                number = int(of_tuple or parameter[1])
                arguments[kind_of(number)] += size
            elif "constant" in rest:
                constants += size
            elif inside:
                arena += size
            else:
                results += size
    if not arguments and not arena:
        raise ValueError("a buffer assignment has allocations")
    return Arena(dict(arguments), constants, results, arena, buffers, schedule)


def find_peak(arena: Arena, program: Program, most: int = 12) -> Peak:
    """The fullest moment, and what is there, by kind and as a list of the `most` largest."""
    moment = _fullest(arena.buffers)
    there = _apart([b for b in arena.buffers if b.first <= moment <= b.last])
    by_name = {i.name: i for computation in program.computations.values() for i in computation}
    kinds: dict[str, int] = defaultdict(int)
    live = []
    for buffer, num_bytes in there:
        instruction = by_name.get(buffer.name)
        kind = _kind_of(instruction, by_name.get(_at(arena.schedule, buffer.last)))
        kinds[kind] += num_bytes
        arrays = arrays_of(buffer.type)
        live.append(
            Live(
                num_bytes,
                kind,
                str(arrays[0]) if arrays else "",
                instruction.operation if instruction else buffer.name,
                program.source(instruction) if instruction else "",
            )
        )
    live.sort(key=lambda one: -one.num_bytes)
    now = by_name.get(_at(arena.schedule, moment))
    source = program.source(now) if now else ""
    return Peak(sum(kinds.values()), source, dict(kinds), live[:most])


def _read_ranges(lines: Iterable[str]) -> tuple[list[str], dict[str, tuple[int, int]]]:
    schedule, ranges, section = [], {}, ""
    for line in lines:
        line = line.rstrip("\n")
        if match := SECTION.match(line):
            section = match[1]
        elif section == "InstructionSequence" and (match := STEP.match(line)):
            schedule.append(match[2])
        elif section == "BufferLiveRange" and (match := LIVE.match(line)):
            ranges[match[1] + match[2]] = int(match[3]), int(match[4])
    if not ranges:
        raise ValueError("a report of live ranges has the section BufferLiveRange")
    return schedule, ranges


def _at(schedule: list[str], moment: int) -> str:
    return schedule[moment] if moment < len(schedule) else ""


def _fullest(buffers: list[Buffer]) -> int:
    """The instruction at which most bytes are held; buffers at one place count once."""
    events = [(b.first, 0, b) for b in buffers] + [(b.last + 1, -1, b) for b in buffers]
    events.sort(key=lambda event: event[:2])
    held: dict[tuple[int, int], int] = defaultdict(int)
    now = most = moment = 0
    for when, ends, buffer in events:
        place = buffer.offset, buffer.num_bytes
        if ends:
            held[place] -= 1
            now -= buffer.num_bytes if not held[place] else 0
        else:
            now += buffer.num_bytes if not held[place] else 0
            held[place] += 1
        if now > most:
            most, moment = now, when
    return moment


def _apart(buffers: list[Buffer]) -> list[tuple[Buffer, int]]:
    """Each buffer with the bytes that none before it in the arena has."""
    end, parts = 0, []
    for buffer in sorted(buffers, key=lambda b: (b.offset, -b.num_bytes)):
        stop = buffer.offset + buffer.num_bytes
        if stop > end:
            parts.append((buffer, stop - max(end, buffer.offset)))
            end = stop
    return parts


def _kind_of(writer: Instruction | None, reader: Instruction | None) -> str:
    """What a temporary is for, as far as its origin and its last use tell."""
    if writer is None:
        return TEMPORARIES
    if writer.opcode.startswith("all-gather") or "sharding_constraint" in writer.operation:
        return GATHERED
    kept = reader is not None and _is_backward(reader) and not _is_backward(writer)
    return ACTIVATIONS if kept else TEMPORARIES


def _is_backward(instruction: Instruction) -> bool:
    return "transpose(" in instruction.operation
