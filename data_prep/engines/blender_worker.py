"""Renders scene descriptions with Blender's Python wheel; runs inside the render environment.

    python blender_worker.py measure JOB.json     {"assets": [...]}
    python blender_worker.py render JOB.json      {"scenes": [...], "out": DIR, "threads": N,
                                                   "device": "CPU", "models": {asset: file},
                                                   "pictures": {name: file}}

`measure` reports the side lengths of each asset at size 1. `render` makes one folder per clip:
frame_000.png..., mask_000.png..., depth_000.npy... and annotations.npz. Reports go to stdout, one
JSON object per line after the word in `REPORT` (Blender prints other lines of its own). Exit code 2
means that the job cannot be done as described; the reason is the last line on stderr.
"""

import json
import sys
from pathlib import Path

# The package's root goes last: its numpy is of another environment and must not win here.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from data_prep.fanout.lifetime import die_with_parent
from data_prep.scenes.scene import Scene, SceneError, from_json

REPORT = "@posetraj "
EXIT_BAD_JOB = 2
JOB_KEYS = {
    "measure": {"assets"},
    "render": {"scenes", "out", "threads", "device", "models", "pictures"},
}


def read_job(arguments: list[str]) -> tuple[str, dict]:
    """Command and job from the command line.

    Raises:
        SceneError: unknown command, unreadable file, or other keys than the command takes.
    """
    if len(arguments) != 2 or arguments[0] not in JOB_KEYS:
        raise SceneError(f"usage: blender_worker.py {{measure,render}} JOB.json, got {arguments}")
    command, path = arguments
    try:
        job = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise SceneError(f"cannot read the job {path}: {error}") from error
    if not isinstance(job, dict) or set(job) != JOB_KEYS[command]:
        raise SceneError(f"a {command} job has the keys {sorted(JOB_KEYS[command])}, got {job!r}")
    return command, job


def report(**fields) -> None:
    """Sends one line to the driver; ends this process if the driver is gone."""
    print(REPORT + json.dumps(fields), flush=True)


def measure(assets: list[str]) -> None:
    """Reports the side lengths (x, y, z) of each asset when its largest side is 1."""
    import bpy  # noqa: F401 – first, see blender_models

    from data_prep.engines.blender_models import add_model, mesh_vertices
    from data_prep.engines.blender_stage import empty_stage

    empty_stage()
    for asset in assets:
        vertices = mesh_vertices(add_model(asset, 1.0, asset).data)
        report(asset=asset, sides=(vertices.max(axis=0) - vertices.min(axis=0)).tolist())


def render(scenes: list[Scene], job: dict) -> None:
    """Renders every scene to `out / clip_id` and reports each frame and each finished clip."""
    import bpy  # noqa: F401 – first, see blender_models

    from data_prep.engines.blender_clip import Brought, describe, render_frames, set_up

    brought = Brought(job["models"], job["pictures"], int(job["threads"]), job["device"])
    for scene in scenes:
        folder = Path(job["out"]) / scene.clip_id
        folder.mkdir()
        things = set_up(scene, brought)
        describe(scene, things, folder)
        for frame in render_frames(scene, things, folder):
            report(clip=scene.clip_id, frame=frame)
        report(clip=scene.clip_id, done=True)


def main(arguments: list[str]) -> int:
    """Does one job; 0 or `EXIT_BAD_JOB`."""
    die_with_parent()
    try:
        command, job = read_job(arguments)
        if command == "measure":
            measure(job["assets"])
        else:
            scenes = [from_json(json.dumps(scene)) for scene in job["scenes"]]
            render(scenes, job)
    except SceneError as error:
        print(f"blender_worker: {error}", file=sys.stderr)
        return EXIT_BAD_JOB
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
