"""What a preparation makes: a folder that appears when its tasks are done, with a report beside it.

Every command that makes a folder ends here, so they all stop, go on, and begin again alike.
"""

import argparse
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from data_prep.fanout import pipeline, report
from data_prep.fanout.options import fanout_options
from data_prep.fanout.report import Report
from data_prep.fanout.task import Outcome, Task, outcome_of
from posetraj_jax.data.records import VERSION
from posetraj_jax.errors import UserError, listed

REPLACED = ".replaced"
"""The old product, while the new one is written."""


class Place(NamedTuple):
    """Where a product, its report and its parts lie."""

    folder: Path
    """Appears when everything is in it."""
    report: Path
    own: Path
    """A folder that only this product uses, while it is made; a run holds it against others."""
    parts: Path
    """Finished tasks; gone when nothing is missing, or what is missing was accepted."""

    @classmethod
    def of_dataset(cls, out: Path, name: str, parts: Path | None) -> "Place":
        """The place of clip records: OUT/NAME/VERSION."""
        own = out / f".{name}.parts"
        return cls(out / name / VERSION, out / f"{name}-report.json", own, parts or own)

    @classmethod
    def of_folder(cls, out: Path, parts: Path | None) -> "Place":
        """The place of a folder of files: OUT itself."""
        out = out.absolute()  # "." has no name
        if not out.name:
            _refuse([f"{out} is no folder that could be made"])
        own = out.with_name(f".{out.name}.parts")
        return cls(out, out.with_name(f"{out.name}-report.json"), own, parts or own)


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
        return hashlib.sha256("\n".join(lines).encode("utf8", "surrogatepass")).hexdigest()


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
    does only that one, and makes the product again. Nothing else ever replaces a product.

    Args:
        place: where.
        work: the tasks.
        options: of the command line, with those of the fan-out.
        beam: options of Beam.
        write: makes `place.folder` of the results, all of it or nothing.

    Raises:
        UserError: the place cannot be used, something else is there, or no task has a result.
    """
    spread = fanout_options(options, beam, unit=work.unit, tasks_per_process=work.tasks_per_process)
    pipeline.require_runner(spread)
    require_places([place.folder, place.report, place.parts], work.reads)
    _require_apart(place)
    with pipeline.alone(place.own), pipeline.alone(place.parts, within=place.own):
        before = _before(place, work)
        if before is not None:
            if said := _of_all(before, work):
                return _ended(place, work, said, options, "is there already")
            _require_replaceable(place, work, before)
        outcomes = pipeline.run(work.tasks, place.parts, spread)
        now = report.of_outcomes(
            work.tasks, outcomes, work.names, work.left_out, work=work.digest, layout=work.layout
        )
        if before is not None and now == replace(before, files={}):
            return _ended(place, work, before, options, "is there already")
        if not now.finished:
            now.write(place.report)
            now.say(place.report)
            raise _nothing(place)
        with _replacing(place, before):
            now.write(place.report)
            write(outcomes)
        return _ended(place, work, now, options)


def require_places(places: Sequence[Path], reads: Sequence[Path]) -> None:
    """Refuses places that cannot be written, before hours of work, or that are sources.

    Raises:
        UserError: with everything that is wrong.
    """
    wrong = []
    for place in places:
        there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        if not there.is_dir() and there != place.absolute():
            wrong.append(f"{place} cannot be made: {there} is no folder")
        elif not os.access(there, os.W_OK | (os.X_OK if there.is_dir() else 0)):
            wrong.append(f"{place} cannot be made: {there} may not be written")
        inside = [f for f in reads if place.resolve().is_relative_to(f.resolve())]
        wrong += [f"{place} lies in {folder}, where the sources are" for folder in inside]
        if not _is_utf8(str(place)):
            wrong.append(f"{place}: not all libraries write to names that are not UTF-8")
    _refuse(wrong)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_apart(place: Place) -> None:
    wrong = []
    if place.report.is_dir():
        wrong.append(f"the report, {place.report}, is a folder")
    if place.folder.exists() and not place.folder.is_dir():
        wrong.append(f"{place.folder} is no folder")
    if place.parts.resolve().is_relative_to(place.folder.resolve()):
        wrong.append(f"the parts, {place.parts}, lie in what is made, {place.folder}")
    _refuse(wrong)


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        raise UserError(
            "Nothing can be written there",
            expected="folders for --out and --parts that you may write, apart from the sources",
            got=listed(wrong),
            fix="give other ones with --out or --parts",
        )


def _before(place: Place, work: Work) -> Report | None:
    """The report of the product that is there, if there is one; it is whole."""
    if not place.folder.exists():
        return None
    if not any(place.folder.iterdir()):
        place.folder.rmdir()
        return None
    before = report.read(place.report)
    if before is None:
        raise _something_else(place, f"no {place.report.name} beside it that this command wrote")
    known = {task.part for task in work.tasks}
    if before.layout != work.layout or not before.finished or not known.issuperset(before.finished):
        raise _something_else(place, "what other options or other files made")
    files = _files(place.folder)
    if lost := [name for name, size in before.files.items() if files.get(name) != size]:
        raise _something_else(place, f"{len(lost)} files missing or changed, such as {lost[0]}")
    return before


def _of_all(before: Report, work: Work) -> Report | None:
    """The report of the product as it is, if nothing is to be done."""
    if set(before.finished) == {task.part for task in work.tasks}:
        return replace(before, rejected=dict(work.left_out), failed={}, work=work.digest)
    return before if before.work == work.digest and not before.failed else None


def _require_replaceable(place: Place, work: Work, before: Report) -> None:
    """A product is made again only if nothing in it can be lost."""
    others = set(_files(place.folder)) - set(before.files)
    if before.files and others:
        got = (
            f"what this command made, and {len(others)} other files, such as {min(others)}, "
            "which would be lost if it were made again"
        )
        raise _something_else(place, got)
    finished = [task for task in work.tasks if task.part in set(before.finished)]
    if any(outcome_of(task, place.parts) is None for task in finished):
        got = (
            "what this command made of fewer sources, complete: its parts are no longer in "
            f"{place.parts}, so all would have to be made again"
        )
        raise _something_else(place, got)


def _something_else(place: Place, got: str) -> UserError:
    return UserError(
        f"There is something else in {place.folder}",
        expected="nothing, or what this very command made of these very files",
        got=got,
        fix="give another --out, or delete it",
    )


@contextmanager
def _replacing(place: Place, before: Report | None) -> Iterator[None]:
    """Sets the old product aside until the block has made the new one; else puts it back."""
    old = place.own / REPLACED
    shutil.rmtree(old, ignore_errors=True)  # of a run that was killed: its parts are all there
    if before is not None:
        place.folder.rename(old)
    try:
        yield
    except BaseException:
        if before is not None and not place.folder.exists():
            old.rename(place.folder)
            before.write(place.report)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _ended(
    place: Place, work: Work, said: Report, options: argparse.Namespace, how: str = ""
) -> int:
    replace(said, files=said.files or _files(place.folder)).write(place.report)
    said.say(place.report)
    if how:
        print(f"{how}: {place.folder}")
    code = said.exit_code(options.accept_rejects)
    if code == 0:
        pipeline.clear(place.parts, None if place.parts == place.own else work.tasks)
    return code


def _files(folder: Path) -> dict[str, int]:
    """Path of every file in a folder to its size."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def _nothing(place: Place) -> UserError:
    return UserError(
        f"Nothing was made for {place.folder}",
        expected="at least one source that is fit",
        got=f"none; {place.report} has the reason for each",
        fix="mend what is named, and run the same command again",
    )
