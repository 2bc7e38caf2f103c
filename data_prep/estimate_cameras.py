"""Estimates the cameras of videos and writes them where VIPSeg's lie.

    python -m data_prep.estimate_cameras ROOT

ROOT has `imgs/<video>/*.jpg`, and may have `panomasks/<video>/*.png`; each video gets
`estimated_cam_rt/<video>/camera.npy`, in the keys of TRAM: camera to world, the world being the
camera of the first frame. Lengths have no unit that pictures could tell: `--scale_by` says what
counts as 1, and the file repeats it. Cameras that are there already are kept, TRAM's too.

The same command goes on where it was stopped; videos whose camera cannot be told (a cut, too little
texture) are named, with exit code 3, and count as videos without a camera. What moves by itself and
fills most of the picture is taken for the background unless masks say otherwise.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from data_prep.fanout import options as fanout
from data_prep.fanout import pipeline, report
from data_prep.fanout.product import require_places
from data_prep.fanout.task import Task, appearing, stamp
from data_prep.videos import filmed_video, vipseg_layout
from data_prep.videos.filmed_video import CAMERA, VideoJob
from data_prep.videos.pictures import pictures_in
from data_prep.videos.preparation import LEGAL_NAME, may_name_a_clip
from posetraj_jax import errors
from posetraj_jax.cameras import estimate
from posetraj_jax.data.track_file import FIRST_THING
from posetraj_jax.data.vipseg import CAMERAS, PICTURES
from posetraj_jax.errors import UserError, listed

TIMEOUT_S = 1800.0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.estimate_cameras",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    o = estimate.Options()
    add = parser.add_argument
    add("root", type=Path, help="folder with imgs/<video>")
    add("--masks", type=Path, help="folder <video>/*.png of segment numbers (ROOT/panomasks)")
    add(
        "--lowest_id",
        type=int,
        default=FIRST_THING,
        help="segments from this number on may move by themselves (%(default)s: VIPSeg's things)",
    )
    add("--focal_px", type=fanout.number, default=0.0, help="of all videos, where it is known")
    add("--work_width", type=int, default=o.work_width, help="pixels for the work (%(default)s)")
    add("--scale_by", choices=("depth", "path"), default=o.scale_by, help="what has this length: "
        "the median depth of the first frame, or the path of the camera (%(default)s)")  # fmt: skip
    add(
        "--scale_value",
        type=fanout.positive_number,
        default=o.scale_value,
        help="its length (%(default)s)",
    )
    add("--again", action="store_true", help="replace cameras that are there")
    fanout.add_options(parser, timeout_s=TIMEOUT_S)
    return parser


def check(options: argparse.Namespace) -> None:
    """Refuses options that cannot work.

    Raises:
        UserError: with everything that is wrong.
    """
    wrong = []
    if not (options.root / PICTURES).is_dir():
        wrong.append(f"there is no folder {options.root / PICTURES}")
    elif not vipseg_layout.videos_in(options.root):
        wrong.append(f"there is no video in {options.root / PICTURES}")
    if options.masks and not options.masks.is_dir():
        wrong.append(f"there is no folder {options.masks}")
    if options.lowest_id < 1:
        wrong.append(f"--lowest_id is {options.lowest_id}, the least is 1")
    if options.work_width < 64:
        wrong.append(f"--work_width is {options.work_width}, the least is 64")
    if wrong:
        raise UserError(
            "The cameras cannot be estimated as asked",
            expected=f"a folder with {PICTURES}/<video>, and legal options",
            got=listed(wrong),
            fix="change these options (see --help)",
        )


def tasks_of(
    options: argparse.Namespace, videos: Sequence[str]
) -> tuple[list[Task], dict[str, str]]:
    """A task for every video that has no camera yet; and videos that cannot be one, with why."""
    tasks, left_out = [], {}
    for video in videos:
        if _camera_file(options.root, video).exists() and not options.again:
            continue
        if not may_name_a_clip(video):
            left_out[video] = f"no name for a clip: use {LEGAL_NAME}"
            continue
        pictures, masks = options.root / PICTURES / video, _masks(options) / video
        mask_files = pictures_in(masks)
        job = VideoJob(
            pictures=str(pictures.absolute()),
            stamp=stamp([*pictures_in(pictures), *mask_files]),
            masks=str(masks.absolute()) if mask_files else "",
            lowest_id=options.lowest_id,
            focal_px=options.focal_px,
            work_width=options.work_width,
            scale_by=options.scale_by,
            scale_value=options.scale_value,
        )
        tasks.append(Task(video, filmed_video.WORK, job.to_json()))
    return tasks, left_out


def _masks(options: argparse.Namespace) -> Path:
    return options.masks or options.root / vipseg_layout.MASKS


def _camera_file(root: Path, video: str) -> Path:
    return root / CAMERAS / video / CAMERA


def main(arguments: Sequence[str] | None = None) -> int:
    """Estimates and writes; 0, or 3 if some cameras cannot be told."""
    options, beam = fanout.parse(make_parser(), arguments)
    check(options)
    videos = vipseg_layout.videos_in(options.root)
    tasks, left_out = tasks_of(options, videos)
    own, file = options.root / f".{CAMERAS}.parts", options.root / f"{CAMERAS}-report.json"
    parts = options.parts or own
    spread = fanout.fanout_options(options, beam, unit="video")
    pipeline.require_runner(spread)
    cameras = options.root / CAMERAS
    require_places([parts, cameras, file], [options.root / PICTURES, _masks(options)])
    with pipeline.alone(own), pipeline.alone(parts, within=own):
        outcomes = pipeline.run(tasks, parts, spread)
        for task, outcome in zip(tasks, outcomes, strict=True):
            if outcome.results:
                target = _camera_file(options.root, task.key)
                target.parent.mkdir(parents=True, exist_ok=True)
                with appearing(target) as partial:
                    shutil.copyfile(task.folder(parts) / CAMERA, partial)
        said = report.of_outcomes(tasks, outcomes, [task.key for task in tasks], left_out)
        said.write(file)
        said.say(file)
        code = said.exit_code(options.accept_rejects)
        # Marks of what was rejected stay until it is accepted, so that it is not done again.
        done = [t for t, o in zip(tasks, outcomes, strict=True) if code == 0 or o.results]
        pipeline.clear(parts, done)
    known = sum(_camera_file(options.root, video).exists() for video in videos)
    print(f"{len(said.finished)} cameras estimated; {known} of {len(videos)} videos have one")
    if known == 0:
        raise UserError(
            f"No video in {options.root} has a camera",
            expected="at least one whose camera can be told",
            got=f"none; {file} has the reason for each",
            fix="see docs/data.md: masks of what moves, or --focal_px, may help",
        )
    return code


if __name__ == "__main__":
    errors.run(main)
