"""Work for workers to do in tests: counts what it is asked for, crashes, hangs, fills memory."""

import errno
import os
import time
from pathlib import Path

import numpy as np

from data_prep.fanout.task import Rejected, appearing
from posetraj_jax.errors import UserError


def work(job: dict, folder: Path) -> None:
    """Writes `job["results"]` files, each of which takes `job["seconds"]`, and notes each start."""
    print("chatter of a library")
    if job.get("note"):
        with Path(job["note"]).open("a") as note:
            note.write(f"{folder.name}\n")
    getattr(_Ends, job.get("end", "well"))(job)
    for number in range(job.get("results", 1)):
        path = folder / f"result-{number}"
        if path.exists():
            continue
        time.sleep(job.get("seconds", 0.0))
        with appearing(path) as partial:
            partial.write_text(f"{job['value']} {number}")
        if job.get("note"):
            with Path(job["note"]).open("a") as note:
                note.write(f"{folder.name}/{path.name}\n")


class _Ends:
    """How a task ends before it has written anything."""

    @staticmethod
    def well(job: dict) -> None:
        """Not at all."""

    @staticmethod
    def rejected(job: dict) -> None:
        raise Rejected("no good: 3 of 4 sides missing")

    @staticmethod
    def user_error(job: dict) -> None:
        raise UserError("It broke", expected="this", got="that", fix="the other")

    @staticmethod
    def crash(job: dict) -> None:
        print("last words")
        os.abort()

    @staticmethod
    def crash_once(job: dict) -> None:
        mark = Path(job["mark"])
        if not mark.exists():
            mark.touch()
            os._exit(7)

    @staticmethod
    def hang(job: dict) -> None:
        time.sleep(1000)

    @staticmethod
    def hang_with_child(job: dict) -> None:
        if os.fork() == 0:
            Path(job["mark"]).write_text(str(os.getpid()))
            time.sleep(1000)
        time.sleep(1000)

    @staticmethod
    def memory(job: dict) -> None:
        np.ones(2 * 10**9)

    @staticmethod
    def disk_full(job: dict) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    @staticmethod
    def bug(job: dict) -> None:
        raise ZeroDivisionError("a defect of ours")
