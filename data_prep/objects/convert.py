"""Has Blender turn files that only it reads (.fbx, .usd*, Draco glTF) into plain GLB files.

Blender runs in the render environment, in a process of its own with bounds on time, memory and file
size, with an empty configuration and scripts off. What comes out is as untrusted as what
went in, and is read by `read_object` like any other file.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from data_prep.fanout.task import Rejected
from posetraj_jax.errors import UserError

SCRIPT = Path(__file__).resolve().parents[1] / "engines/blender_convert.py"
MOST_MEMORY_BYTES = 16 * 2**30
"""Of address space, of which Blender reserves more than it uses."""
MOST_LOG_BYTES = 4000
REASON = "@reason "
"""How the script marks the line that says why a file is refused."""


def convert(python: Path, source: Path, target_glb: Path, timeout_s: float) -> None:
    """Writes `target_glb` from a file that Blender imports, in the pose of its first frame.

    Args:
        python: of the render environment.
        source: .fbx, .usd, .usda, .usdc, .usdz, .glb or .gltf.
        target_glb: no animation, cameras, lights or compression; modifiers applied; y up.
        timeout_s: seconds after which the conversion is ended.

    Raises:
        Rejected: Blender refuses the file or crashes; the last lines of its log.
        UserError: it takes too long, which is no verdict on the file.
    """
    target_glb.parent.mkdir(parents=True, exist_ok=True)
    partial = target_glb.with_name(f".partial-{os.getpid()}-{target_glb.stem}.glb")
    with tempfile.TemporaryDirectory(prefix="convert-") as folder:
        try:
            _run(python, source.resolve(), partial.resolve(), Path(folder), timeout_s)
            if not partial.is_file():
                raise Rejected("Blender made no file of it")
            os.replace(partial, target_glb)
        finally:
            partial.unlink(missing_ok=True)


def _run(python: Path, source: Path, target: Path, folder: Path, timeout_s: float) -> None:
    # Nothing of the user's own Blender, and nothing of Python's variables, has an effect.
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "BLENDER_USER_RESOURCES": str(folder),
    }
    limits = [str(MOST_MEMORY_BYTES), str(int(timeout_s) + 1)]
    log_file = folder / "log.txt"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [str(python), "-I", str(SCRIPT), str(source), str(target), *limits],
            stdin=subprocess.PIPE,  # by which it knows that this process lives
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"{source.name} was not converted",
                expected=f"at most {timeout_s:g} s of Blender's time",
                got="a conversion that goes on",
                fix="try again when the machine has less to do, or convert it to .glb yourself",
            ) from error
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
    if code:
        raise Rejected(f"Blender cannot convert it ({_how(code)}): {_last_words(log_file)}")


def _how(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"ended by signal {-code}"


def _last_words(log_file: Path) -> str:
    """The reason that the script gave, else the end of the log, as one line."""
    with log_file.open("rb") as file:
        file.seek(max(0, log_file.stat().st_size - MOST_LOG_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    reasons = [line.removeprefix(REASON) for line in lines if line.startswith(REASON)]
    words = reasons[-1:] or [line.strip() for line in lines if line.strip()][-3:]
    return " | ".join(words)[-400:] or "it said nothing"
