"""Renders clips like PoseTraj-10K's with Blender and packs them as a dataset of clip records.

    python -m data_prep.render_posetraj10k --out DIR --num_clips 16 --seed 0

The same arguments give the same clips. Rendered clips are kept in `--renders`, so that a run that
was stopped goes on where it was. Every clip is checked against its annotations before it is packed.
Needs the render environment (`make render-env`).
"""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep import render_env, verify
from data_prep.objects import BUILTIN_ASSETS
from data_prep.paths import HEADINGS
from data_prep.posetraj_scenes import make_scenes
from data_prep.rendered_clip import is_finished, load_clip
from data_prep.scene import Scene
from posetraj_jax import errors
from posetraj_jax.data.records import VERSION, Clip, write_dataset
from posetraj_jax.errors import UserError, listed

LOWEST = {
    "num_clips": 1,
    "seed": 0,
    "workers": 1,
    "samples": 1,
    "jpeg_quality": 1,
    "clips_per_shard": 1,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads and checks the command line.

    Raises:
        UserError: a number out of its range, or a place that cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.render_posetraj10k", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder that gets the dataset <name>/<version>")
    add("--name", default="posetraj10k", help="of the dataset (default: %(default)s)")
    add("--num_clips", type=int, default=16, help="S and circle in turn (default: %(default)s)")
    add("--seed", type=int, default=0)
    add(
        "--heading",
        choices=HEADINGS,
        default="tangent",
        help="where objects look; official: centre",
    )
    add("--samples", type=int, default=4, help="light paths per pixel (default: %(default)s)")
    add("--renders", type=Path, default=Path("renders"), help="folder for pictures in the making")
    add("--workers", type=int, default=1, help="Blender processes, which share the cores")
    add("--jpeg_quality", type=int, default=90, help="1 to 95 (default: %(default)s)")
    add("--clips_per_shard", type=int, default=256, help="clips per file (default: %(default)s)")
    add("--render_python", type=Path, help="Python with bpy (default: that of .venv-render)")
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    wrong = [
        f"--{name} is {getattr(options, name)}, the least is {least}"
        for name, least in LOWEST.items()
        if getattr(options, name) < least
    ]
    if options.jpeg_quality > 95:
        wrong.append(f"--jpeg_quality is {options.jpeg_quality}, the most is 95")
    target = options.out / options.name / VERSION
    if target.exists():
        wrong.append(f"--out already holds a dataset: {target}")
    wrong += [
        f"--{name} {folder} cannot be made or written"
        for name, folder in (("out", options.out), ("renders", options.renders))
        if not _writable(folder)
    ]
    if wrong:
        raise UserError(
            "The clips cannot be rendered as asked",
            expected="legal options",
            got=listed(wrong),
            fix="change these options (see --help)",
        )


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def render_missing(scenes: Sequence[Scene], python: Path, renders: Path, workers: int) -> None:
    """Renders those scenes that the folder does not hold yet, with a progress bar.

    Raises:
        UserError: a worker failed.
    """
    for left in renders.glob(".partial-*"):  # of a run that was killed
        shutil.rmtree(left)
    missing = [scene for scene in scenes if not is_finished(renders / scene.clip_id, scene)]
    frames, total = Counter(), sum(scene.frames for scene in missing)
    done = len(scenes) - len(missing)
    with tqdm(total=total, unit="frame", desc="render", disable=not missing) as bar:

        def on_report(report: dict[str, Any]) -> None:
            if "done" in report:
                frames["clips"] += 1
            else:
                bar.update()
            bar.set_postfix_str(f"{done + frames['clips']}/{len(scenes)} clips, {report['clip']}")

        render_env.render(
            python,
            missing,
            renders,
            workers=workers,
            threads=max(1, (os.cpu_count() or 1) // workers),
            on_report=on_report,
        )


def checked_clips(scenes: Sequence[Scene], renders: Path, jpeg_quality: int) -> Iterator[Clip]:
    """The rendered clips in order, each checked.

    Raises:
        UserError: a clip whose annotations and pixels disagree.
    """
    for scene in tqdm(scenes, unit="clip", desc="check and pack"):
        clip = load_clip(renders / scene.clip_id, jpeg_quality=jpeg_quality)
        wrong = verify.problems(clip)
        if wrong:
            raise UserError(
                f"Clip {clip.clip_id!r} is not sound",
                expected="annotations that agree with the pictures",
                got=listed(wrong),
                fix=f"delete {renders / scene.clip_id} and start again; else report a defect",
            )
        yield clip


def main(arguments: Sequence[str] | None = None) -> None:
    """Renders, checks and packs."""
    options = parse(arguments)
    python = render_env.find_python(options.render_python)
    scenes = make_scenes(
        options.num_clips,
        options.seed,
        render_env.measure(python, BUILTIN_ASSETS),
        heading=options.heading,
        samples=options.samples,
    )
    render_missing(scenes, python, options.renders, options.workers)
    folder = write_dataset(
        checked_clips(scenes, options.renders, options.jpeg_quality),
        options.out,
        name=options.name,
        clips_per_shard=options.clips_per_shard,
    )
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{len(scenes)} clips, {size:.1f} MB: {folder}")


if __name__ == "__main__":
    errors.run(main)
