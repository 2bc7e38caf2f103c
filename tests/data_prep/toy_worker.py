"""A stand-in for the Blender worker: every asset is a solid white box, drawn with NumPy."""

import json
import os
import stat
import sys
from pathlib import Path

import cv2
import numpy as np

from data_prep.engines.blender_worker import REPORT
from data_prep.scenes import geometry
from data_prep.scenes.scene import Scene, from_json, to_json

SIDES = np.array([0.5, 1.0, 0.4])
LOW, HIGH = SIDES * [-0.5, -0.5, 0], SIDES * [0.5, 0.5, 1]
NAMES = ("floor", "centre", "x_low", "x_high", "y_low", "y_high", "z_low", "z_high")
POINTS = np.array([[0, 0, 0], (LOW + HIGH) / 2, *[LOW, HIGH] * 3])


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


def draw_mask(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """1 where a pixel's centre lies inside the outline of a box's corners."""
    mask = np.zeros((height, width), np.uint8)
    left, top = np.maximum(np.floor(box.min(axis=0)), 0)
    right, bottom = np.minimum(np.ceil(box.max(axis=0)), (width, height))
    columns, rows = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=-1).astype(int)
    hull = cv2.convexHull(box.astype(np.float32))[:, 0].astype(np.float64)
    edges, away = np.roll(hull, -1, axis=0) - hull, pixels[:, None] + 0.5 - hull
    turns = edges[:, 0] * away[..., 1] - edges[:, 1] * away[..., 0]
    # Inside, a point lies on the same side of all edges.
    inside = pixels[(turns >= 0).all(axis=1) | (turns <= 0).all(axis=1)]
    mask[inside[:, 1], inside[:, 0]] = 1
    return mask


def draw(scene: Scene, folder: Path) -> None:
    folder.mkdir()
    notes = []
    for frame, camera in enumerate(scene.cameras):
        k, rt = np.array(camera.k), np.array(camera.rt)
        poses = np.array([thing.poses[frame] for thing in scene.objects])
        corners = geometry.box_corners(LOW, HIGH)
        world = np.stack([geometry.transform(pose, corners) for pose in poses])
        box = geometry.project(world, k, rt)
        mask = np.zeros((scene.height, scene.width), np.uint8)
        for thing in np.argsort(-geometry.depth(world.mean(axis=1), rt)):  # the farthest first
            mask[draw_mask(box[thing], scene.width, scene.height) == 1] = thing + 1
        picture = np.where(mask[..., None] > 0, 255, np.array([60, 90, 140])).astype(np.uint8)
        cv2.imwrite(str(folder / f"mask_{frame:03d}.png"), mask)
        cv2.imwrite(str(folder / f"frame_{frame:03d}.png"), picture)
        tracks = geometry.project(
            np.stack([geometry.transform(pose, POINTS) for pose in poses]), k, rt
        )
        notes.append(
            {
                "object_pose": poses,
                "box_world": world,
                "box_px": box,
                "mesh_rect_px": np.concatenate([box.min(axis=1), box.max(axis=1)], axis=1),
                "tracks_px": tracks.reshape(-1, 2),
                "tracks_visible": _visible(tracks, mask).ravel(),
                "camera_k": k,
                "camera_rt": rt,
            }
        )
    count = len(scene.objects)
    np.savez(
        folder / "annotations.npz",
        **{key: np.stack([note[key] for note in notes]) for key in notes[0]},
        track_kinds=np.array(["floor", "centre", *["surface"] * 6] * count),
        track_names=np.array(NAMES * count),
        track_objects=np.repeat(np.arange(count, dtype=np.int32), len(NAMES)),
        track_points=np.tile(POINTS, (count, 1)),
        engine="toy-1",
    )
    (folder / "scene.json").write_text(to_json(scene))


def _visible(tracks: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """False [o p] where a point lies on another object's pixels."""
    columns, rows = np.clip(tracks.astype(int), 0, np.array(mask.shape[::-1]) - 1).transpose(
        2, 0, 1
    )
    owners = np.arange(1, len(tracks) + 1)[:, None]
    return (mask[rows, columns] == owners) | (mask[rows, columns] == 0)
