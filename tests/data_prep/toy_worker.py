"""A stand-in for the Blender worker: every asset is a solid white box, drawn with NumPy."""

import json
import os
import stat
import sys
from pathlib import Path

import cv2
import numpy as np

from data_prep.engines import annotations
from data_prep.engines.annotations import Surface
from data_prep.engines.blender_worker import REPORT
from data_prep.scenes import geometry
from data_prep.scenes.scene import Scene, from_json

SIDES = np.array([0.5, 1.0, 0.4])
LOW, HIGH = SIDES * [-0.5, -0.5, 0], SIDES * [0.5, 0.5, 1]
RINGS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
BOX = Surface(
    geometry.box_corners(LOW, HIGH),
    np.array([t for a, b, c, d in RINGS for t in ((a, b, c), (a, c, d))]),
)


def make_python(folder: Path) -> Path:
    """An executable that takes the place of the render environment's Python."""
    roots = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    script = folder / "toy-python"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = {roots!r}\n"
        "import toy_worker\ntoy_worker.work(*sys.argv[-2:])\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def work(command: str, path: str) -> None:
    job = json.loads(Path(path).read_text())
    print("chatter that is no report")
    for asset in job.get("assets", []):
        print(REPORT + json.dumps({"asset": asset, "sides": SIDES.tolist()}))
    for data in job.get("scenes", []):
        scene = from_json(json.dumps(data))
        if os.environ.get("TOY_FAILS_AT") == scene.clip_id:
            sys.exit(f"cannot go on with {scene.clip_id}")
        draw(scene, Path(job["out"]) / scene.clip_id)
        print(REPORT + json.dumps({"clip": scene.clip_id, "done": True}), flush=True)


def draw(scene: Scene, folder: Path) -> None:
    """Writes what the real worker does; TOY_MOVES_MASKS pixels to the right in one frame of it."""
    folder.mkdir()
    boxes = [BOX] * len(scene.objects)
    np.savez(folder / "annotations.npz", **annotations.annotate(scene, boxes, "toy-1"))
    for frame in range(scene.frames):
        depth, mask = annotations.depth_and_mask(scene, boxes, frame)
        picture = np.where(mask[..., None] > 0, 255, np.array([60, 90, 140])).astype(np.uint8)
        if frame == 4:
            mask = np.roll(mask, int(os.environ.get("TOY_MOVES_MASKS", 0)), axis=1)
        cv2.imwrite(str(folder / f"mask_{frame:03d}.png"), mask)
        cv2.imwrite(str(folder / f"frame_{frame:03d}.png"), picture)
        np.save(folder / f"depth_{frame:03d}.npy", depth)
