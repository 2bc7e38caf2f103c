"""A process that does tasks one after the other, so that a crash or a hang costs one task only.

    python -m data_prep.fanout.worker DESCRIPTOR MEMORY_BYTES

A task comes as one line of JSON on stdin; what came of it goes, as one line, to DESCRIPTOR, which
only the driver reads. Whatever libraries print goes to stderr. The process ends when stdin does,
when its driver dies, or when it takes more than MEMORY_BYTES (0: no limit).
"""

import errno
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from data_prep.fanout.lifetime import die_with_parent
from data_prep.fanout.task import DONE, FAILED, PARTIAL, Rejected, finish
from posetraj_jax.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def do(work: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Does one task; says what came of it."""
    said = {"results": (), "rejected": "", "failed": "", "disk_full": False}
    try:
        said["results"] = _do(work, job, folder)
    except Rejected as error:
        said["rejected"] = in_one_line(str(error))
        finish(folder, rejected=said["rejected"])
    except OSError as error:
        said |= {"failed": str(error), "disk_full": error.errno in NO_ROOM}
    except UserError as error:
        said["failed"] = in_one_line(f"{error.what}: {error.got}; {error.fix}")
    except MemoryError:
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        said["failed"] = f"needs more than {limit / 1e9:.1f} GB of memory"
    return said


def in_one_line(text: str) -> str:
    """The text with its lines joined."""
    return " ".join(text.split())


def _do(work: str, job: dict[str, Any], folder: Path) -> tuple[str, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{PARTIAL}*"):  # by a killed process
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    for name in (DONE, FAILED):
        (folder / name).unlink(missing_ok=True)
    module, _, function = work.partition(":")
    # Temporary files lie where the next try removes them, should this one be killed.
    scratch = folder / f"{PARTIAL}scratch"
    scratch.mkdir()
    tempfile.tempdir = str(scratch)
    try:
        getattr(importlib.import_module(module), function)(job, folder)
    finally:
        tempfile.tempdir = None
        shutil.rmtree(scratch, ignore_errors=True)
    return finish(folder)


def main(arguments: list[str]) -> None:
    """Does tasks until stdin ends."""
    die_with_parent()
    descriptor, memory_bytes = map(int, arguments)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
    os.dup2(2, 1)  # the driver reads no prints
    with os.fdopen(descriptor, "w") as answers:
        for line in sys.stdin:
            task = json.loads(line)
            said = do(task["work"], task["job"], Path(task["folder"]))
            print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
