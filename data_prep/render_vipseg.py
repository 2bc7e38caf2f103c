"""Renders videos with moving cameras and writes them as VIPSeg and its tracks and cameras lie.

    python -m data_prep.render_vipseg --out DIR --num_videos 4 --seed 0

The same arguments give the same files. Finished videos are kept in `--parts`, so that a run that
was stopped goes on where it was; DIR appears when all is in it. Every video is checked against its
annotations. Needs `pip install -e .[prep]`, and for the engine cycles the render environment
(`make render-env`).
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.engines import verify_video
from data_prep.engines.engine import Engine, add_options, engine_of, require_sound
from data_prep.engines.rendered_clip import Packing
from data_prep.fanout import options as fanout
from data_prep.fanout.clip_files import clips_of, write_clip
from data_prep.fanout.product import Place, Work, make
from data_prep.fanout.task import Outcome, Task
from data_prep.scenes import geometry
from data_prep.scenes.filmed import THING_IDS, make_scenes
from data_prep.scenes.scene import Scene, from_json, to_json
from posetraj_jax import errors
from posetraj_jax.data.camera_file import ROTATION, TRANSLATION
from posetraj_jax.data.clip import Clip
from posetraj_jax.data.vipseg import CAMERAS, PICTURES, TRACKS
from posetraj_jax.new_folder import new_folder

CC0 = "CC0-1.0"
SAMPLES = 4
TIMEOUT_S = 3600.0
JPEG_QUALITY = 88
SCENES = "scenes"
"""Folder of the scene descriptions, which no reader of VIPSeg looks into."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.render_vipseg", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to make")
    add(
        "--num_videos",
        type=fanout.positive_integer,
        default=4,
        help="orbit, dolly, truck and crane in turn (default: %(default)s)",
    )
    add("--seed", type=int, default=0)
    add("--jpeg_quality", type=int, default=JPEG_QUALITY, help="1 to 95 (%(default)s)")
    add_options(parser, SAMPLES)
    fanout.add_options(parser, timeout_s=TIMEOUT_S)
    return parser


def render(job: dict[str, Any], folder: Path) -> None:
    """The task of one video: `job` has its "scene", the fields of "engine", and "jpeg_quality"."""
    packing = Packing(job["jpeg_quality"], depth=False, licence=CC0, source="posetraj10k")

    def store(clip: Clip) -> None:
        require_sound(clip, verify_video.problems)
        write_clip(folder, clip)

    scene = from_json(json.dumps(job["scene"]))
    Engine(**job["engine"]).render([scene], {}, {}, packing, store)


def write_videos(videos: Iterable[tuple[Scene, Clip]], folder: Path) -> None:
    """Writes pictures, tracks, cameras and scene descriptions of videos into an empty folder."""
    for name in (TRACKS[0], SCENES):
        (folder / name).mkdir()
    for scene, clip in videos:
        pictures, cameras = folder / PICTURES / clip.clip_id, folder / CAMERAS / clip.clip_id
        for made in (pictures, cameras):
            made.mkdir(parents=True)
        for number, jpeg in enumerate(clip.frames_jpeg):
            (pictures / f"{number:05d}.jpg").write_bytes(jpeg)
        tracks = json.dumps(tracks_of(scene, clip))
        (folder / TRACKS[0] / f"{clip.clip_id}.json").write_text(tracks)
        np.save(cameras / "camera.npy", camera_of(clip), allow_pickle=True)
        (folder / SCENES / f"{clip.clip_id}.json").write_text(to_json(scene))


def tracks_of(scene: Scene, clip: Clip) -> dict[str, list[list[int]]]:
    """Panoptic id to the pixel in which its point is, frame by frame; ids in rising order.

    The point of an object is the middle of its box, that of stuff and void a point of the floor.
    """
    points = {
        thing_id: clip.tracks_px[:, verify_video.middle_track(clip, thing)]
        for thing, thing_id in enumerate(THING_IDS)
    }
    for floor_id, place in scene.about["floor_points"].items():
        points[int(floor_id)] = np.stack(
            [
                geometry.project(np.array(place), np.array(c.k), np.array(c.rt))
                for c in scene.cameras
            ]
        )
    # Numbers are cut towards zero, as by the script that made the official files.
    return {str(i): np.trunc(points[i]).astype(int).tolist() for i in sorted(points)}


def camera_of(clip: Clip) -> dict[str, np.ndarray]:
    """Camera to world, metres, in the keys and types of TRAM."""
    rt = clip.camera_rt.astype(np.float64)
    rotations = rt[:, :, :3].swapaxes(1, 2)
    translations = np.stack([geometry.camera_centre(frame) for frame in rt])
    fields = {ROTATION: rotations, TRANSLATION: translations}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in fields.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Renders, checks and writes; 0, or 3 if videos were left out."""
    options, beam = fanout.parse(make_parser(), arguments)
    engine = engine_of(options)
    scenes = make_scenes(
        options.num_videos, options.seed, engine.measure(engine.toys), samples=options.samples
    )
    tasks = [
        Task(
            key=scene.clip_id,
            work="data_prep.render_vipseg:render",
            job={
                "scene": json.loads(to_json(scene)),
                "engine_name": engine.name,
                "jpeg_quality": options.jpeg_quality,
            },
            how={"engine": asdict(engine)},
        )
        for scene in scenes
    ]
    place = Place.of_folder(options.out, options.parts)

    def write(outcomes: Sequence[Outcome]) -> None:
        done = [s for s, outcome in zip(scenes, outcomes, strict=True) if outcome.results]
        with new_folder(place.folder) as folder:
            write_videos(zip(done, clips_of(tasks, outcomes, place.parts), strict=True), folder)
        size = sum(path.stat().st_size for path in place.folder.rglob("*") if path.is_file()) / 1e6
        print(f"{len(done)} videos, {size:.1f} MB: {options.out}")

    work = Work(tasks, [task.key for task in tasks], unit="video")
    return make(place, work, options, beam, write)


if __name__ == "__main__":
    errors.run(main)
