"""What all renderers share: their common options, rendering what is missing, and checking it."""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.engines import render_env
from data_prep.engines.rendered_clip import is_finished, load_clip
from data_prep.scenes.scene import Scene
from posetraj_jax.data.clip import Clip
from posetraj_jax.errors import UserError, listed

LOWEST = {"seed": 0, "workers": 1, "samples": 1, "jpeg_quality": 1}
HIGHEST_JPEG_QUALITY = 95


def add_options(parser: argparse.ArgumentParser, jpeg_quality: int) -> None:
    """Adds the options that all renderers have."""
    add = parser.add_argument
    add("--seed", type=int, default=0)
    add("--samples", type=int, default=4, help="light paths per pixel (default: %(default)s)")
    add("--renders", type=Path, default=Path("renders"), help="folder for pictures in the making")
    add("--workers", type=int, default=1, help="Blender processes, which share the cores")
    add(
        "--jpeg_quality",
        type=int,
        default=jpeg_quality,
        help=f"1 to {HIGHEST_JPEG_QUALITY} (default: %(default)s)",
    )
    add("--render_python", type=Path, help="Python with bpy (default: that of .venv-render)")


def check_options(
    options: argparse.Namespace,
    *,
    lowest: Mapping[str, int],
    out: Path,
    problems: Sequence[str],
) -> None:
    """Checks the common options, and some of a renderer's own.

    Args:
        lowest: the least values of its own numbers.
        out: folder that --out needs; made if absent.
        problems: what is wrong besides.

    Raises:
        UserError: with everything that is wrong.
    """
    wrong = [
        f"--{name} is {getattr(options, name)}, the least is {least}"
        for name, least in {**lowest, **LOWEST}.items()
        if getattr(options, name) < least
    ]
    if options.jpeg_quality > HIGHEST_JPEG_QUALITY:
        wrong.append(
            f"--jpeg_quality is {options.jpeg_quality}, the most is {HIGHEST_JPEG_QUALITY}"
        )
    wrong += problems
    wrong += [
        f"--{name} {folder} cannot be made or written"
        for name, folder in (("out", out), ("renders", options.renders))
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


def checked_clips(
    scenes: Sequence[Scene],
    renders: Path,
    jpeg_quality: int,
    problems_of: Callable[[Clip], list[str]],
) -> Iterator[Clip]:
    """The rendered clips in order, each checked.

    Args:
        problems_of: says what is wrong with a clip, in lines; none if nothing is.

    Raises:
        UserError: a clip whose annotations and pixels disagree.
    """
    for scene in tqdm(scenes, unit="clip", desc="check and pack"):
        clip = load_clip(renders / scene.clip_id, jpeg_quality=jpeg_quality)
        wrong = problems_of(clip)
        if wrong:
            raise UserError(
                f"Clip {clip.clip_id!r} is not sound",
                expected="annotations that agree with the pictures",
                got=listed(wrong),
                fix=f"delete {renders / scene.clip_id} and start again; else report a defect",
            )
        yield clip
