"""Makes datasets of clip records of VIPSeg: its pictures and masks, tracks, and cameras if known.

    python -m data_prep.vipseg ROOT --out DIR --val VALIDATION
    python -m data_prep.vipseg ROOT --out DIR --tracks_only

ROOT has `imgs/<video>/*.jpg` and `trajectory_CoTracker_all/<video>.json` (or, as it is published,
`output_cotracker_all`), and may have `panomasks/<video>/*.png` and
`estimated_cam_rt/<video>/camera.npy`. DIR gets the datasets vipseg_train and vipseg_val.

The same command goes on where it was stopped. Whatever is left out is named, with exit code 3.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data_prep.fanout import options as fanout
from data_prep.fanout.product import require_places
from data_prep.fanout.report import EXIT_INCOMPLETE
from data_prep.fanout.task import Task
from data_prep.videos import options as video_options
from data_prep.videos import track_statistics, vipseg_layout, vipseg_video
from data_prep.videos.preparation import LEGAL_NAME, Videos, may_name_a_clip, prepare
from data_prep.videos.vipseg_categories import read_categories
from data_prep.videos.vipseg_layout import TRAIN, VAL, split_of
from data_prep.videos.vipseg_video import DROP, KEEP, LEAVE_OUT, UNKNOWN, VideoJob
from posetraj_jax import errors
from posetraj_jax.data.track_file import VIPSegTracks, read_vipseg
from posetraj_jax.data.vipseg import PICTURES
from posetraj_jax.errors import UserError, listed
from posetraj_jax.video import write_image

LICENCE = "VIPSeg: non-commercial research"


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """Reads and checks the command line; returns its options and those of Beam.

    Raises:
        UserError: options that cannot be used, or a folder without VIPSeg in it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.vipseg", description=__doc__.splitlines()[0]
    )
    video_options.add_options(parser, licence=LICENCE)
    add = parser.add_argument_group("VIPSeg").add_argument
    add("--val", type=Path, help="validation videos: folder of their JSON files, or list of names")
    add("--only", choices=(TRAIN, VAL), help="make one of the two datasets (both)")
    add("--void", choices=(KEEP, DROP), default=KEEP, help="tracks of void (%(default)s)")
    add(
        "--most_outside",
        type=float,
        default=1.0,
        help="leave out tracks outside the picture in a larger share of the frames (%(default)s)",
    )
    add(
        "--bad_camera",
        choices=(LEAVE_OUT, UNKNOWN),
        default=LEAVE_OUT,
        help="what to do with a video whose camera file cannot be used (%(default)s)",
    )
    add("--categories", type=Path, help="panoVIPSeg_categories.json, for the names of classes")
    add("--tracks_only", action="store_true", help="statistics and a picture of the tracks")
    options, beam = fanout.parse(parser, arguments)
    options.storage = video_options.storage_of(options)
    problems = []
    if not 0 <= options.most_outside <= 1:
        problems.append(f"--most_outside {options.most_outside}: use 0 to 1")
    if options.only and not options.val:
        problems.append("--only needs --val, which says what belongs to which")
    video_options.require_usable(problems)
    vipseg_layout.require_layout(options.root)
    return options, beam


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the datasets, or statistics; returns the exit code.

    Raises:
        UserError: as `parse` and `prepare`; a list of validation videos of which none is here.
    """
    options, beam = parse(arguments)
    sources = vipseg_layout.sources(options.root)
    has_pictures = (options.root / PICTURES).is_dir()
    if options.tracks_only or not has_pictures:
        if not has_pictures:
            print(f"There are no pictures ({options.root / PICTURES}): statistics of tracks only")
        require_places([options.out], sources)
        return show_tracks(options)
    return prepare(plan(options), sources, options, beam)


def plan(options: argparse.Namespace) -> dict[str, Videos]:
    """The videos of each dataset."""
    root = options.root
    here = vipseg_layout.videos_in(root)
    if not here:
        raise UserError(
            f"No videos in {root}",
            expected=f"a folder for each video in {PICTURES}",
            got=f"none in {root / PICTURES}",
            fix="unpack VIPSeg there, or give --tracks_only",
        )
    validation = vipseg_layout.held_out(options.val) if options.val else frozenset()
    if validation:
        _require_both(here, validation, options)
    else:
        print("Without --val, all videos go into vipseg_train, those for validation too")
    missing = _missing(here, validation, options)
    names = read_categories(options.categories) if options.categories else {}
    datasets = {}
    for split in (TRAIN, VAL) if validation else (TRAIN,):
        if options.only in (None, split):
            own = [
                n for n in {**dict.fromkeys(here), **missing} if split_of(n, validation) == split
            ]
            datasets[f"vipseg_{split}"] = Videos(
                [_task(name, split, names, options) for name in own if name not in missing],
                {name: missing[name] for name in own if name in missing},
            )
    return datasets


def _require_both(
    here: Sequence[str], validation: frozenset[str], options: argparse.Namespace
) -> None:
    """Refuses a list that leaves nothing on one of the two sides."""
    every = validation.issuperset(here)
    if every or validation.isdisjoint(here):
        raise UserError(
            f"{options.val} names {'every' if every else 'no'} video in {options.root}",
            expected=f"names of some of the folders in {options.root / PICTURES}",
            got=listed(sorted(validation), 3),
            fix=f"correct --val: nothing would be left {'to train' if every else 'to validate'} on",
        )


def _missing(
    here: Sequence[str], validation: frozenset[str], options: argparse.Namespace
) -> dict[str, str]:
    """Names that stand somewhere and are no video that can be used, with the reason."""
    missing = {
        video: f"no name for a clip: use {LEGAL_NAME}"
        for video in here
        if not may_name_a_clip(video)
    }
    tracked = vipseg_layout.json_names(vipseg_layout.track_folder(options.root))
    for name in sorted(set(tracked) - set(here)):
        missing[name] = f"has tracks but no folder in {PICTURES}"
    for name in sorted(validation - set(here) - set(missing)):
        missing[name] = f"named by --val but has no folder in {PICTURES}"
    return missing


def _task(video: str, split: str, names: dict[str, str], options: argparse.Namespace) -> Task:
    root = options.root.absolute()
    job = VideoJob(
        root=str(root),
        video=video,
        stamp=vipseg_layout.files_of(root, video).stamp(),
        split=split,
        storage=options.storage,
        min_frames=options.min_frames,
        void=options.void,
        most_outside=options.most_outside,
        bad_camera=options.bad_camera,
        licence=options.licence,
        class_names=names,
    )
    return Task(video, vipseg_video.WORK, job.to_json())


def show_tracks(options: argparse.Namespace) -> int:
    """Prints statistics of the tracks and draws some; returns the exit code."""
    folder = vipseg_layout.track_folder(options.root)
    videos: dict[str, VIPSegTracks] = {}
    problems = []
    for name in vipseg_layout.json_names(folder):
        try:
            videos[name] = read_vipseg(folder / f"{name}.json")
        except UserError as error:
            problems.append(f"{name}: {error.got}")
    if problems:
        print(f"{len(problems)} files cannot be used:{listed(problems, len(problems))}")
    if not videos:
        raise UserError(
            f"No tracks can be read in {folder}",
            expected="a <video>.json for each video",
            got=f"{len(problems)} files that cannot be used",
            fix="copy the tracks of the official repository there",
        )
    for line in track_statistics.statistics(videos, options.min_frames):
        print(line)
    path = write_image(options.out / "tracks.png", track_statistics.preview(videos))
    print(f"some of them drawn: {path}")
    return EXIT_INCOMPLETE if problems and not options.accept_rejects else 0


if __name__ == "__main__":
    errors.run(main)
