"""Drives Blender workers: finds the render environment, starts processes, reads their reports.

Blender's Python wheel needs NumPy 1 and is under the GPL, so it lives in an environment of its own
(`make render-env`) and only JSON, PNG and npz files pass between it and this package.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.engines.blender_worker import EXIT_BAD_JOB, REPORT
from data_prep.scenes.scene import Scene, to_json
from posetraj_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_PYTHON = ROOT / ".venv-render/bin/python"
WORKER = Path(__file__).with_name("blender_worker.py")
SYSTEM_LIBRARIES = "libx11-6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1"

DEVICES = ("auto", "CPU", "OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")
"""What Cycles renders on; 'auto' is the first kind of GPU that is there, else the CPU."""

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


def measure(python: Path, assets: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Side lengths (x, y, z) of built-in assets when their largest side is 1.

    Raises:
        UserError: an unknown asset, or Blender does not run here.
    """
    sides: dict[str, tuple[float, float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        _work(
            python,
            "measure",
            {"assets": list(assets)},
            Path(folder),
            lambda report: sides.update({report["asset"]: tuple(report["sides"])}),
        )
    return sides


def render(
    python: Path,
    scenes: Sequence[Scene],
    out: Path,
    *,
    brought: Mapping[str, Mapping[str, str]],
    threads: int,
    device: str,
    on_report: Reports,
) -> None:
    """Renders each scene into `out / clip_id` with one worker process.

    Args:
        python: of the render environment.
        scenes: what to render; clip ids must differ.
        out: folder for the clips and the worker's log.
        brought: "models", the files of assets that are no built-in ones, and "pictures", the files
            of pictures that the scenes name.
        threads: of the worker.
        device: one of DEVICES.
        on_report: called for {"clip", "frame"} and {"clip", "done"}.

    Raises:
        UserError: the worker failed.
    """
    job = {
        "scenes": [json.loads(to_json(scene)) for scene in scenes],
        "out": str(out),
        "threads": threads,
        "device": device,
        **brought,
    }
    _work(python, "render", job, out, on_report)


def _work(
    python: Path, command: str, job: Mapping[str, Any], folder: Path, on_report: Reports
) -> None:
    """Runs one worker to its end and passes its reports on; ends it if anything is raised."""
    job_file, log_file = (folder / f".{command}.{suffix}" for suffix in ("json", "log"))
    job_file.write_text(json.dumps(job))
    with (
        log_file.open("w") as log,
        subprocess.Popen(
            # -P: the worker's own folder must not shadow modules of the render environment.
            [str(python), "-P", str(WORKER), command, str(job_file)],
            stdin=subprocess.PIPE,  # by which it knows that this process lives
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        try:
            for report in _reports(process.stdout, log):
                on_report(report)
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code:
        raise _failure(command, code, log_file.read_text())


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
