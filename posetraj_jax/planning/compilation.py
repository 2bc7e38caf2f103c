"""Compiles a program for devices that need not be there, and reads what the compiler made of it."""

import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from posetraj_jax import flops
from posetraj_jax.planning import hlo, memory_report
from posetraj_jax.planning.memory_report import Peak
from posetraj_jax.planning.programs import Kinds, Planned
from posetraj_jax.planning.progress import Progress

LEVELS = {"O0": "O0", "default": "UNKNOWN"}
"""Levels of optimisation by what a user calls them. O0 takes minutes where the default takes far
longer; its memory is within some percent."""
REPORTS = {
    "given": ("before_optimizations.txt",),
    "assignment": ("after_optimizations-buffer-assignment.txt",),
    "live_ranges": ("after_optimizations-live-range.txt",),
    # The final program, which has cycle estimates, is missing where the memory does not suffice.
    "made": ("after_codegen.txt", "after_optimizations.txt"),
}
"""How the names of the compiler's reports end, the best first."""

MOST_SAID = 300
"""Characters of the compiler's refusal: what follows is the instruction, in all its types."""


class Memory(NamedTuple):
    """HBM of one device, bytes."""

    arguments: dict[str, int]
    """By kind."""
    arena: int
    """The block of temporaries with its gaps, constants and results of their own."""
    code: int
    peak: int
    """At the fullest moment, without the gaps."""
    moment: Peak | None
    """None where the compiler writes no such report, as on CPU and GPU."""
    measured: dict[str, int]
    """JAX's `memory_analysis`, as it is; empty where the compiler refused the program."""

    @property
    def total(self) -> int:
        """All that must be free before the program can start."""
        return sum(self.arguments.values()) + self.arena + self.code


class Compiled(NamedTuple):
    """What a compiler made of a program."""

    program: hlo.Program
    memory: Memory
    refused: str
    """In the compiler's words, why this cannot run; empty where it can."""
    flops: int
    """Of all devices, with what is recomputed but for a kernel's own."""
    model_flops: int
    """Without what is recomputed."""


def compile_program(planned: Planned, platform: str, level: str, progress: Progress) -> Compiled:
    """Traces, lowers, compiles and reads; takes minutes and 15 GB of memory at full size.

    Args:
      platform: of the devices in the shardings of the arguments.
      level: of `LEVELS`.
    """
    of = f" {planned.name}"
    with progress.phase("count the FLOPs of the" + of):
        counts = {}
        for function in (planned.plain, planned.model):
            if function not in counts:
                counts[function] = flops.count(function, *planned.arguments)
        run, model = counts[planned.plain], counts[planned.model]
    with progress.phase("trace" + of):
        traced = planned.function.trace(*planned.arguments)
    with progress.phase("lower" + of):
        lowered = traced.lower(lowering_platforms=(platform if platform != "gpu" else "cuda",))
        del traced
    with tempfile.TemporaryDirectory(prefix="posetraj_jax_plan_") as folder:
        options = {"xla_dump_to": folder} if platform == "tpu" else None
        compiled, refused = None, ""
        with progress.phase("compile" + of), _optimising(LEVELS[level]):
            try:
                compiled = lowered.compile(compiler_options=options)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or platform != "tpu":
                    raise
                reason = str(error).partition("RESOURCE_EXHAUSTED:")[2].split("\n", 2)
                refused = " ".join(" ".join(reason[:2]).split())[:MOST_SAID]
        del lowered
        with progress.phase("read" + of):
            measured = _measured(compiled)
            if platform != "tpu":
                program = hlo.parse(compiled.as_text().splitlines())
                return Compiled(program, _plain_memory(planned, measured), "", run, model)
            del compiled
            program, memory = read_reports(Path(folder), planned.kinds, measured)
            return Compiled(program, memory, refused, run, model)


@contextmanager
def _optimising(level: str) -> Iterator[None]:
    before = jax.config.jax_optimization_level
    jax.config.update("jax_optimization_level", level)
    try:
        yield
    finally:
        jax.config.update("jax_optimization_level", before)


def _measured(compiled: Any) -> dict[str, int]:
    stats = compiled and compiled.memory_analysis()
    names = [name for name in dir(stats) if re.fullmatch(r"(?!host_)\w+_in_bytes", name)]
    return {name.removesuffix("_in_bytes"): int(getattr(stats, name)) for name in names}


def read_reports(
    folder: Path, kinds: Kinds, measured: dict[str, int]
) -> tuple[hlo.Program, Memory]:
    """What the reports in `folder` say of a TPU program.

    Args:
      kinds: pattern of an argument's path → what it is.
      measured: JAX's `memory_analysis`; empty where there is none.

    Raises:
      FileNotFoundError: a report is missing.
    """
    files = {role: _largest(folder, endings) for role, endings in REPORTS.items()}
    with files["given"].open() as lines:
        given = hlo.parse(lines).parameters
    # Before it is optimised every argument has a line of its own, with its path.
    paths = {int(i.rest.partition(")")[0]): i.operation for i in given}
    with files["assignment"].open() as assignment, files["live_ranges"].open() as ranges:
        arena = memory_report.read_arena(
            assignment, ranges, lambda number: _kind(paths[number], kinds)
        )
    with files["made"].open() as lines:
        program = hlo.parse(lines)
    moment = memory_report.find_peak(arena, program)
    held = arena.allocated - arena.arena + moment.num_bytes
    beside = arena.constants + arena.results
    return program, Memory(
        arguments=arena.arguments,
        # JAX counts scratch of collectives too; the reports, what else is kept beside it.
        arena=max(arena.arena + beside, measured.get("temp_size", 0)),
        code=measured.get("generated_code_size", 0),
        peak=max(held, measured.get("peak_memory", 0)),
        moment=moment,
        measured=measured,
    )


def _largest(folder: Path, endings: Sequence[str]) -> Path:
    """The report of the program itself; smaller ones are of programs that the compiler adds."""
    for ending in endings:
        found = [path for path in folder.iterdir() if path.name.endswith(f".{ending}")]
        if found:
            return max(found, key=lambda path: path.stat().st_size)
    raise FileNotFoundError(f"the compiler wrote no {endings[-1]}: this libtpu is not understood")


def _plain_memory(planned: Planned, measured: dict[str, int]) -> Memory:
    """What is known without reports: the arguments from their shapes, the rest as one number."""
    arguments: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(planned.arguments):
        kind = _kind(f"args{jax.tree_util.keystr(path)}", planned.kinds)
        held = leaf.sharding.shard_shape(leaf.shape)
        size = jax.numpy.dtype(leaf.dtype).itemsize if not _is_key(leaf) else 8
        arguments[kind] = arguments.get(kind, 0) + size * math.prod(held)
    arena = measured.get("temp_size", 0) + max(
        measured.get("output_size", 0) - measured.get("alias_size", 0), 0
    )
    code = measured.get("generated_code_size", 0)
    return Memory(arguments, arena, code, sum(arguments.values()) + arena, None, measured)


def _is_key(leaf: jax.ShapeDtypeStruct) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(path: str, kinds: Kinds) -> str:
    return next(kind for pattern, kind in kinds if re.match(pattern, path))
