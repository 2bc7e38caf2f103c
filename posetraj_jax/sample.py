r"""Makes videos of pictures and tracks: one picture and drawn trajectories become a video.

    python -m posetraj_jax.sample --weights WEIGHTS --controlnet RUN --image photo.jpg \
        --tracks tracks.json --out video.mp4

The suffix of --out says how it is written: .mp4 (H.264), .gif, or none for a folder of PNG files.
Beside video.mp4 come video_tracks.mp4, the same with its tracks drawn, and video_settings.json,
all that it takes to make it again. Several --image need as many --tracks (or one for all) and as
many --out. --preview writes the picture with its tracks to --out (.png, .jpg, .webp) and nothing
else, dark where --fit crop cuts it off; it needs no weights. docs/tracks.md has the format of
tracks.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from posetraj_jax import errors, video
from posetraj_jax.errors import UserError
from posetraj_jax.new_files import new_files, require_places
from posetraj_jax.sampling import (
    Settings,
    command_line,
    dim_outside,
    generate_many,
    outputs,
    read_request,
)
from posetraj_jax.trajectories import draw_preview, read_tracks


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, makes the videos, and returns the exit code."""
    o = parse(sys.argv[1:] if arguments is None else arguments)
    settings = command_line.settings_of(o)
    tracks = o.tracks * len(o.image) if len(o.tracks) == 1 else o.tracks
    require_counts(o.image, tracks, o.out)
    if o.preview:
        return preview(o.image, tracks, o.out, settings)
    outputs.require_writable(o.out, inputs_of(o))
    requests = [
        read_request(image, path, settings, o.camera)
        for image, path in zip(o.image, tracks, strict=True)
    ]
    model = command_line.load(o)
    if model.is_random:
        print("the networks are small and random: the video will be noise")
    with tqdm(unit="step", dynamic_ncols=True) as bar:

        def progress(done: int, total: int) -> bool:
            bar.total = total
            bar.update(done - bar.n)
            return True

        made = generate_many(requests, model, settings, progress)
        for number, (each, out) in enumerate(zip(made, o.out, strict=True)):
            each.settings.update(
                image=str(o.image[number]),
                tracks=str(tracks[number]),
                camera=o.camera and str(o.camera),
            )
            for path in outputs.write(out, each):
                bar.write(str(path))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m posetraj_jax.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--image", type=Path, nargs="+", required=True, help="pictures")
    add("--tracks", type=Path, nargs="+", required=True, help="track files")
    add("--out", type=Path, nargs="+", required=True, help=f"videos: {video.SUFFIXES_IN_WORDS}")
    add("--preview", action="store_true", help="only draw the tracks on the picture")
    add("--camera", type=Path, help="camera.npy as TRAM writes it, camera to world")
    command_line.add_model(parser)
    command_line.add_settings(parser)
    return parser.parse_args(arguments)


def require_counts(images: list[Path], tracks: list[Path], outs: list[Path]) -> None:
    """Refuses pictures without tracks or a place of their own."""
    if not len(images) == len(tracks) == len(outs):
        raise UserError(
            "Every picture needs tracks and a place for its video",
            expected=f"{len(images)} --tracks, or one for all, and {len(images)} --out",
            got=f"{len(tracks)} --tracks and {len(outs)} --out",
            fix="give as many",
        )


def inputs_of(options: argparse.Namespace) -> list[Path]:
    """The files that are read, and must not be written."""
    return [*options.image, *options.tracks, *([options.camera] if options.camera else [])]


def preview(images: list[Path], tracks: list[Path], outs: list[Path], settings: Settings) -> int:
    """Writes the pictures with their tracks drawn over them, and dark what the videos cut off.

    All are drawn before the first one is written.
    """
    require_places(
        "The preview cannot be written there",
        outs,
        [*images, *tracks],
        filter(None, map(video.picture_problem, outs)),
    )
    drawn = []
    for image, path in zip(images, tracks, strict=True):
        picture = video.read_image(image)
        track_file = read_tracks(path, picture.shape[:2])
        drawn.append(draw_preview(dim_outside(picture, settings), track_file, settings.num_frames))
    with new_files(*outs) as partials:
        for partial, picture in zip(partials, drawn, strict=True):
            video.write_image(partial, picture)
    print(*outs, sep="\n")
    return 0


if __name__ == "__main__":
    errors.run(main)
