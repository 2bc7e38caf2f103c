"""The file of clip records: a TFDS dataset, written and read without TensorFlow.

A dataset is a folder `<directory>/<name>/<version>/` that any TFDS user can open:

* `*.array_record-SSSSS-of-NNNNN`, one record per clip in the order written. A record is a
  `tf.train.Example`, see `record_codec`.
* `metadata.json`: {"clips": [[clip_id, number of frames], ...]} in record order, so that windows
  can be planned without reading a single frame, and "file_bytes", the size of each record file in
  order, so that a truncated copy is found before anything is read.
* `dataset_info.json`, `features.json`: what TFDS writes.

Writing streams: memory is one record. (TFDS's own writer keeps all records in memory and past 1 GB
spills them with TensorFlow; its own reader can skip the decoding of a picture, but not of a
sequence of them, without TensorFlow. Hence the few overrides here.)
"""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from google.protobuf.json_format import ParseError

from posetraj_jax.data import record_codec
from posetraj_jax.data.clip import LEGAL_ID, Clip, check_clip
from posetraj_jax.errors import UserError, listed

__all__ = ["Clip", "ClipRecords", "check_clip", "find_datasets", "open_dataset", "write_dataset"]

DATASET_NAME = "posetraj_clips"
VERSION = "1.0.0"
MAKE_DATA = "python -m data_prep.render_posetraj10k --out CLIPS_FOLDER"


class ClipDataset(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The TFDS builder of clip records: the schema, and a writer that streams."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, clips: Iterable[Clip], name: str, clips_per_shard: int, data_dir: str):
        self.name = name
        self._clips, self._clips_per_shard = clips, clips_per_shard
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Video clips with tracks, boxes, poses and cameras.",
            features=record_codec.features(),
            disable_shuffling=True,  # the records lie in the order of the index
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, bytes]]:
        for index, clip in enumerate(self._clips):
            record = record_codec.encode(clip)
            self.info.metadata["clips"].append([clip.clip_id, len(clip.frames_jpeg)])
            yield index, record

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        # TFDS calls this with `data_path` in a temporary folder that it renames on success.
        template = self._get_filename_template(split_name="train")
        self.info.metadata["clips"] = []
        lengths, num_bytes = self._write_shards(template)
        paths = sorted(Path(self.data_path).glob("*.array_record*"))
        self.info.metadata["file_bytes"] = [path.stat().st_size for path in paths]
        split = tfds.core.SplitInfo(
            name="train", shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
        )
        self.info.set_splits(tfds.core.splits.SplitDict([split]))

    def _log_download_bytes(self) -> None:
        """Says nothing where TFDS would announce a download: there is none."""

    def _log_download_done(self) -> None:
        """Says nothing."""

    def _write_shards(self, template: tfds.core.ShardedFileTemplate) -> tuple[list[int], int]:
        """Streams the clips into shards, which get their names (with the total) at the end."""
        parts: list[Path] = []
        lengths: list[int] = []
        num_bytes, writer = 0, None
        try:
            for index, record in self._generate_examples():
                with _writing(Path(self.data_path)):
                    if index % self._clips_per_shard == 0:
                        if writer:
                            writer.close()
                        parts.append(Path(self.data_path) / f"part-{len(parts):05d}")
                        lengths.append(0)
                        writer = ArrayRecordWriter(str(parts[-1]), "group_size:1")
                    writer.write(record)
                lengths[-1] += 1
                num_bytes += len(record)
        finally:
            if writer:
                with _writing(Path(self.data_path)):
                    writer.close()
        for shard, part in enumerate(parts):
            part.rename(template.sharded_filepath(shard_index=shard, num_shards=len(parts)))
        return lengths, num_bytes


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says what the writer of records meets: it knows only RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"The dataset cannot be written in {folder.parent}",
            expected="a disk with enough room, where you may write",
            got=str(error),
            fix="make room, or choose another folder",
        ) from error


