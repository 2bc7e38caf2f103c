"""Output folders that are either complete or not there."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posetraj_jax.errors import UserError


@contextmanager
def new_folder(folder: Path, num_bytes: int = 0) -> Iterator[Path]:
    """Gives an empty folder that becomes `folder` when the block ends without an exception.

    Whatever else ends the block removes it; a process that was killed leaves `.NAME.partial` beside
    `folder`, which the next attempt empties. Two processes never share one.

    Args:
        folder: must not exist; missing parents are made.
        num_bytes: how much will be written at most; a fuller disk is refused at once.

    Raises:
        UserError: `folder` exists, or the system refuses to write.
    """
    folder = folder.absolute()
    if folder.exists() or folder.is_symlink():
        raise UserError(
            f"cannot write to {folder}",
            expected="a folder that does not exist yet",
            got="something that does",
            fix="choose another folder, or remove this one",
        )
    made = [parent for parent in folder.parents if not parent.exists()]
    partial, lock = folder.with_name(f".{folder.name}.partial"), None
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = _lock(partial, folder)
        for left in partial.iterdir():  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        _require_space(partial, num_bytes)
        yield partial
        partial.rename(folder)
    except BaseException as error:
        if lock is not None:
            shutil.rmtree(partial, ignore_errors=True)
        for parent in made:  # the deepest first
            _remove_if_empty(parent)
        if isinstance(error, OSError):
            raise _not_writable(folder, error) from error
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _lock(partial: Path, folder: Path) -> int:
    """An open file descriptor that keeps other processes away for as long as this one lives."""
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not partial.exists() or os.fstat(descriptor).st_ino != partial.stat().st_ino:
            raise BlockingIOError("it has just become complete")
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise UserError(
                f"cannot write to {folder}",
                expected="to be the only one who does",
                got="another process that is writing it",
                fix="wait for that process, or choose another folder",
            ) from error
        raise
    return descriptor


def _require_space(partial: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(partial).free
    if free < num_bytes:
        raise OSError(f"{num_bytes / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free")


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to {folder}",
        expected="a disk with enough room, where you may write",
        got=str(error),
        fix="make room, or choose another folder",
    )
