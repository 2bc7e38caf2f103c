"""Files that appear together and only when they are whole, and whether their places can be used."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from posetraj_jax.errors import UserError, listed

HIDDEN = ".new-"
"""How the names of temporary folders begin."""


@contextmanager
def new_files(*targets: Path) -> Iterator[list[Path]]:
    """Gives a path for each target to write to; moves all to their places if all went well.

    What is written may be files or folders. They appear in the order of the targets. Whatever ends
    the block otherwise leaves none of them: files that were there before stay as they were, and
    folders that had to be made for them go. A process that was killed leaves hidden folders, whose
    names begin with HIDDEN, beside the targets.
    """
    missing = {p for target in targets for p in target.absolute().parents if not p.exists()}
    folders, is_done = [], False
    try:
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.append(Path(tempfile.mkdtemp(dir=target.parent, prefix=HIDDEN)))
            for name in ("new", "old"):
                (folders[-1] / name).mkdir()
        yield [folder / "new" / t.name for folder, t in zip(folders, targets, strict=True)]
        _move(folders, targets)
        is_done = True
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        if not is_done:
            for parent in sorted(missing, key=lambda path: len(path.parts), reverse=True):
                with suppress(OSError):  # others have written there
                    parent.rmdir()


def _move(folders: Sequence[Path], targets: Sequence[Path]) -> None:
    """Moves what is new to its place; if one cannot be moved, puts all back as it was."""
    touched = []
    try:
        for folder, target in zip(folders, targets, strict=True):
            old = folder / "old" / target.name
            if len(targets) > 1 and target.is_file():
                shutil.copy2(target, old)
            touched.append((target, old, os.path.lexists(target)))
            os.replace(folder / "new" / target.name, target)
    except BaseException:
        for target, old, was_there in touched:
            if old.is_file():
                os.replace(old, target)
            elif not was_there:
                _remove(target)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def require_places(
    what: str,
    targets: Sequence[Path],
    inputs: Iterable[Path] = (),
    problems: Iterable[str] = (),
) -> None:
    """Refuses places that files cannot be written to, before these files are made.

    Args:
        what: fails without them, for the error.
        targets: all that will be written.
        inputs: files that are read, none of which may be lost.
        problems: with the same places that the caller has found.

    Raises:
        UserError: all that is wrong.
    """
    wrong = [*problems, *filter(None, map(_problem, targets)), *_clashes(targets, list(inputs))]
    if wrong:
        raise UserError(
            what,
            expected="places for new files, or files to replace, each for one file only, in "
            "folders that may be written to",
            got=listed(list(dict.fromkeys(wrong))),
            fix="choose other places",
        )


def _problem(target: Path) -> str | None:
    """What is wrong with one place, tried out without leaving anything."""
    if target.name in ("", ".."):
        return f"{str(target)!r}: names no file"
    try:
        if target.is_dir():
            return f"{target}: is a folder"
        if target.exists() and not target.is_file():
            return f"{target}: is neither a file nor free"
        there = next(p for p in target.absolute().parents if p.exists())
        if not there.is_dir():
            return f"{target}: {there} is a file"
        with tempfile.TemporaryDirectory(dir=there, prefix=HIDDEN) as probe:
            Path(probe, target.name).touch()
    except OSError as error:
        return f"{error.strerror or error}: {target}"
    return None


def _clashes(targets: Sequence[Path], inputs: Sequence[Path]) -> Iterator[str]:
    """Places that are inputs, or that several files want, by whatever names."""
    wanted: dict[str, Path] = {}
    for target in targets:
        place = os.path.realpath(target)
        if any(place == os.path.realpath(path) or _is_same(target, path) for path in inputs):
            yield f"{target}: is an input, which would be lost"
        if place in wanted:
            other = "" if str(target) == str(wanted[place]) else f", also as {wanted[place]}"
            yield f"{target}: is wanted twice{other}"
        wanted.setdefault(place, target)
    for place, target in wanted.items():
        for parent in Path(place).parents:
            if str(parent) in wanted:
                yield f"{target}: is in {wanted[str(parent)]}, which is written too"


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one file that is there, such as on disks that ignore case."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
