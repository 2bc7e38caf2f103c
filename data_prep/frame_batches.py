"""Frames of many clips in batches of one size, and back into clips. Nothing here knows an encoder.

Every frame has its place in a batch from the start, whatever has been encoded before: so a run that
goes on gives the same numbers as one that was never stopped.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import UInt8

from posetraj_jax.data import pipeline
from posetraj_jax.data.latent_file import EncodedFrames, thumbnails
from posetraj_jax.data.lazy_clip import Source
from posetraj_jax.data.pipeline import DataOptions


class Segment(NamedTuple):
    """Consecutive frames of a clip, in consecutive rows of a batch."""

    clip: int
    start: int
    count: int
    row: int

    @property
    def rows(self) -> slice:
        """Where they are in the batch."""
        return slice(self.row, self.row + self.count)


class Pictures(NamedTuple):
    """The frames of one kind of a batch."""

    clips: frozenset[int]
    """Those that have frames of this kind; the rows of others hold zeros."""
    frames_uint8: UInt8[np.ndarray, "n h w 3"]
    thumbnails: UInt8[np.ndarray, "n 8 8 3"]


def plan_batches(
    lengths: Sequence[int], finished: Sequence[bool], size: int
) -> list[list[Segment]]:
    """Cuts the frames of all clips, one clip after the other, into batches.

    The rows of a finished clip stay empty: so the frames of a clip are in the same rows whenever it
    is encoded, and get the same bytes. Batches with nothing to encode are left out.
    """
    batches: list[list[Segment]] = [[] for _ in range(-(-sum(lengths) // size))]
    first = 0
    for clip, length in enumerate(lengths):
        start = 0
        while start < length:
            batch, row = divmod(first + start, size)
            count = min(length - start, size - row)
            if not finished[clip]:
                batches[batch].append(Segment(clip, start, count, row))
            start += count
        first += length
    return [batch for batch in batches if batch]


@dataclass(frozen=True)
class Decode(grain.transforms.Map):
    """Decodes a batch: all kinds of frames that its clips have.

    Raises:
        UserError: a clip that cannot be read.
    """

    options: DataOptions
    source: Source
    chosen: tuple[int, ...]
    """Numbers of the clips in the source, in the order of the segments' `clip`."""
    size: int
    """Frames of a batch."""

    def map(self, element: list[Segment]) -> tuple[list[Segment], dict[str, Pictures]]:
        """The segments and, by kind, their frames."""
        frames: dict[str, np.ndarray] = {}
        clips: dict[str, set[int]] = {}
        for segment in element:
            clip = self.source[self.chosen[segment.clip]]
            for kind in clip.frame_kinds:
                decoded, _ = pipeline.decode(clip, self.options, kind, segment.start, segment.count)
                if kind not in frames:
                    frames[kind] = np.zeros((self.size, *decoded.shape[1:]), np.uint8)
                frames[kind][segment.rows] = decoded
                clips.setdefault(kind, set()).add(segment.clip)
        return element, {
            kind: Pictures(frozenset(clips[kind]), pictures, thumbnails(pictures))
            for kind, pictures in frames.items()
        }


def decode_batches(
    plan: Sequence[list[Segment]], decode: Decode
) -> Iterator[tuple[list[Segment], dict[str, Pictures]]]:
    """Decodes a few batches ahead, in threads: memory does not depend on the clips."""
    threads = decode.options.read_threads
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    if plan:
        yield from grain.MapDataset.source(plan).map(decode).to_iter_dataset(read)


def joined(
    parts: Iterable[tuple[Segment, Mapping[str, EncodedFrames]]], lengths: Sequence[int]
) -> Iterator[tuple[int, dict[str, EncodedFrames]]]:
    """Every clip, whole, once its last segment is there; segments come in the order of the plan."""
    pieces: dict[str, list[EncodedFrames]] = {}
    for segment, kinds in parts:
        for kind, frames in kinds.items():
            pieces.setdefault(kind, []).append(frames)
        if segment.start + segment.count == lengths[segment.clip]:
            yield segment.clip, {kind: _concatenated(several) for kind, several in pieces.items()}
            pieces = {}


def _concatenated(pieces: Sequence[EncodedFrames]) -> EncodedFrames:
    return EncodedFrames(*map(np.concatenate, zip(*pieces, strict=True)))
