"""Does many tasks: on the cores of this machine, or on any runner that Apache Beam has.

A task runs in a worker process of its own (`hand`), wherever the runner places it; the folder of
parts must be seen from there. Progress is read from that folder, so it shows on every runner.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data_prep.fanout.hand import Hand, HandOptions
from data_prep.fanout.task import DONE, FAILED, Outcome, Task, is_part, outcome_of, results_in
from posetraj_jax.errors import UserError

LOCK = ".lock"
PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class FanoutOptions:
    """How tasks are spread."""

    workers: int | None
    """Processes at a time, on this machine; None: one for every core."""
    hand: HandOptions
    unit: str = "clip"
    """What a result is called beside the progress bar."""
    beam: tuple[str, ...] = ()
    """Standard options of Beam, such as '--runner=FlinkRunner'; none = this machine."""


def run(tasks: Sequence[Task], parts: Path, options: FanoutOptions) -> list[Outcome]:
    """Does all tasks that are not finished; what came of every task, in the order given.

    A finished task is not done again, whoever finished it, and no result depends on the number of
    workers or on the order in which tasks end. To be called inside `alone`.

    Args:
        tasks: keys must differ.
        parts: folder of the results.
        options: how.

    Raises:
        UserError: Beam is missing, or the disk is full; what is finished is kept.
    """
    if len({task.key for task in tasks}) != len(tasks):
        raise ValueError("two tasks have the same key")
    waiting = [task for task in tasks if outcome_of(task, parts) is None]
    if waiting:
        _run_beam(waiting, parts, options, total=sum(task.results for task in tasks))
    return [outcome_of(task, parts) or _failure(task, parts) for task in tasks]


def require_runner(options: FanoutOptions) -> None:
    """Refuses options that Beam does not know.

    Raises:
        UserError: so, or Beam is missing.
    """
    if options.beam:
        _beam_tasks().options_of(options.workers, options.beam)


def clear(parts: Path, tasks: Sequence[Task] | None = None) -> None:
    """Removes the results of these tasks; or of all. To be called inside `alone`."""
    names = None if tasks is None else {task.part for task in tasks}
    for folder in parts.iterdir():
        if is_part(folder.name) and (names is None or folder.name in names):
            shutil.rmtree(folder, ignore_errors=True)


def _run_beam(tasks: Sequence[Task], parts: Path, options: FanoutOptions, total: int) -> None:
    beam_tasks = _beam_tasks()
    Hand.allow_all()
    is_local = beam_tasks.is_local(options.beam)
    with _stopped_by_signals(is_local), _progress(tasks, parts, options.unit, total):
        beam_tasks.run(tasks, parts, options.hand, options.workers, options.beam)
    if Hand.stopped_by:
        raise UserError(
            f"The work in {parts} cannot go on",
            expected="room on the disk, and files and processes that may be opened",
            got=Hand.stopped_by,
            fix="make room, or give fewer --workers, and run the same command again: what is "
            "finished is kept",
        )


@contextmanager
def _stopped_by_signals(is_local: bool) -> Iterator[None]:
    """Lets SIGTERM and Ctrl-C end the workers first: Beam then ends by itself, and quietly.

    After the block the signal has the effect that it would have had; at once if it comes again, or
    if the workers are elsewhere, because Beam may wait long for those.
    """
    caught: list[int] = []

    def stop(number: int, _) -> None:
        caught.append(number)
        Hand.stop_all()
        if len(caught) > 1 or not is_local:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals come to the main thread only
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])


def _beam_tasks():
    """The module that needs Beam."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it misses clients of clouds that nobody asked for
    try:
        from data_prep.fanout import beam_tasks
    except ImportError as error:
        raise UserError(
            "Apache Beam is missing",
            expected="the packages that prepare data",
            got=str(error),
            fix="pip install 'posetraj_jax[prep]', or `pip install -e .[prep]` in a clone",
        ) from error
    finally:
        logging.disable(level)
    return beam_tasks


def _failure(task: Task, parts: Path) -> Outcome:
    try:
        said = json.loads((task.folder(parts) / FAILED).read_text())
    except FileNotFoundError:
        said = "nothing is known of it: the runner did not do it"
    return Outcome(task.key, failed=said)


@contextmanager
def alone(parts: Path, within: Path | None = None) -> Iterator[None]:
    """Makes the folder of parts and keeps other runs out of it, until its results are in place.

    If nothing is in it at the end, it is removed, with the folders above it that were made for it.

    Args:
        parts: the folder.
        within: one that is held already; if it is this one, nothing is done.

    Raises:
        UserError: another run works in it.
    """
    if within is not None and parts.resolve() == within.resolve():
        yield
        return
    made = [folder for folder in (parts, *parts.parents) if not folder.exists()]
    parts.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(parts / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        _lock(descriptor, parts)
        try:
            yield
        finally:
            (parts / LOCK).unlink(missing_ok=True)
            for folder in made or [parts]:
                with contextlib.suppress(OSError):  # something lies there
                    folder.rmdir()
    finally:
        os.close(descriptor)


def _lock(descriptor: int, parts: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The other run may have ended just now, and taken its lock away.
        if not os.path.samestat(os.fstat(descriptor), (parts / LOCK).stat()):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError) as error:
        raise UserError(
            f"{parts} cannot be worked in",
            expected="to be the only run that does",
            got="another one",
            fix="wait for that run, or stop it",
        ) from error


@contextmanager
def _progress(tasks: Sequence[Task], parts: Path, unit: str, total: int) -> Iterator[None]:
    """Shows how many results there are, while the block runs."""
    folders = {task.folder(parts): task.results for task in tasks}
    ended = threading.Event()

    def count(folder: Path) -> int:
        return min(len(results_in(folder)), folders[folder])

    with tqdm(total=total, unit=unit, dynamic_ncols=True) as bar:
        # What is there already is no work of this run: it must not make the estimate rosy.
        bar.initial = bar.n = total - sum(folders.values()) + sum(map(count, folders))

        def watch() -> None:
            known = dict.fromkeys(folders, 0)
            while not ended.wait(PROGRESS_SECONDS):
                for folder in [f for f in known if known[f] < folders[f]]:
                    known[folder] = folders[folder] if _ended(folder) else count(folder)
                bar.n = total - sum(folders.values()) + sum(known.values())
                bar.refresh()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            bar.n = total - sum(folders.values()) + sum(map(count, folders))
            bar.refresh()


def _ended(folder: Path) -> bool:
    return (folder / DONE).exists() or (folder / FAILED).exists()
