"""Finished clips as files, one each, and the dataset that they are packed into.

A file holds the record as the dataset will; packing decides nothing.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.fanout.task import Outcome, Task, appearing
from posetraj_jax.data.clip import Clip
from posetraj_jax.data.record_codec import UNREADABLE, decode, encode
from posetraj_jax.errors import UserError

SUFFIX = ".clip"


def clip_path(folder: Path, clip_id: str) -> Path:
    """The file of a clip in the folder of its task."""
    return folder / f"{clip_id}{SUFFIX}"


def write_clip(folder: Path, clip: Clip) -> None:
    """Writes a finished clip.

    Raises:
        UserError: it is no legal record.
    """
    with appearing(clip_path(folder, clip.clip_id)) as partial:
        partial.write_bytes(encode(clip))


def clips_of(tasks: Iterable[Task], outcomes: Iterable[Outcome], parts: Path) -> Iterator[Clip]:
    """The clips of all tasks in the order of the tasks, and by name within one.

    Raises:
        UserError: a file was damaged after it had been written.
    """
    for task, outcome in zip(tasks, outcomes, strict=True):
        for name in outcome.results:
            if name.endswith(SUFFIX):
                yield _read_clip(task.folder(parts) / name)


def _read_clip(path: Path) -> Clip:
    try:
        return decode(path.read_bytes())
    except UNREADABLE as error:
        raise UserError(
            f"A finished clip cannot be read: {path}",
            expected="the record as it was written",
            got=f"{type(error).__name__}: {error}",
            fix=f"the disk has damaged it: delete {path.parent} and run the same command again",
        ) from error