def require_name(name: str) -> None:
    """Refuses what no dataset can be called.

    Raises:
        UserError: anything but lower case letters, digits and '_', beginning with a letter.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"A dataset cannot be called {name!r}",
            expected="lower case letters, digits and '_', beginning with a letter",
            got=repr(name),
            fix="choose another name",
        )


def write_dataset(
    clips: Iterable[Clip],
    directory: Path | str,
    *,
    name: str = DATASET_NAME,
    clips_per_shard: int = 256,
) -> Path:
    """Writes clips as a TFDS dataset and returns its folder, `<directory>/<name>/<version>`.

    Clips are taken one at a time and may come from a generator. The folder appears only when all is
    written; equal clips give equal bytes. One process at a time may write a dataset.

    Args:
        clips: at least one clip; ids must differ.
        directory: TFDS data_dir; made if absent.
        name: of the dataset: lower case letters, digits and '_'.
        clips_per_shard: clips in one file.

    Raises:
        UserError: if the name is not legal, the dataset exists, a clip is not legal, an id comes
            twice, no clip comes, or the disk is full.
    """
    folder = Path(directory) / name / VERSION
    require_name(name)
    if folder.exists():
        raise UserError(
            f"The dataset cannot be written to {folder}",
            expected="a folder that does not exist yet",
            got="an existing one",
            fix="delete it, or choose another directory or name",
        )
    Path(directory).mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f"incomplete.*_{VERSION}"):  # by a writer that was killed
        shutil.rmtree(left)
    builder = ClipDataset(
        clips=_distinct(clips, folder),
        name=name,
        clips_per_shard=clips_per_shard,
        data_dir=str(directory),
    )
    with tempfile.TemporaryDirectory() as downloads:  # TFDS wants one, and nothing is downloaded
        builder.download_and_prepare(download_dir=downloads)
    return folder


def _distinct(clips: Iterable[Clip], folder: Path) -> Iterator[Clip]:
    seen: set[str] = set()
    for clip in clips:
        if clip.clip_id in seen:
            raise UserError(
                f"Clip id {clip.clip_id!r} comes twice while writing {folder}",
                expected="a different id for every clip",
                got=f"it again as clip number {len(seen)}",
                fix="mend the script that made the clips",
            )
        seen.add(clip.clip_id)
        yield clip
    if not seen:
        raise UserError(
            f"No dataset was written to {folder}",
            expected="at least one clip",
            got="none",
            fix="check what the script was given as its source",
        )


class ClipRecords:
    """Random access to the clips of a dataset; pictures stay encoded. May be pickled."""

    def __init__(self, folder: Path, *, accept_damage: bool = False):
        """Reads the index; the record files are opened at the first access.

        Args:
            folder: with the index.
            accept_damage: go on though record files are missing or have another size than the index
                says; they are in `damaged_files`, and their clips cannot be read.

        Raises:
            UserError: the index cannot be read, or record files are not as it says.
        """
        self.folder, self._accept_damage = Path(folder), accept_damage
        self._num_read = 0
        try:
            info = tfds.builder_from_directory(str(self.folder))
            index, sizes = info.info.metadata["clips"], info.info.metadata["file_bytes"]
            self._source = info.as_data_source(
                "train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
            self._files = [str(path) for path in info.info.splits["train"].filepaths]
            self._lengths = list(info.info.splits["train"].shard_lengths)
            self.damaged_files = dict(_damaged(self._files, sizes))
        except (KeyError, TypeError, ValueError, OSError, RuntimeError, ParseError) as error:
            raise _unreadable(self.folder, f"{type(error).__name__}: {error}") from error
        self.clip_ids: tuple[str, ...] = tuple(str(clip_id) for clip_id, _ in index)
        self.num_frames: tuple[int, ...] = tuple(int(count) for _, count in index)
        if illegal := [name for name in self.clip_ids if not LEGAL_ID.fullmatch(name)]:
            raise _unreadable(self.folder, f"clip ids such as {illegal[0]!r}")
        if len(index) != len(self._source):
            got = f"{len(self._source)} records; the index lists {len(index)} clips"
            raise _unreadable(self.folder, got)
        if self.damaged_files and not accept_damage:
            raise _unreadable(self.folder, listed(list(self.damaged_files.values())))

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "accept_damage": self._accept_damage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __getitem__(self, index: int) -> Clip:
        """Reads one clip.

        Raises:
            UserError: naming the file and the record, if it is truncated or corrupt.
        """
        if damage := self.damaged_files.get(self.file_of(index)[0]):
            raise self._broken(index, ValueError(damage))
        try:
            clip = record_codec.decode(self._source[index])
        except record_codec.UNREADABLE as error:
            raise self._broken(index, error) from error
        if clip.clip_id != self.clip_ids[index]:
            raise self._broken(index, ValueError(f"the record holds clip {clip.clip_id!r}"))
        self._num_read += 1
        return clip

    def file_of(self, index: int) -> tuple[str, int]:
        """The record file of a clip, and which record in it the clip is."""
        shard, position = 0, index
        while position >= self._lengths[shard]:
            position -= self._lengths[shard]
            shard += 1
        return self._files[shard], position

    def _broken(self, index: int, error: Exception) -> UserError:
        path, position = self.file_of(index)
        return UserError(
            f"Record {position} of {path} cannot be read",
            expected=f"clip {self.clip_ids[index]!r}, as the dataset's index says",
            got=f"{error} (records read before it: {self._num_read})",
            fix="the file is truncated or damaged: copy it again, or make the data again",
        )


def open_dataset(directory: Path | str) -> ClipRecords:
    """Opens what `write_dataset` wrote, given its data_dir, its name folder or its version folder.

    Raises:
        UserError: if there is no dataset or more than one, or it cannot be read.
    """
    directory = Path(directory)
    folders = find_datasets(directory)
    if len(folders) == 1:
        return ClipRecords(folders[0])
    if folders:
        got = "several:" + listed([str(folder) for folder in folders])
        fix = "give one of these paths"
    else:
        got = "no such folder" if not directory.is_dir() else "a folder without dataset_info.json"
        fix = f"make data: {MAKE_DATA}"
    raise UserError(
        f"There are no clips to read in {directory}",
        expected="the folder of one dataset of clip records",
        got=got,
        fix=fix,
    )


def find_datasets(directory: Path) -> list[Path]:
    """Lists the version folders of the datasets in, or just below, a folder."""
    patterns = ("dataset_info.json", "*/dataset_info.json", "*/*/dataset_info.json")
    found = {path.parent for pattern in patterns for path in Path(directory).glob(pattern)}
    return sorted(path for path in found if not path.name.startswith("incomplete."))


def _damaged(paths: list[str], sizes: list[int]) -> Iterator[tuple[str, str]]:
    """What is wrong with the record files by their sizes."""
    for path, size in zip(paths, sizes, strict=True):
        if not Path(path).is_file():
            yield path, f"no {path}"
        elif (bytes_now := Path(path).stat().st_size) != size:
            yield path, f"{path} has {bytes_now} bytes of {size}; no record was read"


def _unreadable(folder: Path, got: str) -> UserError:
    return UserError(
        f"The dataset in {folder} cannot be opened",
        expected="dataset_info.json, features.json, metadata.json and every record file",
        got=got,
        fix=f"copy the folder again, or make the data again: {MAKE_DATA}",
    )
