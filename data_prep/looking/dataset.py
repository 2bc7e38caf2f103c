"""A dataset of any kind, opened to be looked at clip by clip."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from posetraj_jax.data.clip import Clip
from posetraj_jax.data.records import ClipRecords, find_datasets
from posetraj_jax.data.sources import (
    LazyClip,
    OfficialClip,
    RecordClip,
    clip_folders,
    open_source,
)
from posetraj_jax.data.vipseg import PICTURES, VIPSegClip, is_vipseg
from posetraj_jax.errors import UserError, listed

RECORDS, VIPSEG, OFFICIAL = "clip records", "VIPSeg's folders", "PoseTraj-10K's folders"
DEEPEST, MOST_FOLDERS = 4, 2000
"""How far, and into how many folders, the search for datasets goes."""


class Seen(NamedTuple):
    """A clip that was opened; its pictures are still encoded."""

    clip: LazyClip
    """As training sees it."""
    record: Clip | None
    """None of a clip in folders."""
    num_frames: int


@dataclass(frozen=True)
class Dataset:
    """What lies in a folder; nothing of it has been read yet but records' index."""

    path: Path
    kind: str
    clip_ids: tuple[str, ...]
    records: ClipRecords | None = None

    @property
    def name(self) -> str:
        """What to call it, such as 'posetraj10k'."""
        path = self.records.folder.parent if self.records else self.path
        return path.resolve().name or "dataset"

    @property
    def damaged_files(self) -> dict[str, str]:
        """Record files that are missing or of a wrong size, and what is wrong with each."""
        return self.records.damaged_files if self.records else {}

    def __len__(self) -> int:
        return len(self.clip_ids)

    def read(self, index: int) -> Seen:
        """Opens a clip.

        Raises:
            UserError: the record is damaged.
        """
        if self.records is not None:
            record = self.records[index]
            return Seen(RecordClip(record), record, len(record.frames_jpeg))
        clip = self._of_folder(index)
        return Seen(clip, None, clip.num_frames)

    def problems(self, index: int) -> list[str]:
        """What keeps a clip in folders from being read."""
        return [] if self.records is not None else self._of_folder(index).problems()

    def num_bytes(self) -> int:
        """Of all files."""
        folder = self.records.folder if self.records else self.path
        return sum(
            os.lstat(Path(where) / name).st_size
            for where, _, names in os.walk(folder)
            for name in names
        )

    def _of_folder(self, index: int) -> VIPSegClip | OfficialClip:
        if self.kind == VIPSEG:
            return VIPSegClip(self.path, self.clip_ids[index])
        return OfficialClip(self.path / self.clip_ids[index])


def open_to_look(path: Path, *, accept_damage: bool = False) -> Dataset:
    """Opens the dataset in a folder.

    Args:
        path: of clip records, of VIPSeg, or of official clips.
        accept_damage: go on where some clips or files are missing or damaged.

    Raises:
        UserError: no dataset, or several, which are listed; or damage, unless it is accepted.
    """
    if not path.is_dir():
        raise UserError(
            f"There is no dataset in {path}",
            expected="a folder: clip records, VIPSeg's, or official clips",
            got="a file, not a folder" if path.exists() else "no such folder",
            fix="give the folder that has the dataset",
        )
    folders = find_datasets(path)
    if len(folders) == 1:
        records = ClipRecords(folders[0], accept_damage=accept_damage)
        return _with_clips(Dataset(path, RECORDS, records.clip_ids, records))
    kind = None if folders else _kind(path)
    if kind is None:
        _refuse(path)
    if not accept_damage:
        open_source(path)  # names every clip that cannot be read
    if kind == VIPSEG:
        entries = (entry for entry in (path / PICTURES).iterdir() if entry.is_dir())
        return _with_clips(Dataset(path, kind, tuple(sorted(entry.name for entry in entries))))
    return Dataset(path, kind, tuple(folder.name for folder in clip_folders(path)))


def _with_clips(dataset: Dataset) -> Dataset:
    if not len(dataset):
        raise UserError(
            f"There are no clips in {dataset.path}",
            expected="at least one clip",
            got=f"{dataset.kind} without any",
            fix="make or copy the data again",
        )
    return dataset


def _kind(path: Path) -> str | None:
    if (path / "dataset_info.json").is_file():
        return RECORDS
    if is_vipseg(path):
        return VIPSEG
    return OFFICIAL if clip_folders(path) else None


def _refuse(path: Path) -> None:
    found = [f"{place} ({kind})" for place, kind in _below(path)]
    if not found:
        open_source(path)  # lists what is there instead
    raise UserError(
        f"{path} is not one dataset",
        expected="one dataset: clip records, VIPSeg's folders, or official clip folders",
        got=f"{len(found)} in it:" + listed(found),
        fix="give one of these paths",
    )


def _below(path: Path) -> Iterator[tuple[Path, str]]:
    """The datasets below a folder, not those inside others."""
    waiting, seen = [(path, 0)], 0
    while waiting and seen < MOST_FOLDERS:
        folder, depth = waiting.pop(0)
        seen += 1
        if kind := _kind(folder):
            yield folder, kind
        elif depth < DEEPEST:
            entries = sorted(entry for entry in folder.iterdir() if entry.is_dir())
            waiting += [(entry, depth + 1) for entry in entries if not entry.is_symlink()]
