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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data_prep.fanout.task import Outcome, Task

LOG_LINES = 4


class StoppedError(Exception):
    """The driver is being ended; no task is at fault."""


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


class _Worker:
    """One process and the files that connect it."""

    def __init__(self, memory_bytes: int):
        reading, writing = os.pipe()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 – `release` closes it
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "data_prep.fanout.worker"),
                *(str(writing), str(memory_bytes)),
            ],
            stdin=subprocess.PIPE,
            stderr=self._log,
            text=True,
            pass_fds=(writing,),
            start_new_session=True,
            env=os.environ | _ONE_THREAD,
        )
        os.close(writing)
        self._answers = os.fdopen(reading)
        self.num_tasks = 0
        """How many it was given."""

    @property
    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def do(self, line: str, timeout_s: float) -> dict[str, Any] | str:
        """What it says of a task; or, as a text, what became of it."""
        self.num_tasks += 1
        with contextlib.suppress(BrokenPipeError):  # it has died; the missing answer says so
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        if not select.select([self._answers], [], [], timeout_s)[0]:
            return f"took longer than {timeout_s:g} s"
        said = self._answers.readline()
        if said:
            return json.loads(said)
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"its process ended with {how}{self._last_words()}"

    def kill(self) -> None:
        """Ends the process and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def release(self) -> None:
        """Ends it for good; nobody may be waiting for it."""
        self.kill()
        self._process.wait()
        for file in (self._process.stdin, self._answers, self._log):
            with contextlib.suppress(BrokenPipeError):
                file.close()

    def _last_words(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4000))
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return ": " + " | ".join(lines[-LOG_LINES:]) if lines else ""


class Hand:
    """One worker process at a time, replaced when it has died or done enough."""

    _all: ClassVar[set["Hand"]] = set()
    # Signals are handled in the main thread, which may be the one that is starting a worker.
    _starting: ClassVar[threading.RLock] = threading.RLock()
    _stopping: ClassVar[bool] = False
    stopped_by: ClassVar[str] = ""
    """Why `stop_all` was called, if a task gave the reason."""

    def __init__(self, options: HandOptions):
        self._options = options
        self._worker: _Worker | None = None
        self._busy, self._closed = threading.Lock(), False

    def do(self, task: Task, parts: Path) -> Outcome:
        """Has a task done, in time or not at all; again if its process does not survive it.

        Raises:
            StoppedError: `close` or `stop_all` was called, which a task does for which there is no
                room on the disk: no other will find any.
        """
        line = {"work": task.work, "job": task.job | task.how, "folder": str(task.folder(parts))}
        said: dict[str, Any] | str = ""
        with self._busy:
            for _ in range(1 + self._options.retries):
                said = self._ready_worker().do(json.dumps(line), self._options.timeout_s)
                if isinstance(said, dict):
                    break
                self._drop_worker()
                if self._closed or self._stopping:
                    raise StoppedError
        if isinstance(said, str):
            return Outcome(task.key, failed=said)
        if said["disk_full"]:
            self.stop_all(reason=said["failed"])
            raise StoppedError
        return Outcome(task.key, tuple(said["results"]), said["rejected"], said["failed"])

    def close(self) -> None:
        """Ends the process and all that it started, even while another thread waits for it."""
        self._closed = True
        worker = self._worker
        if worker is not None:
            worker.kill()
        with self._busy:
            self._drop_worker()

    @classmethod
    def stop_all(cls, reason: str = "") -> None:
        """Ends the processes of all hands of this program, and keeps new ones from starting."""
        with cls._starting:
            cls._stopping = True
            cls.stopped_by = cls.stopped_by or reason
            workers = [hand._worker for hand in cls._all]
        for worker in workers:
            if worker is not None:
                worker.kill()

    @classmethod
    def allow_all(cls) -> None:
        """Takes a `stop_all` of an earlier run back."""
        with cls._starting:
            cls._stopping, cls.stopped_by = False, ""

    def _ready_worker(self) -> _Worker:
        worker = self._worker
        if worker and worker.lives and worker.num_tasks < self._options.tasks_per_process:
            return worker
        self._drop_worker()
        with self._starting:
            if self._stopping or self._closed:
                raise StoppedError
            self._worker = _Worker(self._options.memory_bytes)
            self._all.add(self)
            if self._stopping:
                self._worker.kill()
            return self._worker

    def _drop_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.release()
        with self._starting:
            self._all.discard(self)


_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Workers share the cores; a worker that wants more threads asks for them itself."""
