"""One piece of a preparation: what to do, and the folder that its results appear in, one by one.

    PARTS/<key>.<digest>/<result>     each file atomic: whole, or not there
    PARTS/<key>.<digest>/done.json    written last: what came out, or why its source is no good
    PARTS/<key>.<digest>/failed.json  why the last run could not do it; the next one tries again

The digest is of all that a task depends on. So a finished task is found by its name alone, a task
that was changed is done again, and two processes agree without talking to each other.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from posetraj_jax.data.clip import LEGAL_ID

DONE, FAILED = "done.json", "failed.json"
PARTIAL = ".partial-"
DIGEST_DIGITS = 12
FORMAT = 1
"""Changes when the same tasks make other results: parts of before are then left alone."""


class Rejected(Exception):  # noqa: N818 – a verdict on the source; nothing went wrong here
    """A source that cannot become data, for a reason of its own: trying again would not help."""


@dataclass(frozen=True)
class Task:
    """What one worker does at a time; it stands or falls on its own."""

    key: str
    """Unique among the tasks; may name a file."""
    work: str
    """'module:function', called as function(job | how, folder). It writes its results with
    `appearing`, leaves out what is there already, and raises `Rejected` for a source that is
    no good."""
    job: dict[str, Any]
    """JSON. All that the results depend on, or stands for it, such as a file's size and time."""
    how: dict[str, Any] = field(default_factory=dict)
    """JSON. What the work needs besides, such as paths and numbers of threads."""
    results: int = 1
    """How many files it is expected to make, for progress."""

    def __post_init__(self):
        if not LEGAL_ID.fullmatch(self.key) or len(self.key) > 200:
            raise ValueError(f"not a legal key: {self.key!r}")

    @property
    def part(self) -> str:
        """Its key and a digest: another one if its results would be others."""
        text = json.dumps([FORMAT, self.work, self.job], sort_keys=True, allow_nan=False)
        return f"{self.key}.{hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]}"

    def folder(self, parts: Path) -> Path:
        """Where its results appear."""
        return parts / self.part


class Outcome(NamedTuple):
    """What came of a task."""

    key: str
    results: tuple[str, ...] = ()
    """Names of the files in its folder, sorted."""
    rejected: str = ""
    """Why its source is no good. Final: it is not tried again."""
    failed: str = ""
    """Why the work did not end: a crash, a time limit. The next run tries again."""


def is_part(name: str) -> bool:
    """Whether a folder of this name may hold the results of a task."""
    return bool(re.fullmatch(rf".+\.[0-9a-f]{{{DIGEST_DIGITS}}}", name))


def outcome_of(task: Task, parts: Path) -> Outcome | None:
    """What came of a finished task; None for one that has to be done, or done again.

    A mark that cannot be read, and results that are missing or cut off, count as not finished.
    """
    folder = task.folder(parts)
    try:
        said = json.loads((folder / DONE).read_text())
        sizes, rejected = said["results"], said["rejected"]
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Outcome(task.key, tuple(sorted(sizes)), str(rejected)) if whole else None


def finish(folder: Path, rejected: str = "") -> tuple[str, ...]:
    """Marks the task of a folder as done; returns the names of its results."""
    results = () if rejected else tuple(results_in(folder))
    sizes = {name: (folder / name).stat().st_size for name in results}
    with appearing(folder / DONE) as partial:
        partial.write_text(json.dumps({"results": sizes, "rejected": rejected}))
    return results


def results_in(folder: Path) -> list[str]:
    """Names of the results that are whole, sorted."""
    if not folder.is_dir():
        return []
    names = sorted(entry.name for entry in folder.iterdir())
    return [n for n in names if n not in (DONE, FAILED) and not n.startswith(PARTIAL)]


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Gives a path to write to; the file is at `path` when the block ends well, else nowhere."""
    partial = path.with_name(f"{PARTIAL}{path.name}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())  # else a power cut leaves an empty file of this name
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def stamp(paths: Sequence[Path]) -> str:
    """Stands for the names and contents of files: another one if any of them changes."""
    lines = []
    for path in paths:
        if path.exists():
            status = path.stat()
            name = "/".join(path.parts[-3:])
            lines.append(f"{name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf8", "surrogateescape")).hexdigest()
