"""Makes datasets of real videos: one task for each video, then one dataset for each split."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from data_prep.fanout import pipeline
from data_prep.fanout.clip_files import clips_of
from data_prep.fanout.options import EXIT_INCOMPLETE, fanout_options, report
from data_prep.fanout.task import Outcome, Task, outcome_of
from posetraj_jax.data import record_codec
from posetraj_jax.data.clip import LEGAL_ID, Clip
from posetraj_jax.data.records import VERSION, open_dataset, write_dataset
from posetraj_jax.errors import UserError, listed

TASKS_PER_PROCESS = 50
"""Videos that one worker process takes: nobody's program runs in it, unlike with rendering."""
MOST_LETTERS = 200


def may_name_a_clip(name: str) -> bool:
    """Whether a video of this name can be a task and a clip."""
    return bool(LEGAL_ID.fullmatch(name)) and len(name) <= MOST_LETTERS


def prepare(
    datasets: Mapping[str, Sequence[Task]],
    missing: Mapping[str, str],
    options: argparse.Namespace,
    beam: tuple[str, ...],
) -> int:
    """Does all tasks, packs the clips, and reports; returns the exit code.

    A dataset is written when none of its tasks has failed, so it is never silently short: what was
    rejected was so for good and is reported. One that is there already must hold the same clips.

    Args:
        datasets: name of a dataset to its tasks; the keys are the names of the videos.
        missing: videos that are no task to why.
        options: of the command line, with `out` and those of the fan-out.
        beam: options of Beam.

    Raises:
        UserError: a dataset of that name holds other clips, or no clip is left.
    """
    parts = options.parts or Path(f"{options.out.resolve()}.parts")
    tasks = [task for part in datasets.values() for task in part]
    for name, part in datasets.items():
        _require_same_sources(options.out, name, part, parts)
    spread = fanout_options(options, beam, unit="video", tasks_per_process=TASKS_PER_PROCESS)
    with pipeline.alone(parts):
        outcomes = pipeline.run(tasks, parts, spread)
        left_out = [Outcome(video, rejected=reason) for video, reason in missing.items()]
        all_outcomes = [*outcomes, *left_out]
        keys = [outcome.key for outcome in all_outcomes]
        kind = next(iter(datasets), "videos").partition("_")[0]
        file = options.out / f"{kind}-report.json"
        code = report(all_outcomes, keys, file, options.accept_rejects)
        said = {outcome.key: outcome for outcome in outcomes}
        for name, part in datasets.items():
            here = [said[task.key] for task in part]
            if any(outcome.failed for outcome in here):
                print(f"{name}: not written, because some of its videos failed; run it again")
                code = EXIT_INCOMPLETE
            else:
                _pack(name, part, here, parts, options.out)
    return code


def _require_same_sources(out: Path, name: str, tasks: Sequence[Task], parts: Path) -> None:
    """Hours of work shall not end with a dataset that cannot be written."""
    if (out / name / VERSION).exists() and any(outcome_of(t, parts) is None for t in tasks):
        got = f"other options or files than it was made of, or parts that are no longer in {parts}"
        raise _other_clips(out / name / VERSION, got)


def _pack(
    name: str, tasks: Sequence[Task], outcomes: Sequence[Outcome], parts: Path, out: Path
) -> None:
    counts: Counter[str] = Counter()
    notes: list[str] = []
    clips = _counted(clips_of(tasks, outcomes, parts), counts, notes)
    folder = out / name / VERSION
    if folder.exists():
        _require_equal(folder, clips)
        how = "is there already"
    else:
        write_dataset(clips, out, name=name)
        how = "written"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    kinds = ", ".join(f"{counts[k]} {k}" for k in sorted(counts) if k.startswith("tracks"))
    print(
        f"{name} {how}: {counts['clips']} clips, {counts['frames']} frames ({kinds}; "
        f"{counts['cameras']} with camera, {counts['masks']} with masks), {size / 1e6:.1f} MB: "
        f"{folder}"
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


def _require_equal(folder: Path, clips: Iterable[Clip]) -> None:
    stored = open_dataset(folder)
    for old, new in zip_longest((stored[i] for i in range(len(stored))), clips):
        if old is None or new is None or record_codec.encode(old) != record_codec.encode(new):
            raise _other_clips(folder, f"another clip {(new or old).clip_id!r}")


def _other_clips(folder: Path, got: str) -> UserError:
    return UserError(
        f"The dataset in {folder} is another one",
        expected="no dataset, or the one that this command makes",
        got=got,
        fix="delete it, or give another --out",
    )
