r"""Writes the track of a motion over the floor, in metres, as a known camera sees it.

    python -m posetraj_jax.floor_tracks --size 576 320 --start 288 250 --motion circle \
        --radius 0.6 --angle 180 --direction 90 --num_frames 14 --out tracks.json

The start is the pixel where the object touches the floor. Directions are degrees counter-clockwise
as seen from above: 0 goes to the right, 90 away from the camera. The camera is PoseTraj-10K's
unless --camera_height, --pitch and --focal or --hfov say otherwise. --preview draws the track, and
the object as a box, over --image, whose size is then that of the track.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from posetraj_jax import errors, video
from posetraj_jax.errors import UserError
from posetraj_jax.new_files import new_files, require_places
from posetraj_jax.trajectories import as_json, draw_preview, parse_tracks, rounded, write_tracks
from posetraj_jax.trajectories import floor_motion as motions
from posetraj_jax.trajectories.checks import size_problem
from posetraj_jax.trajectories.floor_camera import (
    OFFICIAL_HEIGHT_M,
    OFFICIAL_PITCH_DEG,
    FloorCamera,
    make_camera,
)
from posetraj_jax.trajectories.ghost import draw_ghosts

DEFAULT_SIZE = (576, 320)
GREY = 128


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, writes the track and its preview, and returns the exit code."""
    o = _make_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    outs = [o.out] if o.preview is None else [o.out, o.preview]
    problem = o.preview and video.picture_problem(o.preview)
    require_places(
        "The track cannot be written there",
        outs,
        [o.image] if o.image else [],
        [problem] if problem else [],
    )
    image = video.read_image(o.image) if o.image else None
    size = _size(o.size, image)
    camera = make_camera(
        size, height_m=o.camera_height, pitch_deg=o.pitch, focal_px=o.focal, hfov_deg=o.hfov
    )
    motion = motions.FloorMotion(o.motion, o.radius, o.length, o.angle, o.direction, o.heading)
    track = motions.move_over_floor(camera, motion, tuple(o.start), o.num_frames)
    track_file = rounded(motions.floor_track_file(track, camera))
    parse_tracks(as_json(track_file), name=str(o.out))  # so that an error has the file's own name
    picture = o.preview and _preview(camera, track, tuple(o.box), image)
    with new_files(*outs) as partials:
        write_tracks(partials[0], track_file)
        if o.preview:
            video.write_image(partials[1], picture)
    print(*outs, sep="\n")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m posetraj_jax.floor_tracks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = motions.FloorMotion()

    def add(name: str, **options) -> None:
        text = options.pop("help") + (" (%(default)s)" if "default" in options else "")
        parser.add_argument(name, help=text, **options)

    add(
        "--start",
        type=float,
        nargs=2,
        metavar=("X", "Y"),
        required=True,
        help="pixel, on the floor",
    )
    add("--motion", choices=motions.MOTIONS, required=True, help="the curve")
    add("--num_frames", type=int, default=14, help="frames of the video")
    add("--radius", type=float, default=default.radius_m, help="metres: circle and S")
    add(
        "--angle",
        type=float,
        default=default.angle_deg,
        help="degrees of each arc; < 0: to the right",
    )
    add("--length", type=float, default=default.length_m, help="metres: line")
    add("--direction", type=float, default=default.direction_deg, help="degrees, at the start")
    add("--heading", type=float, help="degrees, of the object's front; default: where it goes")
    add(
        "--size",
        type=int,
        nargs=2,
        metavar=("W", "H"),
        help="pixels; default: the image's, or 576 320",
    )
    add(
        "--camera_height",
        type=float,
        default=OFFICIAL_HEIGHT_M,
        help="metres, of the camera above the floor",
    )
    add("--pitch", type=float, default=OFFICIAL_PITCH_DEG, help="degrees downwards, of the camera")
    add("--focal", type=float, help="focal length in pixels; default: the official camera's")
    add("--hfov", type=float, help="horizontal field of view in degrees, instead of --focal")
    add("--out", type=Path, required=True, help="track file to write")
    add("--image", type=Path, help="picture that the track is for; the preview lies over it")
    add("--preview", type=Path, help="picture to write")
    add("--box", type=float, nargs=3, metavar=("X", "Y", "Z"), default=(0.3, 0.5, 0.3),
        help="sides in metres of the object in the preview, whose front is a Y end")  # fmt: skip
    return parser


def _size(given: list[int] | None, image: np.ndarray | None) -> tuple[int, int]:
    """(height, width) of the picture."""
    whole = list(DEFAULT_SIZE) if image is None else list(image.shape[1::-1])
    if given is not None and image is not None and given != whole:
        problem = f"an image of {whole[0]} x {whole[1]}"
    else:
        problem = size_problem(given or whole)
    if problem:
        raise UserError(
            "--size cannot be used",
            expected="width and height in pixels, those of --image if there is one",
            got=problem,
            fix="leave --size out, or mend it",
        )
    width, height = given or whole
    return height, width


def _preview(
    camera: FloorCamera,
    track: motions.FloorTrack,
    sides_m: tuple[float, float, float],
    image: np.ndarray | None,
) -> np.ndarray:
    """The object's boxes, and the track over them."""
    if not all(0 < side < np.inf for side in sides_m):
        raise UserError(
            "--box cannot be used",
            expected="three sides in metres, above 0",
            got=" ".join(map(str, sides_m)),
            fix="mend --box",
        )
    if image is None:
        image = np.full((*camera.size, 3), GREY, np.uint8)
    ghosts = draw_ghosts(image, camera, track, sides_m)
    return draw_preview(ghosts, motions.floor_track_file(track, camera), len(track.places))


if __name__ == "__main__":
    errors.run(main)
