"""Makes datasets of clip records of DAVIS 2017: frames, masks, and one track for every object.

    python -m data_prep.davis ROOT --out DIR

ROOT has JPEGImages, Annotations and ImageSets, as DAVIS is published. The tracks are computed from
the frames and masks. DIR gets the dataset davis_val, or davis_train, or both.

The same command goes on where it was stopped. Whatever is left out is named, with exit code 3.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data_prep.fanout import options as fanout
from data_prep.fanout.task import Task, stamp
from data_prep.videos import davis_sequence
from data_prep.videos import options as video_options
from data_prep.videos.davis_sequence import MASKS, PICTURES, SETS, SequenceJob
from data_prep.videos.preparation import Videos, may_name_a_clip, prepare
from data_prep.videos.text_file import read_text
from posetraj_jax import errors
from posetraj_jax.errors import UserError, listed

LICENCE = "DAVIS: CC-BY-4.0, but for the sequences in its SOURCES.md"
SPLITS = TRAIN, VAL = ("train", "val")
ALL = "all"
RESOLUTIONS = ("480p", "Full-Resolution")


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """Reads and checks the command line; returns its options and those of Beam.

    Raises:
        UserError: options that cannot be used, or a folder without DAVIS in it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.davis", description=__doc__.splitlines()[0]
    )
    video_options.add_options(parser, licence=LICENCE)
    add = parser.add_argument_group("DAVIS").add_argument
    add("--split", choices=(*SPLITS, ALL), default=VAL, help="(%(default)s)")
    add("--resolution", choices=RESOLUTIONS, help="which pictures to read (480p if it is there)")
    options, beam = fanout.parse(parser, arguments)
    options.storage = video_options.storage_of(options)
    options.resolution = options.resolution or _resolution(options.root)
    _require_layout(options.root, options.resolution)
    return options, beam


def _resolution(root: Path) -> str:
    there = (name for name in RESOLUTIONS if (root / PICTURES / name).is_dir())
    return next(there, RESOLUTIONS[0])


def _require_layout(root: Path, resolution: str) -> None:
    wanted = [f"{PICTURES}/{resolution}", f"{MASKS}/{resolution}", SETS]
    absent = [name for name in wanted if not (root / name).is_dir()]
    if absent:
        raise UserError(
            f"There is no DAVIS 2017 in {root}",
            expected=f"the folders {', '.join(wanted)}",
            got=f"no {', no '.join(absent)}",
            fix="give the folder DAVIS of the unpacked archive, or another --resolution",
        )


def sequences_of(root: Path, split: str) -> list[str]:
    """Names of the sequences of a split, in the order of its list.

    Raises:
        UserError: there is no such list.
    """
    path = root / SETS / f"{split}.txt"
    try:
        names = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, ValueError) as error:
        names, got = [], f"{type(error).__name__}: {error}"
    else:
        got = "no names"
    names = list(dict.fromkeys(name for name in names if name))
    if not names or not all(map(may_name_a_clip, names)):
        raise UserError(
            f"A list of sequences cannot be used: {path}",
            expected="the name of a sequence in every line",
            got=got if not names else listed([n for n in names if not may_name_a_clip(n)], 3),
            fix="unpack it from the archive of DAVIS 2017 again",
        )
    return names


def plan(options: argparse.Namespace) -> dict[str, Videos]:
    """The sequences of each dataset."""
    splits = SPLITS if options.split == ALL else (options.split,)
    listed_in = {split: sequences_of(options.root, split) for split in splits}
    if twice := set(listed_in.get(TRAIN, ())) & set(listed_in.get(VAL, ())):
        raise UserError(
            f"The lists in {options.root / SETS} contradict each other",
            expected="a sequence in train.txt or in val.txt",
            got=f"{', '.join(sorted(twice)[:3])} in both",
            fix="unpack them from the archive of DAVIS 2017 again",
        )
    pictures = options.root / PICTURES / options.resolution
    datasets = {}
    for split, sequences in listed_in.items():
        here = [sequence for sequence in sequences if (pictures / sequence).is_dir()]
        if not here:
            raise UserError(
                f"No sequence of DAVIS {split} is in {options.root}",
                expected=f"a folder in {pictures} for each name in {split}.txt",
                got=f"none for {len(sequences)} names",
                fix="unpack the archive again, or choose another --resolution or --split",
            )
        why = f"in {split}.txt but no folder in {PICTURES}/{options.resolution}"
        absent = {sequence: why for sequence in sequences if sequence not in here}
        tasks = [_task(sequence, split, options) for sequence in here]
        datasets[f"davis_{split}"] = Videos(tasks, absent)
    return datasets


def _task(sequence: str, split: str, options: argparse.Namespace) -> Task:
    root = options.root.absolute()
    pictures, masks = davis_sequence.files_of(root, options.resolution, sequence)
    job = SequenceJob(
        root=str(root),
        sequence=sequence,
        resolution=options.resolution,
        stamp=stamp((*pictures, *masks)),
        split=split,
        storage=options.storage,
        min_frames=options.min_frames,
        licence=options.licence,
    )
    return Task(sequence, davis_sequence.WORK, job.to_json())


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the datasets; returns the exit code.

    Raises:
        UserError: as `parse`, `plan` and `prepare`.
    """
    options, beam = parse(arguments)
    reads = [options.root / name for name in (PICTURES, MASKS, SETS)]
    return prepare(plan(options), reads, options, beam)


if __name__ == "__main__":
    errors.run(main)
