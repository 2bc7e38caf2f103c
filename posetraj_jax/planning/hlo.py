"""The text of a compiled program: instructions, how often each runs, and its source line."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

ITEM_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1.0),
    **dict.fromkeys(("s4", "u4"), 0.5),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2.0),
    **dict.fromkeys(("f32", "s32", "u32"), 4.0),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8.0),
}
ARRAY = re.compile(
    r"\b(" + "|".join(ITEM_BYTES) + r")\[([\d,]*)\]"
    r"(?:\{([\d,]*)(?::(?:T\(([\d,]+)\))?([^}]*))?\})?"
)
COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
END = re.compile(r"^\}(, \w+=.*)?$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)$")
CALLED = re.compile(r"\b(body|condition|calls|to_apply)=%([^\s,)]+)")
BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
TABLE_ROW = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')
OURS = re.compile(r".*/(posetraj_jax/.*)$")


class Array(NamedTuple):
    """The type of one array."""

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()
    """Axes from the one that is contiguous outwards."""
    tile: tuple[int, ...] = ()
    """Multiples to which the innermost axes are padded, the innermost last."""
    elsewhere: bool = False
    """Whether it lies in another memory than HBM."""

    @property
    def num_bytes(self) -> int:
        """Without any padding."""
        return math.ceil(math.prod(self.shape) * ITEM_BYTES[self.dtype])

    @property
    def hbm_bytes(self) -> int:
        """With the padding of its layout; 0 elsewhere."""
        padded = list(self.shape)
        for axis, multiple in zip(self.order, reversed(self.tile), strict=False):
            padded[axis] = -(-padded[axis] // multiple) * multiple
        return 0 if self.elsewhere else math.ceil(math.prod(padded) * ITEM_BYTES[self.dtype])

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    type: str
    opcode: str
    rest: str
    """Operands and attributes."""

    @property
    def arrays(self) -> list[Array]:
        """What it makes, in order; of a tuple, everything in it."""
        return arrays_of(self.type)

    @property
    def operation(self) -> str:
        """What JAX calls what it came from; empty where the compiler made it."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return found[1].replace("\\'", "'") if found else ""


class Program(NamedTuple):
    """A compiled module."""

    entry: str
    computations: dict[str, list[Instruction]]
    runs: dict[str, int]
    """How often each computation runs; the inside of a fusion as often as the fusion."""
    scheduled: frozenset[str]
    """Computations whose instructions are run one by one: not the inside of a fusion."""
    endless: int
    """Loops of unknown length, counted as if they ran once."""
    sources: dict[int, str]
    """Stack frame → "posetraj_jax/nn/resnet.py:41", the innermost line of this package."""

    @property
    def parameters(self) -> list[Instruction]:
        """The arguments of the program."""
        return [i for i in self.computations[self.entry] if i.opcode == "parameter"]

    def executed(self) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that is run by itself, with the number of runs."""
        for name in self.scheduled:
            for instruction in self.computations[name]:
                yield instruction, self.runs[name]

    def source(self, instruction: Instruction) -> str:
        """The line of this package that an instruction came from; empty where none is known."""
        found = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        return self.sources.get(int(found[1]), "") if found else ""


def arrays_of(text: str) -> list[Array]:
    """The array types in a piece of a program."""
    return [
        Array(dtype, _numbers(sizes), _numbers(order), _numbers(tile), "S(" in rest)
        for dtype, sizes, order, tile, rest in ARRAY.findall(text)
    ]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def parse(lines: Iterable[str]) -> Program:
    """Reads the text of a compiled module.

    Raises:
      ValueError: it is none, or of a form that is not understood.
    """
    computations: dict[str, list[Instruction]] = {}
    tables: dict[str, dict[int, str]] = defaultdict(dict)
    entry, current, table = "", None, ""
    for line in lines:
        line = line.rstrip("\n")
        if current is not None:
            if match := INSTRUCTION.match(line):
                current.append(Instruction(*match.groups()))
            elif END.match(line):
                current = None
            elif current:  # a kernel's description has line breaks
                current[-1] = current[-1]._replace(rest=f"{current[-1].rest} {line.strip()}")
        elif match := COMPUTATION.match(line):
            current = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif INSTRUCTION.match(line):
            raise ValueError(f"an instruction outside of any computation: {line.strip()[:80]}")
        elif match := TABLE_ROW.match(line):
            tables[table][int(match[1])] = match[2] or match[3] or ""
        else:
            table = line
    if not entry:
        raise ValueError("a compiled module has an ENTRY computation")
    runs, scheduled, endless = _runs(entry, computations)
    return Program(entry, computations, runs, scheduled, endless, _sources(tables))


def _runs(
    entry: str, computations: dict[str, list[Instruction]]
) -> tuple[dict[str, int], frozenset[str], int]:
    runs, scheduled, endless = defaultdict(int, {entry: 1}), {entry}, 0
    # A module's text defines every computation before it is used.
    for caller in reversed(computations):
        if not runs[caller]:
            continue
        for instruction in computations[caller]:
            times = 1
            if instruction.opcode == "while":
                known = _trip_count(instruction, computations)
                times = known or 1
                endless += runs[caller] * (known is None)
            for role, name in _called(instruction):
                runs[name] += runs[caller] * times
                inlined = instruction.opcode == "fusion" or role == "to_apply"
                if caller in scheduled and (not inlined or instruction.opcode == "call"):
                    scheduled.add(name)
    return dict(runs), frozenset(scheduled), endless


def _trip_count(loop: Instruction, computations: dict[str, list[Instruction]]) -> int | None:
    """How often a loop runs: as the compiler says, or by its condition, a counter below a constant.

    Counters begin at 0 and count by 1, as those of `lax.scan` and of the compiler's own loops do.
    """
    if told := TRIP_COUNT.search(loop.rest):
        return int(told[1])
    condition = computations.get(dict(_called(loop)).get("condition", ""), [])
    below = [i for i in condition if i.opcode == "compare" and "direction=LT" in i.rest]
    constants = {i.name: i.rest for i in condition if i.opcode == "constant"}
    for name in re.findall(r"%([\w.\-]+)", below[0].rest) if len(below) == 1 else ():
        if name in constants and (number := re.match(r"\d+", constants[name])):
            return int(number[0])
    return None


def _called(instruction: Instruction) -> Iterator[tuple[str, str]]:
    yield from CALLED.findall(instruction.rest)
    for names in BRANCHES.findall(instruction.rest):
        for name in names.split(","):
            yield "branch", name.strip().removeprefix("%")


def _sources(tables: dict[str, dict[int, str]]) -> dict[int, str]:
    """Walks every stack outwards to the first line of this package."""
    lines = {}
    for location, row in tables["FileLocations"].items():
        fields = _fields(row)
        file = OURS.match(tables["FileNames"].get(fields.get("file_name_id", 0), ""))
        lines[location] = f"{file[1]}:{fields['line']}" if file else ""
    sources: dict[int, str] = {}
    for frame, row in tables["StackFrames"].items():
        fields = _fields(row)
        # The parent's number is one too high, so that none (0) is never written.
        parent = sources.get(fields.get("parent_frame_id", 0) - 1, "")
        sources[frame] = lines.get(fields["file_location_id"], "") or parent
    return sources


def _fields(row: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", row)}
