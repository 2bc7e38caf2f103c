"""Follows points through any videos and writes them as VIPSeg's tracks lie, with their frames.

    python -m data_prep.track_videos VIDEOS --out ROOT

VIDEOS is a video file, a folder of them, or a folder of folders of pictures. ROOT gets
`imgs/<video>/`, `trajectory_CoTracker_all/<video>.json` and `track_visibility/<video>.json`, and a
picture of the tracks in `track_sheets/`: `data_prep.estimate_cameras` adds cameras to it,
`data_prep.vipseg` makes clip records of it, and training reads it as it is.

Points are chosen by `--masks` (a point in each object), by `--points`, or else automatically, most
of them on what moves. The default tracker, Lucas-Kanade, needs no network. The same command goes on
where it was stopped; videos that cannot be used are named, with exit code 3.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from data_prep.fanout import options as fanout
from data_prep.fanout.product import Place, Work, make
from data_prep.fanout.task import Outcome, Task, stamp
from data_prep.videos import tracked_video
from data_prep.videos.pictures import pictures_in
from data_prep.videos.preparation import LEGAL_NAME, TASKS_PER_PROCESS, may_name_a_clip
from data_prep.videos.tracked_video import COTRACKER, LUCAS_KANADE, TRACKERS, VideoJob
from posetraj_jax import errors
from posetraj_jax.data.vipseg import PICTURES, TRACKS, VISIBILITY
from posetraj_jax.errors import UserError, listed
from posetraj_jax.new_folder import new_folder

TIMEOUT_S = 1800.0
SHEETS = "track_sheets"
FILES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
TRACK_FILES = (".npz", ".npy", ".json")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.track_videos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("videos", type=Path, help=f"video file ({' '.join(FILES)}) or folder")
    add("--out", type=Path, required=True, help="folder to make")
    add("--start", type=int, default=0, help="first frame to take (%(default)s)")
    add("--stride", type=int, default=1, help="take every so manieth frame (%(default)s)")
    add("--num_frames", type=int, default=0, help="of each video at most (0: all)")
    add("--masks", type=Path, help="folder <video>/*.png of segment numbers, for all frames or one")
    add("--points", type=Path, help="JSON {video: [[x, y], ...]}, pixels of the first frame taken")
    add("--num_points", type=int, default=12, help="without masks or points (%(default)s)")
    add("--tracker", choices=TRACKERS, default=LUCAS_KANADE, help="(%(default)s)")
    add("--weights", type=Path, help="of bootstapir or tapnext")
    add("--tracks", type=Path, help=f"cotracker: folder <video>{'|'.join(TRACK_FILES)}")
    fanout.add_options(parser, timeout_s=TIMEOUT_S)
    return parser


def check(options: argparse.Namespace) -> None:
    """Refuses options that cannot work.

    Raises:
        UserError: with everything that is wrong.
    """
    least = {"start": 0, "stride": 1, "num_frames": 0, "num_points": 1}
    wrong = [
        f"--{name} is {getattr(options, name)}, the least is {bound}"
        for name, bound in least.items()
        if getattr(options, name) < bound
    ]
    networks = options.tracker not in (LUCAS_KANADE, COTRACKER)
    for name, needed in (("weights", networks), ("tracks", options.tracker == COTRACKER)):
        if needed != (getattr(options, name) is not None):
            wrong.append(f"--{name} is {'needed' if needed else 'not for'} {options.tracker}")
    for name in ("videos", "masks", "points", "weights", "tracks"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            wrong.append(f"{name}: there is no {path}")
    if wrong:
        raise UserError(
            "The videos cannot be tracked as asked",
            expected="legal options",
            got=listed(wrong),
            fix="change these options (see --help)",
        )


def find_videos(source: Path) -> dict[str, Path]:
    """Name of each video to its file or its folder of pictures.

    Raises:
        UserError: there is none, or two have the same name.
    """
    if source.is_file() or pictures_in(source):
        found = [source]
    else:
        entries = sorted(source.iterdir(), key=lambda path: path.name)
        found = [p for p in entries if p.suffix.lower() in FILES or pictures_in(p)]
    names = [path.name if path.is_dir() else path.stem for path in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not found or twice:
        raise UserError(
            f"No videos to track in {source}" if not found else "Two videos have the same name",
            expected=f"files {' '.join(FILES)}, or folders of pictures, each of its own name",
            got=", ".join(twice) or "none of them",
            fix="give another place, or rename them",
        )
    return dict(zip(names, found, strict=True))


def plan(options: argparse.Namespace) -> tuple[list[Task], dict[str, str]]:
    """A task for each video, and videos that cannot be one, with the reason."""
    points = tracked_video.read_points(options.points) if options.points else {}
    tasks, missing = [], {}
    for name, video in find_videos(options.videos).items():
        masks = options.masks / name if options.masks else None
        tracks = _track_file(options.tracks, name) if options.tracks else None
        reason = ""
        if not may_name_a_clip(name):
            reason = f"no name for a clip: use {LEGAL_NAME}"
        elif masks and not pictures_in(masks):
            reason = f"no masks in {masks}"
        elif options.points and name not in points:
            reason = f"no points in {options.points}"
        elif options.tracks and tracks is None:
            reason = f"no tracks in {options.tracks}"
        if reason:
            missing[name] = reason
            continue
        files = [video, *pictures_in(video), *(pictures_in(masks) if masks else [])]
        files += [path for path in (tracks, options.weights) if path]
        job = VideoJob(
            video=str(video.absolute()),
            stamp=stamp(files),
            tracker=options.tracker,
            start=options.start,
            stride=options.stride,
            num_frames=options.num_frames,
            num_points=options.num_points,
            masks=str(masks.absolute()) if masks else "",
            points=tuple(map(tuple, points.get(name, ()))),
            weights=str(options.weights.absolute()) if options.weights else "",
            tracks=str(tracks.absolute()) if tracks else "",
        )
        tasks.append(Task(name, tracked_video.WORK, job.to_json()))
    return tasks, missing


def _track_file(folder: Path, name: str) -> Path | None:
    found = (folder / f"{name}{suffix}" for suffix in TRACK_FILES)
    return next((path for path in found if path.is_file()), None)


def write(tasks: Sequence[Task], outcomes: Sequence[Outcome], parts: Path, folder: Path) -> None:
    """Puts the results of all tasks where a reader of VIPSeg looks for them."""
    places = {
        tracked_video.TRACKS: (TRACKS[0], ".json"),
        tracked_video.VISIBILITY: (VISIBILITY, ".json"),
        tracked_video.SHEET: (SHEETS, ".jpg"),
    }
    for task, outcome in zip(tasks, outcomes, strict=True):
        for name in outcome.results:
            place, suffix = places.get(name, ("", ""))
            target = folder / place / f"{task.key}{suffix}"
            if not place:
                target = folder / PICTURES / task.key / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(task.folder(parts) / name, target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Tracks and writes; 0, or 3 if videos were left out."""
    options, beam = fanout.parse(make_parser(), arguments)
    check(options)
    tasks, left_out = plan(options)
    place = Place.of_folder(options.out, options.parts)
    work = Work(
        tasks,
        [task.key for task in tasks],
        left_out,
        reads=[path for path in (options.videos, options.masks, options.tracks) if path],
        unit="video",
        tasks_per_process=TASKS_PER_PROCESS,
    )

    def write_all(outcomes: Sequence[Outcome]) -> None:
        with new_folder(place.folder) as folder:
            write(tasks, outcomes, place.parts, folder)
        done = sum(bool(outcome.results) for outcome in outcomes)
        print(f"{done} videos with tracks: {options.out} (look at {options.out / SHEETS})")

    return make(place, work, options, beam, write_all)


if __name__ == "__main__":
    errors.run(main)
