"""Renders videos with moving cameras and writes them as VIPSeg and its tracks and cameras lie.

    python -m data_prep.render_vipseg --out DIR --num_videos 4 --seed 0

The same arguments give the same files. Rendered videos are kept in `--renders`, so that a run that
was stopped goes on where it was; DIR appears when all is in it. Every video is checked against its
annotations. Needs the render environment (`make render-env`).
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data_prep.engines import render_env, render_run, verify_video
from data_prep.scenes import geometry
from data_prep.scenes.filmed import THING_IDS, make_scenes
from data_prep.scenes.scene import Scene, to_json
from data_prep.scenes.toys import BUILTIN_ASSETS
from posetraj_jax import errors
from posetraj_jax.data.camera_file import ROTATION, TRANSLATION
from posetraj_jax.data.clip import Clip
from posetraj_jax.data.vipseg import CAMERAS, PICTURES, TRACKS
from posetraj_jax.new_folder import new_folder

JPEG_QUALITY = 88
SCENES = "scenes"
"""Folder of the scene descriptions, which no reader of VIPSeg looks into."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads and checks the command line.

    Raises:
        UserError: a number out of its range, or a place that cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.render_vipseg", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--num_videos",
        type=int,
        default=4,
        help="orbit, dolly, truck and crane in turn (default: %(default)s)",
    )
    render_run.add_options(parser, JPEG_QUALITY)
    options = parser.parse_args(arguments)
    render_run.check_options(
        options,
        lowest={"num_videos": 1},
        out=options.out.absolute().parent,
        problems=[f"--out {options.out} exists"] if options.out.exists() else [],
    )
    return options


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Renders, checks and writes."""
    options = parse(arguments)
    python = render_env.find_python(options.render_python)
    sides = render_env.measure(python, BUILTIN_ASSETS)
    scenes = make_scenes(options.num_videos, options.seed, sides, samples=options.samples)
    render_run.render_missing(scenes, python, options.renders, options.workers)
    clips = render_run.checked_clips(
        scenes, options.renders, options.jpeg_quality, verify_video.problems
    )
    with new_folder(options.out) as folder:
        write_videos(zip(scenes, clips, strict=True), folder)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file()) / 1e6
    print(f"{len(scenes)} videos, {size:.1f} MB: {options.out}")


if __name__ == "__main__":
    errors.run(main)
