"""What came of all sources: for the user, and for the next run of the same command."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_prep.fanout.task import Outcome, Task, appearing
from posetraj_jax.errors import listed

EXIT_INCOMPLETE = 3
"""Exit code of a run that did what it could and had to leave some sources out."""
MOST_LINES = 40
"""That are printed; the report has all."""


@dataclass(frozen=True)
class Report:
    """Which sources are finished, and the others with their reasons."""

    finished: Sequence[str]
    """The parts (`Task.part`) that are in the product."""
    rejected: Mapping[str, str]
    """Name of a source to why it is no good; it is not tried again."""
    failed: Mapping[str, str]
    """Name of a source to why it did not end; the next run tries again."""
    work: str = ""
    """Digest of the whole work, by which the same command knows that nothing is to be done."""
    layout: str = ""
    """What else the bytes of the product depend on, such as clips per file."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Path of every file of the product to its size."""

    def say(self, file: Path) -> None:
        """Prints what was left out and why, source by source; `file` has all of it."""
        count = len(self.finished) + len(self.rejected) + len(self.failed)
        for what, reasons in (
            ("rejected", self.rejected),
            ("failed, tried again next time", self.failed),
        ):
            if reasons:
                lines = [f"{name}: {reason}" for name, reason in reasons.items()]
                print(f"{len(lines)} of {count} {what}:{listed(lines, MOST_LINES)}")
        if self.rejected or self.failed:
            print(f"all of them: {file}", flush=True)

    def write(self, file: Path) -> None:
        """Writes it as JSON; an equal file keeps its time."""
        content = _bytes(asdict(self))
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            with appearing(file) as partial:
                partial.write_bytes(content)

    def exit_code(self, accept: bool) -> int:
        """0, or EXIT_INCOMPLETE if sources are missing; with `accept`, only failed ones count."""
        return EXIT_INCOMPLETE if self.failed or (self.rejected and not accept) else 0


def _bytes(content: Mapping) -> bytes:
    """JSON that people can read; names of files may be any bytes, and those it escapes."""
    try:
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(content, indent=2) + "\n").encode()


def of_outcomes(
    tasks: Sequence[Task],
    outcomes: Sequence[Outcome],
    names: Sequence[str],
    left_out: Mapping[str, str],
    **more: str,
) -> Report:
    """The report of all tasks.

    Args:
        tasks: all.
        outcomes: theirs.
        names: of their sources, as the user knows them.
        left_out: sources that could not even be a task, to the reason.
        more: `work` and `layout` of the report.
    """
    pairs = list(zip(names, outcomes, strict=True))
    rejected = {name: outcome.rejected for name, outcome in pairs if outcome.rejected}
    failed = {name: outcome.failed for name, outcome in pairs if outcome.failed}
    finished = [
        task.part
        for task, outcome in zip(tasks, outcomes, strict=True)
        if not outcome.rejected and not outcome.failed
    ]
    return Report(finished, rejected | dict(left_out), failed, **more)


def read(file: Path) -> Report | None:
    """What `Report.write` wrote; None where nothing is, or something else."""
    try:
        said = Report(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    kinds = {"finished": list, "rejected": dict, "failed": dict, "work": str, "layout": str}
    right = all(isinstance(getattr(said, name), kind) for name, kind in kinds.items())
    right = (
        right and isinstance(said.files, dict) and all(type(n) is int for n in said.files.values())
    )
    return said if right and all(isinstance(part, str) for part in said.finished) else None
