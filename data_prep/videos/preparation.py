"""Makes datasets of real videos: one task for each video, one dataset for each split."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_prep.fanout.clip_files import clips_of
from data_prep.fanout.product import Place, Work, make
from data_prep.fanout.task import Outcome, Task
from posetraj_jax.data.clip import LEGAL_ID, Clip
from posetraj_jax.data.records import write_dataset
from posetraj_jax.errors import listed

TASKS_PER_PROCESS = 50
"""Videos that one worker process takes: nobody's program runs in it, unlike with rendering."""
MOST_LETTERS = 200
LEGAL_NAME = f"letters, digits, '-', '_' and '.', {MOST_LETTERS} at most"


def may_name_a_clip(name: str) -> bool:
    """Whether a video of this name can be a task and a clip."""
    return bool(LEGAL_ID.fullmatch(name)) and len(name) <= MOST_LETTERS


class Videos(NamedTuple):
    """What a dataset is made of."""

    tasks: Sequence[Task]
    """Their keys are the names of the videos."""
    left_out: Mapping[str, str]
    """Videos that are no task, to the reason."""


def prepare(
    datasets: Mapping[str, Videos],
    reads: Sequence[Path],
    options: argparse.Namespace,
    beam: tuple[str, ...],
) -> int:
    """Makes one dataset after the other; returns the exit code.

    Args:
        datasets: name of a dataset to its videos.
        reads: folders of sources.
        options: of the command line, with `out` and those of the fan-out.
        beam: options of Beam.

    Raises:
        UserError: as `product.make`.
    """
    codes = []
    for name, (tasks, left_out) in datasets.items():
        place = Place.of_dataset(options.out, name, options.parts)
        work = Work(
            tasks,
            [task.key for task in tasks],
            left_out,
            reads,
            unit="video",
            tasks_per_process=TASKS_PER_PROCESS,
        )

        def write(outcomes: Sequence[Outcome], place: Place = place, work: Work = work) -> None:
            _pack(place, clips_of(work.tasks, outcomes, place.parts), options.out)

        codes.append(make(place, work, options, beam, write))
    return max(codes)


def _pack(place: Place, clips: Iterable[Clip], out: Path) -> None:
    counts: Counter[str] = Counter()
    notes: list[str] = []
    name = place.folder.parent.name
    write_dataset(_counted(clips, counts, notes), out, name=name)
    size = sum(path.stat().st_size for path in place.folder.rglob("*") if path.is_file())
    kinds = ", ".join(f"{counts[k]} {k}" for k in sorted(counts) if k.startswith("tracks"))
    print(
        f"{name} written: {counts['clips']} clips, {counts['frames']} frames ({kinds}; "
        f"{counts['cameras']} with camera, {counts['masks']} with masks), {size / 1e6:.1f} MB: "
        f"{place.folder}"
    )
    if notes:
        print(f"{len(notes)} cameras count as unknown:{listed(notes, len(notes))}")


def _counted(clips: Iterable[Clip], counts: Counter[str], notes: list[str]) -> Iterator[Clip]:
    for clip in clips:
        if problem := clip.provenance.get("camera_problem"):
            notes.append(f"{clip.clip_id}: {problem}")
        counts["clips"] += 1
        counts["frames"] += len(clip.frames_jpeg)
        counts["cameras"] += clip.camera_known
        counts["masks"] += bool(clip.masks_png)
        counts.update(f"tracks of kind {kind}" for kind in clip.track_kinds)
        yield clip
