"""What a preparation makes: a folder that appears when its tasks are done, with a report beside it.

Every command that makes a folder ends here, so they all stop, go on, and begin again alike.
"""

import argparse
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_prep.fanout import pipeline, report
from data_prep.fanout.options import fanout_options
from data_prep.fanout.report import Report
from data_prep.fanout.task import Outcome, Task
from posetraj_jax.data.records import VERSION
from posetraj_jax.errors import UserError, listed


class Place(NamedTuple):
    """Where a product, its report and its parts lie."""

    folder: Path
    """Appears when everything is in it."""
    report: Path
    parts: Path
    """Finished tasks; gone when nothing is missing, or what is missing was accepted."""
    own_parts: bool
    """Whether nothing else uses the folder of parts."""

    @classmethod
    def of_dataset(cls, out: Path, name: str, parts: Path | None) -> "Place":
        """The place of clip records: OUT/NAME/VERSION."""
        own = out / f".{name}.parts"
        return cls(out / name / VERSION, out / f"{name}-report.json", parts or own, not parts)

    @classmethod
    def of_folder(cls, out: Path, parts: Path | None) -> "Place":
        """The place of a folder of files: OUT itself."""
        out = out.absolute()  # "." has no name
        own = out.with_name(f".{out.name}.parts")
        return cls(out, out.with_name(f"{out.name}-report.json"), parts or own, not parts)


@dataclass(frozen=True)
class Work:
    """What a product is made of."""

    tasks: Sequence[Task]
    names: Sequence[str]
    """Of the sources of the tasks, as the user knows them."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Sources that cannot even be a task, to the reason."""
    reads: Sequence[Path] = ()
    """Folders in which nothing may be written, because all that is in them is a source."""
    unit: str = "clip"
    """What a result is called beside the progress bar."""
    tasks_per_process: int = 1
    layout: str = ""
    """What else the bytes of the product depend on, such as clips per file."""

    @property
    def digest(self) -> str:
        """Another one if a run would do something else."""
        lines = [self.layout, *(task.part for task in self.tasks), *self.left_out]
        return hashlib.sha256("\n".join(lines).encode("utf8", "surrogateescape")).hexdigest()


def make(
    place: Place,
    work: Work,
    options: argparse.Namespace,
    beam: tuple[str, ...],
    write: Callable[[Sequence[Outcome]], None],
) -> int:
    """Does all tasks, writes the product, and reports; returns the exit code.

    The same work again finds its product, or goes on where it was stopped. While sources are
    missing and not accepted, the parts stay: once a source is mended or added, the same command
    does only that one, and makes the product again.

    Args:
        place: where.
        work: the tasks.
        options: of the command line, with those of the fan-out.
        beam: options of Beam.
        write: makes `place.folder` of the results, all of it or nothing.

    Raises:
        UserError: the place cannot be used, something else is there, or no task has a result.
    """
    require_places([place.folder, place.parts], work.reads)
    with pipeline.alone(place.parts):
        before = _before(place, work)
        if before is not None and before.work == work.digest and not before.failed:
            return _ended(place, work, before, options.accept_rejects, "is there already")
        spread = fanout_options(
            options, beam, unit=work.unit, tasks_per_process=work.tasks_per_process
        )
        outcomes = pipeline.run(work.tasks, place.parts, spread)
        now = report.of_outcomes(
            work.tasks, outcomes, work.names, work.left_out, work=work.digest, layout=work.layout
        )
        if now == before:
            return _ended(place, work, before, options.accept_rejects, "is there already")
        # In this order: no product is ever beside a report that says more of it than is true.
        if before is not None and now.finished:
            shutil.rmtree(place.folder)
        now.write(place.report)
        if not now.finished:
            now.say(place.report)
            raise _nothing(place)
        write(outcomes)
        return _ended(place, work, now, options.accept_rejects)


def require_places(places: Sequence[Path], reads: Sequence[Path]) -> None:
    """Refuses places that cannot be written, before hours of work, or that are sources.

    Raises:
        UserError: with everything that is wrong.
    """
    wrong = []
    for place in places:
        there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        if not there.is_dir():
            wrong.append(f"{place} cannot be made: {there} is no folder")
        elif not os.access(there, os.W_OK | os.X_OK):
            wrong.append(f"{place} cannot be made: {there} may not be written")
        inside = [f for f in reads if place.resolve().is_relative_to(f.resolve())]
        wrong += [f"{place} lies in {folder}, where the sources are" for folder in inside]
    if wrong:
        raise UserError(
            "Nothing can be written there",
            expected="folders for --out and --parts that you may write, apart from the sources",
            got=listed(wrong),
            fix="give other ones with --out or --parts",
        )


def _before(place: Place, work: Work) -> Report | None:
    """The report of the product that is there, if there is one."""
    if not place.folder.exists():
        return None
    before = report.read(place.report)
    parts = {task.part for task in work.tasks}
    if before is None or before.layout != work.layout or not parts.issuperset(before.finished):
        raise UserError(
            f"There is something else in {place.folder}",
            expected="nothing, or what this very command made of these very files",
            got=f"no {place.report.name} beside it that this command wrote"
            if before is None
            else "what other options or other files made",
            fix="give another --out, or delete it",
        )
    return before


def _ended(place: Place, work: Work, said: Report, accept: bool, how: str = "") -> int:
    said.say(place.report)
    if how:
        print(f"{how}: {place.folder}")
    code = said.exit_code(accept)
    if code == 0:
        pipeline.clear(place.parts, None if place.own_parts else work.tasks)
    return code


def _nothing(place: Place) -> UserError:
    return UserError(
        f"Nothing was made for {place.folder}",
        expected="at least one source that is fit",
        got=f"none; {place.report} has the reason for each",
        fix="mend what is named, and run the same command again",
    )
