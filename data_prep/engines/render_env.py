"""Drives Blender workers: finds the render environment, starts processes, reads their reports.

Blender's Python wheel needs NumPy 1 and is under the GPL, so it lives in an environment of its own
(`make render-env`) and only JSON, PNG and npz files pass between it and this package.
"""

import contextlib
import itertools
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from data_prep.engines.blender_worker import EXIT_BAD_JOB, REPORT
from data_prep.scenes.scene import Scene, to_json
from posetraj_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_PYTHON = ROOT / ".venv-render/bin/python"
WORKER = Path(__file__).with_name("blender_worker.py")
SYSTEM_LIBRARIES = "libx11-6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1"

Reports = Callable[[dict[str, Any]], None]


def find_python(path: Path | None = None) -> Path:
    """The Python that has bpy: `path` if given, else that of `.venv-render`.

    Raises:
        UserError: there is none.
    """
    python = Path(path or DEFAULT_PYTHON)
    if not python.is_file():
        raise UserError(
            "The render environment is missing",
            expected=f"a Python 3.11 with bpy at {python}",
            got="no such file",
            fix="run `make render-env`, or give --render_python",
        )
    return python


def measure(python: Path, assets: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Side lengths (x, y, z) of each asset when its largest side is 1.

    Raises:
        UserError: an unknown asset, or Blender does not run here.
    """
    sides: dict[str, tuple[float, ...]] = {}
    with tempfile.TemporaryDirectory() as folder, _Workers(python, Path(folder)) as workers:
        workers.do(
            "measure",
            {"assets": list(assets)},
            lambda report: sides.update({report["asset"]: tuple(report["sides"])}),
        )
    return sides


def render(
    python: Path,
    scenes: Sequence[Scene],
    out: Path,
    *,
    workers: int,
    threads: int,
    on_report: Reports,
) -> None:
    """Renders each scene into `out / clip_id` with several worker processes.

    Args:
        python: of the render environment.
        scenes: what to render; clip ids must differ.
        out: folder for the clips and the workers' logs.
        workers: processes; scenes are dealt out in turn.
        threads: of each worker.
        on_report: called for {"clip", "frame"} and {"clip", "done"}, from several threads.

    Raises:
        UserError: a worker failed; the others are ended.
    """
    hands = [list(scenes[i::workers]) for i in range(workers)]
    jobs = [
        {"scenes": [json.loads(to_json(s)) for s in hand], "out": str(out), "threads": threads}
        for hand in hands
        if hand
    ]
    # The pool is left last: by then every process has ended, so its threads have too.
    with ThreadPoolExecutor(max(1, len(jobs))) as pool, _Workers(python, out) as processes:
        futures = [pool.submit(processes.do, "render", job, on_report) for job in jobs]
        for future in as_completed(futures):
            future.result()


class _Workers(contextlib.AbstractContextManager):
    """Worker processes that end with the block, however it is left."""

    def __init__(self, python: Path, folder: Path):
        self._python, self._folder = python, folder
        self._processes: list[subprocess.Popen] = []
        self._numbers = itertools.count()  # next() is atomic; `do` runs in several threads
        self._closed = False

    def do(self, command: str, job: Mapping[str, Any], on_report: Reports) -> None:
        """Runs one worker to its end and passes its reports on."""
        if self._closed:
            return
        number = next(self._numbers)
        job_file = self._folder / f".job-{command}-{number}.json"
        log_file = self._folder / f".log-{command}-{number}.txt"
        job_file.write_text(json.dumps(job))
        with log_file.open("w") as log:
            process = subprocess.Popen(
                # -P: the worker's own folder must not shadow modules of the render environment.
                [str(self._python), "-P", str(WORKER), command, str(job_file)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._processes.append(process)
            for report in _reports(process.stdout, log):
                on_report(report)
        if process.wait() and not self._closed:
            raise _failure(command, process.returncode, log_file.read_text())

    def __exit__(self, *exception) -> None:
        self._closed = True
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            process.wait()


def _reports(lines, log) -> Iterator[dict[str, Any]]:
    """The worker's reports; every other line, mostly Blender's chatter, goes to the log."""
    for line in lines:
        if line.startswith(REPORT):
            yield json.loads(line.removeprefix(REPORT))
        else:
            log.write(line)
            log.flush()


def _failure(command: str, code: int, log: str) -> UserError:
    last = "\n    ".join(log.strip().splitlines()[-6:]) or "no output"
    if code == EXIT_BAD_JOB:
        fix = "mend the scene description"
    else:
        fix = (
            "if bpy does not import, run `make render-env` again and install its system libraries "
            f"({SYSTEM_LIBRARIES}); then start again, finished clips are kept"
        )
    return UserError(
        f"Blender's worker failed to {command}",
        expected="exit code 0",
        got=f"exit code {code}:\n    {last}",
        fix=fix,
    )
