"""The driver's side of a worker process: starts it, gives it tasks, ends it when it takes too long.

Every worker leads a process group of its own, so that what it started, such as Blender, ends with
it.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from data_prep.fanout.task import Outcome, Task

LOG_LINES = 4
POLL_SECONDS = 0.5


class StoppedError(Exception):
    """The driver is being ended; no task is at fault."""


class DiskFullError(Exception):
    """There is no room for results: going on is of no use."""


@dataclass(frozen=True)
class HandOptions:
    """What a task may take."""

    timeout_s: float
    """Seconds for one try."""
    memory_bytes: int
    """Address space of a worker and of each process it starts; 0 = no limit."""
    retries: int = 1
    """Further tries of a task that its process does not survive."""
    tasks_per_process: int = 1
    """A process is replaced after so many."""


class Hand:
    """One worker process at a time, replaced when it has died or done enough."""

    _all: ClassVar[set["Hand"]] = set()
    _lock: ClassVar[threading.Lock] = threading.Lock()
    _stopping: ClassVar[bool] = False

    def __init__(self, options: HandOptions):
        self._options = options
        self._process: subprocess.Popen | None = None
        self._answers: IO[str] | None = None
        self._log: IO[str] | None = None
        self._done = 0

    def do(self, task: Task, parts: Path) -> Outcome:
        """Has a task done, in time or not at all; again if its process does not survive it.

        Raises:
            StoppedError: `stop_all` was called.
            DiskFullError: the results cannot be written.
        """
        for _ in range(1 + self._options.retries):
            said = self._try(task, parts)
            if isinstance(said, dict):
                if said["disk_full"]:
                    raise DiskFullError(said["failed"])
                return Outcome(task.key, tuple(said["results"]), said["rejected"], said["failed"])
            self.close()
        return Outcome(task.key, failed=said)

    def _try(self, task: Task, parts: Path) -> dict[str, Any] | str:
        """What the worker says of a task; or, as a text, what became of the worker."""
        gone = self._process is None or self._process.poll() is not None
        if gone or self._done >= self._options.tasks_per_process:
            self.close()
            self._start()
        self._done += 1
        process, answers = self._process, self._answers
        line = {"work": task.work, "job": task.job | task.how, "folder": str(task.folder(parts))}
        with contextlib.suppress(BrokenPipeError):  # it has died; the missing answer says so
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
        end = time.monotonic() + self._options.timeout_s
        while not select.select([answers], [], [], POLL_SECONDS)[0]:
            if time.monotonic() > end:
                return f"took longer than {self._options.timeout_s:g} s"
        said = answers.readline()
        if said:
            return json.loads(said)
        code = process.wait()
        if self._stopping:
            raise StoppedError
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"its process ended with {how}{self._last_words()}"

    def close(self) -> None:
        """Ends the process and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        _kill_group(process)
        process.wait()
        for file in (process.stdin, self._answers, self._log):
            with contextlib.suppress(BrokenPipeError):
                file.close()
        with self._lock:
            self._all.discard(self)

    @classmethod
    def stop_all(cls) -> None:
        """Ends the processes of all hands of this program, and keeps new ones from starting."""
        with cls._lock:
            cls._stopping = True
            for hand in cls._all:
                if hand._process is not None:
                    _kill_group(hand._process)

    @classmethod
    def allow_all(cls) -> None:
        """Takes a `stop_all` of an earlier run back."""
        with cls._lock:
            cls._stopping = False

    def _start(self) -> None:
        reading, writing = os.pipe()
        self._log, self._done = tempfile.TemporaryFile("w+"), 0  # noqa: SIM115 – `close` does
        with self._lock:
            if self._stopping:
                os.close(reading)
                os.close(writing)
                self._log.close()
                raise StoppedError
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "data_prep.fanout.worker"),
                    *(str(writing), str(self._options.memory_bytes)),
                ],
                stdin=subprocess.PIPE,
                stderr=self._log,
                text=True,
                pass_fds=(writing,),
                start_new_session=True,
                env=os.environ | _ONE_THREAD,
            )
            self._all.add(self)
        os.close(writing)
        self._answers = os.fdopen(reading)

    def _last_words(self) -> str:
        self._log.flush()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4000))
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return ": " + " | ".join(lines[-LOG_LINES:]) if lines else ""


_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Workers share the cores; a worker that wants more threads asks for them itself."""


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
