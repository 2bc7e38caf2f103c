"""Command line options that all preparations share, and how a run of one ends."""

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.fanout.hand import HandOptions
from data_prep.fanout.pipeline import FanoutOptions
from data_prep.fanout.task import Outcome, Task, appearing
from posetraj_jax.errors import listed

EXIT_INCOMPLETE = 3
"""Exit code of a run that did what it could and had to leave some sources out."""
GIGA = 10**9
MOST_LINES = 40
"""That are printed; the report has all."""


def add_options(
    parser: argparse.ArgumentParser, *, timeout_s: float, memory_gb: float = 8.0
) -> None:
    """Adds the options of the fan-out; what follows a lone '--' goes to Beam as it is."""
    group = parser.add_argument_group("how the work is spread")
    add = group.add_argument
    add("--parts", type=Path, help="folder of finished parts (default: beside --out)")
    add(
        "--workers",
        type=positive_integer,
        default=os.cpu_count() or 1,
        help="processes (%(default)s)",
    )
    add("--timeout_s", type=positive_number, default=timeout_s, help="of a task (%(default)s)")
    add("--retries", type=whole, default=1, help="after a crash or a timeout (%(default)s)")
    add("--memory_gb", type=number, default=memory_gb, help="of a process, 0 = all (%(default)s)")
    add("--accept_rejects", action="store_true", help="exit with 0 though sources were left out")
    parser.epilog = "Options of Apache Beam, such as -- --runner=FlinkRunner, go after a lone '--'."


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """The options of a preparation and those of Beam."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    return parser.parse_args(arguments[:split]), tuple(arguments[split + 1 :])


def fanout_options(
    options: argparse.Namespace, beam: tuple[str, ...], *, unit: str, tasks_per_process: int = 1
) -> FanoutOptions:
    """What `pipeline.run` needs."""
    hand = HandOptions(
        timeout_s=options.timeout_s,
        memory_bytes=round(options.memory_gb * GIGA),
        retries=options.retries,
        tasks_per_process=tasks_per_process,
    )
    return FanoutOptions(options.workers, hand, unit, beam)


def earlier_report(file: Path, tasks: Sequence[Task]) -> dict[str, Any] | None:
    """What `report` wrote of these very tasks; None if it never did."""
    try:
        said = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and said.get("made_of") == _digest(tasks) else None


def _digest(tasks: Sequence[Task]) -> str:
    names = "\n".join(task.folder(Path()).name for task in tasks)
    return hashlib.sha256(names.encode()).hexdigest()


def report(
    outcomes: Sequence[Outcome],
    names: Sequence[str],
    file: Path,
    accept: bool,
    tasks: Sequence[Task] = (),
) -> int:
    """Says what was left out and why, source by source; returns the exit code.

    Args:
        outcomes: of all tasks.
        names: of their sources, as the user knows them.
        file: gets the same as JSON: how many are finished, and name to reason of the others.
        accept: rejected sources are no reason for another exit code; failed ones always are.
        tasks: by which `earlier_report` knows it again.
    """
    pairs = list(zip(names, outcomes, strict=True))
    rejected = {name: outcome.rejected for name, outcome in pairs if outcome.rejected}
    failed = {name: outcome.failed for name, outcome in pairs if outcome.failed}
    said = {
        "finished": len(pairs) - len(rejected) - len(failed),
        "rejected": rejected,
        "failed": failed,
        "made_of": _digest(tasks),
    }
    text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
    if not file.exists() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        with appearing(file) as partial:
            partial.write_text(text)
    for what, reasons in (("rejected", rejected), ("failed, tried again next time", failed)):
        if reasons:
            lines = [f"{name}: {reason}" for name, reason in reasons.items()]
            print(f"{len(lines)} of {len(pairs)} {what}:{listed(lines, MOST_LINES)}")
    if rejected or failed:
        print(f"all of them: {file}")
    return EXIT_INCOMPLETE if failed or (rejected and not accept) else 0


def whole(text: str) -> int:
    """An argument of 0 or more."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def positive_integer(text: str) -> int:
    """An argument of 1 or more."""
    if whole(text) == 0:
        raise ValueError
    return whole(text)


def number(text: str) -> float:
    """A finite argument of 0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def positive_number(text: str) -> float:
    """A finite argument above 0."""
    if number(text) == 0:
        raise ValueError
    return number(text)
