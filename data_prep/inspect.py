"""Looks at a dataset: counts what is in it, draws a sheet of it, or checks all of it.

    python -m data_prep.inspect DATASET                     # counts, and DATASET-sheet.png
    python -m data_prep.inspect DATASET --validate          # reads everything; exit code 2 if bad
    python -m data_prep.inspect DATASET --sheets FOLDER     # every frame of every clip

DATASET is a folder of clip records, rendered or of real video, of official PoseTraj-10K clips, or
of VIPSeg. Memory does not grow with it but for some hundred bytes for each clip.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_prep.fanout.options import positive_integer
from data_prep.looking import overview
from data_prep.looking.clip_sheet import draw_clip
from data_prep.looking.dataset import Dataset, open_to_look
from data_prep.looking.statistics import Statistics, facts_of
from data_prep.looking.validate import Problem, Totals, validate
from posetraj_jax import errors
from posetraj_jax.errors import UserError, listed
from posetraj_jax.video import write_image

NUM_CLIPS = 6
MOST_LINES = 8
"""Of one clip."""
MOST_CLIPS = 50

SHEET, SHEETS, VALIDATE = "counts and one sheet", "--sheets", "--validate"
BELONGS_TO = {
    "out": (SHEET,),
    "num_clips": (SHEET,),
    "clips": (SHEET, SHEETS),
    "plain": (SHEETS,),
    "most": (VALIDATE,),
    "threads": (VALIDATE,),
}
"""What each option has an effect on; anywhere else it is refused."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Looks at a dataset as asked.

    Raises:
        UserError: no such dataset or clips, a damaged one, or `--validate` found something.
    """
    options = _parse(arguments)
    dataset = open_to_look(options.dataset, accept_damage=options.validate)
    chosen = _chosen(dataset, options.clips)
    print(f"{dataset.name}: {dataset.kind} in {dataset.path}", flush=True)
    if options.validate:
        _validate(dataset, options.threads or os.cpu_count() or 1, options.most or MOST_CLIPS)
    elif options.sheets:
        _draw_sheets(dataset, chosen, options.sheets, options.plain)
    else:
        _count(dataset)
        _draw_overview(dataset, options)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("dataset", type=Path, help="clip records, PoseTraj-10K's folders, or VIPSeg's")
    add("--out", type=Path, help="the sheet, a .png (default: NAME-sheet.png in this folder)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--clips", nargs="+", metavar="ID", help="clips to draw")
    which.add_argument(
        "--num_clips", type=positive_integer, help=f"on the sheet, evenly chosen ({NUM_CLIPS})"
    )
    instead = parser.add_argument_group("instead of counts and one sheet")
    how = instead.add_mutually_exclusive_group()
    how.add_argument("--validate", action="store_true", help="read and check every clip")
    how.add_argument("--sheets", type=Path, help="folder for one PNG per clip, all its frames")
    add("--plain", action="store_true", help="with --sheets: draw no annotations")
    add("--most", type=positive_integer, help=f"with --validate: bad clips shown ({MOST_CLIPS})")
    add("--threads", type=positive_integer, help="with --validate (default: one per core)")
    options = parser.parse_args(arguments)
    if wrong := _without_effect(options):
        parser.error(wrong)
    if options.out and options.out.suffix.lower() != ".png":
        parser.error(f"--out {options.out}: the sheet is a .png")
    return options


def _without_effect(options: argparse.Namespace) -> str:
    """What is wrong with options that do not go together; empty if nothing is."""
    asked = VALIDATE if options.validate else SHEETS if options.sheets else SHEET
    return "; ".join(
        f"--{name} goes with {' or '.join(modes)}, not with {asked}"
        for name, modes in BELONGS_TO.items()
        if getattr(options, name) and asked not in modes
    )


def _chosen(dataset: Dataset, clips: Sequence[str] | None) -> list[int]:
    """Numbers of the clips with these ids; of all without any."""
    unknown = sorted(set(clips or ()) - set(dataset.clip_ids))
    if unknown:
        raise UserError(
            "These clips are not in the data",
            expected=f"ids such as {', '.join(dataset.clip_ids[:3])}",
            got=", ".join(unknown),
            fix="change --clips",
        )
    wanted = set(clips or dataset.clip_ids)
    return [number for number, clip_id in enumerate(dataset.clip_ids) if clip_id in wanted]


def _count(dataset: Dataset) -> None:
    statistics = Statistics()
    for number in tqdm(range(len(dataset)), unit="clip", desc="count", dynamic_ncols=True):
        statistics.add(facts_of(dataset.read(number)))
    print("\n".join(statistics.lines(dataset.num_bytes())), flush=True)


def _draw_overview(dataset: Dataset, options: argparse.Namespace) -> None:
    numbers = _chosen(dataset, options.clips)
    if not options.clips:
        places = np.linspace(0, len(numbers) - 1, min(options.num_clips or NUM_CLIPS, len(numbers)))
        numbers = [numbers[place] for place in np.rint(places).astype(int)]
    cell, blocks = overview.cell_for(len(numbers)), []
    for number in numbers:
        seen = dataset.read(number)
        blocks.append(overview.draw_block(seen.clip, facts_of(seen), cell.side))
    out = options.out or Path(f"{dataset.name}-sheet.png")
    write_image(out, overview.join(blocks, cell.across))
    print(f"  sheet         of {len(numbers)} clips: {out}")


def _draw_sheets(dataset: Dataset, numbers: Sequence[int], folder: Path, plain: bool) -> None:
    for number in tqdm(numbers, unit="clip", desc="draw", dynamic_ncols=True):
        seen = dataset.read(number)
        write_image(folder / f"{seen.clip.clip_id}.png", draw_clip(seen, plain=plain))
    print(f"{len(numbers)} sheets: {folder}")


def _validate(dataset: Dataset, threads: int, most: int) -> None:
    for damage in dataset.damaged_files.values():
        print(f"  damaged file: {damage}", flush=True)
    shown: list[str] = []

    def show(clip_id: str, problems: Sequence[Problem]) -> None:
        shown.append(clip_id)
        if len(shown) <= most:
            tqdm.write(_described(clip_id, problems))

    totals = validate(dataset, threads, show)
    if len(shown) > most:
        print(f"  … and {len(shown) - most} more clips; --most shows more of them")
    print(
        f"  {totals.clips} clips with {totals.frames} frames read, {totals.bad_clips} clips with "
        f"problems; {totals.compared} rendered clips compared with their pixels"
    )
    if totals.not_compared:
        print(f"  {totals.not_compared} clips, rendered by another version, cannot be compared so")
    if totals.bad_clips or dataset.damaged_files:
        raise _bad(dataset, totals)


def _described(clip_id: str, problems: Sequence[Problem]) -> str:
    return f"  {clip_id}:" + listed([f"{p.kind}: {p.text}" for p in problems], MOST_LINES)


def _bad(dataset: Dataset, totals: Totals) -> UserError:
    counts = [f"{kind}: {count}" for kind, count in totals.kinds.most_common()]
    return UserError(
        f"{totals.bad_clips} of {totals.clips} clips in {dataset.path} have problems",
        expected="clips that agree with themselves, with the index, and with their pictures",
        got=listed(counts),
        fix="make these clips again, or copy the damaged files again; they are named above",
    )


if __name__ == "__main__":
    errors.run(main)
