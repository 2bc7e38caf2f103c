"""Renders clips like PoseTraj-10K's with Blender and packs them as a dataset of clip records.

    python -m data_prep.render_posetraj10k --out DIR --num_clips 16 --seed 0

The same arguments give the same clips. Rendered clips are kept in `--renders`, so that a run that
was stopped goes on where it was. Every clip is checked against its annotations before it is packed.
Needs the render environment (`make render-env`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data_prep.engines import render_env, render_run, verify
from data_prep.scenes.paths import HEADINGS
from data_prep.scenes.posetraj import make_scenes
from data_prep.scenes.toys import BUILTIN_ASSETS
from posetraj_jax import errors
from posetraj_jax.data.records import VERSION, write_dataset

JPEG_QUALITY = 90


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
    add(
        "--heading",
        choices=HEADINGS,
        default="tangent",
        help="where objects look; official: centre",
    )
    add("--clips_per_shard", type=int, default=256, help="clips per file (default: %(default)s)")
    render_run.add_options(parser, JPEG_QUALITY)
    options = parser.parse_args(arguments)
    target = options.out / options.name / VERSION
    render_run.check_options(
        options,
        lowest={"num_clips": 1, "clips_per_shard": 1},
        out=options.out,
        problems=[f"--out already holds a dataset: {target}"] if target.exists() else [],
    )
    return options


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
    render_run.render_missing(scenes, python, options.renders, options.workers)
    folder = write_dataset(
        render_run.checked_clips(scenes, options.renders, options.jpeg_quality, verify.problems),
        options.out,
        name=options.name,
        clips_per_shard=options.clips_per_shard,
    )
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{len(scenes)} clips, {size:.1f} MB: {folder}")


if __name__ == "__main__":
    errors.run(main)
