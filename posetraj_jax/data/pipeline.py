"""From clips on disk to batches: shuffle, shard, window, decode, draw, resize, batch. With Grain.

Every choice depends on the seed and on the position in the endless stream of clips, never on
threads, worker processes or hosts: position i of the stream is clip `shuffle(i)` of its epoch and
has its own random generator. So batches are equal for any number of workers, an iterator restarts
from a position alone, and the hosts together see in each step what one host alone would see.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Float, Float32, UInt8

from posetraj_jax.data import latents
from posetraj_jax.data.batch_stream import BatchStream
from posetraj_jax.data.clip import Array
from posetraj_jax.data.data_options import DataOptions, check_options
from posetraj_jax.data.host_rows import RowsOfBatches
from posetraj_jax.data.lazy_clip import BOXED
from posetraj_jax.data.sources import LazyClip, Source, Tracks, open_source
from posetraj_jax.data.tracks import draw_maps
from posetraj_jax.data.transforms import other_size, resize_frames, window_start
from posetraj_jax.errors import UserError
from posetraj_jax.structs import CAMERA_NUMBERS, Batch, Encoded

BATCHES_AHEAD = 2
"""Batches that each reading thread keeps ready: one is 15 MB per clip at 320 x 576."""


class Example(NamedTuple):
    """One window of one clip, ready for a batch."""

    batch: Batch
    """With a leading batch axis of 1."""
    clip_id: str
    start: int
    """First frame of the window."""
    tracks_px: Float32[Array, "f p 2"]
    """The drawn points (x, y) in pixels of the resized frames; p = 0 for clips with drawn maps."""
    shown_uint8: UInt8[Array, "f h w 3"] | None = None
    """The target frames to look at, latents or not; of `eval_examples` only."""


def train_batches(options: DataOptions, rows: Sequence[int] | None = None) -> BatchStream:
    """Returns an endless iterator of `Batch` of numpy arrays, reshuffled in every epoch.

    It has `get_state()` and `set_state()` (JSON: the place in the stream). It continues exactly
    with another number of workers, threads or hosts, or another size of batches; a state of other
    clips, windows or another seed is refused.

    Args:
        options: the batches.
        rows: which clips of each batch this host reads, rising; None: all.

    Raises:
        UserError: for options that cannot work, and for data that cannot be read. A damaged clip
            is found, and raised by the iterator, when its turn comes.
    """
    check_options(options)
    source, chosen = _open(options)
    if options.needs_camera:
        _require_cameras(options, source, chosen)
    stream = grain.MapDataset.source(chosen).seed(options.seed).shuffle().repeat()
    examples = stream.random_map(_Loader(options, source))

    def open_at(taken: int) -> grain.DatasetIterator:
        later = examples.slice(slice(taken, None))
        if rows is None:
            return iter(_read_ahead(later, options, options.batch_size))
        mine = RowsOfBatches(later, rows, options.batch_size)
        return iter(_read_ahead(mine, options, len(rows)))

    order = {
        "seed": options.seed,
        "num_frames": options.num_frames,
        "num_clips": len(chosen),
        "names_and_lengths": _digest(source, chosen),
    }
    return BatchStream(open_at, options.batch_size, order)


def _read_ahead(
    examples: grain.MapDataset, options: DataOptions, batch_size: int
) -> grain.IterDataset:
    """Batches of examples, made by threads, or by threads of worker processes."""
    # The stream is endless: without drop_remainder its length overflows for batches of one.
    batches = examples.batch(batch_size, drop_remainder=True, batch_fn=stack)
    read = grain.ReadOptions(
        num_threads=options.read_threads,
        prefetch_buffer_size=BATCHES_AHEAD * options.read_threads,
    )
    dataset = batches.to_iter_dataset(read)
    if not options.num_workers:
        return dataset
    if not flags.FLAGS.is_parsed():  # Grain's workers get a copy of the flags
        flags.FLAGS.mark_as_parsed()
    return dataset.mp_prefetch(
        grain.MultiprocessingOptions(
            num_workers=options.num_workers, per_worker_buffer_size=BATCHES_AHEAD
        )
    )


def _digest(source: Source, chosen: Sequence[int]) -> str:
    """Of the names of the clips and how long they are: with the seed, these decide the windows."""
    lines = (f"{source.clip_ids[index]} {source.num_frames[index]}\n" for index in chosen)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def eval_examples(options: DataOptions, num_clips: int) -> list[Example]:
    """Loads the first window of the first `num_clips` clips by name: the same for every run.

    Raises:
        UserError: as `train_batches`, and if there are fewer clips.
    """
    check_options(options)
    source, chosen = _open(options)
    if num_clips > len(chosen):
        raise UserError(
            f"There are not enough clips in {options.path} to evaluate on",
            expected=f"{num_clips} clips",
            got=f"{len(chosen)}",
            fix="ask for fewer clips, or make more data",
        )
    return [_shown(source[index], options) for index in chosen[:num_clips]]


def _shown(clip: LazyClip, options: DataOptions) -> Example:
    example = load_example(clip, options, start=0)
    if example.batch.frames_uint8 is not None:
        return example._replace(shown_uint8=example.batch.frames_uint8[0])
    frames, _ = decode(clip, options, options.target_kind, 0, options.num_frames)
    return example._replace(shown_uint8=frames)


def stack(examples: Sequence[Example]) -> Batch:
    """Joins examples along the batch axis."""
    return _joined([example.batch for example in examples])


def _joined(parts: Sequence[Any]) -> Any:
    """Concatenates arrays, and tuples field by field; None stays None."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], tuple):
        return type(parts[0])(*map(_joined, zip(*parts, strict=True)))
    return np.concatenate(parts)


def load_example(clip: LazyClip, options: DataOptions, start: int) -> Example:
    """Decodes, draws and resizes one window of a clip; with cached latents, only its first frame.

    Raises:
        UserError: for a damaged clip or latents that are not of this clip.
    """
    count, target, shown = options.num_frames, options.target_kind, options.condition_kind
    frames = encoded = None
    if options.latents:
        first, stored_size = decode(clip, options, shown, start, 1)
        encoded = _cached(clip.clip_id, options, start, first)
    else:
        frames, stored_size = decode(clip, options, target, start, count)
        same = target == shown
        first = frames[:1] if same else decode(clip, options, shown, start, 1)[0]
    maps, tracks_px = _maps(clip, options, start, stored_size)
    camera_rt = _camera(clip, start, count)
    batch = Batch(
        frames_uint8=None if frames is None else frames[None],
        first_frame_uint8=first,
        maps_uint8=maps[None],
        camera_rt=np.zeros((1, count, CAMERA_NUMBERS), np.float32)
        if camera_rt is None
        else camera_rt[None],
        camera_known=np.array([camera_rt is not None]),
        fps=np.array([clip.fps], np.float32),
        encoded=encoded,
    )
    return Example(batch, clip.clip_id, start, tracks_px)


def _camera(clip: LazyClip, start: int, count: int) -> Float32[Array, "f 12"] | None:
    """The camera's numbers; zeros would mean that it is unknown, so nothing is mended silently."""
    camera_rt = clip.camera(start, count)
    if camera_rt is None:
        return None
    wrong = camera_rt.size - np.isfinite(camera_rt).sum()
    if camera_rt.shape != (count, CAMERA_NUMBERS) or wrong:
        raise UserError(
            f"Clip {clip.clip_id} has a camera that cannot be used",
            expected=f"{CAMERA_NUMBERS} finite numbers for each of frames {start} to "
            f"{start + count - 1}",
            got=f"shape {camera_rt.shape}, of which {wrong} numbers are not finite",
            fix="estimate its camera again, or remove it: a clip without a camera is fine",
        )
    return camera_rt


def decode(
    clip: LazyClip, options: DataOptions, kind: str, start: int, count: int
) -> tuple[UInt8[Array, "f h w 3"], tuple[int, int]]:
    """Resized frames of one kind, with the box if it is 'boxed'; and their stored (height, width).

    One picture of the stored size is in memory at a time: those of real video may have 25 MB.

    Raises:
        UserError: a picture that cannot be decoded or is not as large as the first, or no frames of
            this kind.
    """
    size = (options.height, options.width)
    resized, stored_size = np.empty((count, *size, 3), np.uint8), (0, 0)
    for number in range(count):
        if kind == BOXED:
            frame = clip.boxed_frames(start + number, 1, options.box_thickness)
        else:
            frame = clip.frames(start + number, 1)
        if number and frame.shape[1:3] != stored_size:
            raise other_size(f"frame {start + number} of {clip.clip_id}", frame, stored_size)
        stored_size = (frame.shape[1], frame.shape[2])
        resized[number] = resize_frames(frame, *size, options.resize)[0]
    return resized, stored_size


def _cached(
    clip_id: str, options: DataOptions, start: int, first: UInt8[Array, "1 h w 3"]
) -> Encoded:
    """What the encoders say of a window, with a batch axis of 1."""
    target, kind = options.target_kind, options.condition_kind
    frames = latents.read(options.latents, clip_id, target, start, options.num_frames)
    shown = frames if kind == target else latents.read(options.latents, clip_id, kind, start, 1)
    latents.require_same_picture(options.latents, clip_id, shown, first[0])
    return Encoded(frames.mean[None], frames.logvar[None], shown.image_embed[:1])


def _maps(
    clip: LazyClip, options: DataOptions, start: int, stored_size: tuple[int, int]
) -> tuple[UInt8[Array, "f h w 3"], Float32[Array, "f p 2"]]:
    size = (options.height, options.width)
    no_points = np.zeros((options.num_frames, 0, 2), np.float32)
    if not options.track_kinds:
        return np.zeros((options.num_frames, *size, 3), np.uint8), no_points
    tracks = clip.tracks(start, options.num_frames)
    if tracks is None:
        drawn = clip.drawn_maps(start, options.num_frames)
        return resize_frames(drawn, *size, options.resize), no_points
    points_px, visible = _chosen_points(clip.clip_id, tracks, options.track_kinds)
    maps = draw_maps(
        points_px,
        stored_size,
        size,
        colours=options.track_colours,
        visible=visible if options.drop_hidden_tracks else None,
    )
    scale = np.divide(size[::-1], stored_size[::-1])
    return maps, (points_px * scale).astype(np.float32)


def _chosen_points(
    clip_id: str, tracks: Tracks, kinds: tuple[str, ...]
) -> tuple[Float[Array, "f p 2"], Bool[Array, "f p"]]:
    chosen = [index for index, kind in enumerate(tracks.kinds) if kind in kinds]
    if not chosen:
        raise UserError(
            f"Clip {clip_id} has no track to draw",
            expected=f"a track of a kind in data.track_kinds = {kinds}",
            got=f"tracks of kinds {sorted(set(tracks.kinds))}",
            fix="add one of these kinds to data.track_kinds",
        )
    return tracks.points_px[:, chosen], tracks.visible[:, chosen]


@dataclass(frozen=True)
class _Loader(grain.transforms.RandomMap):
    """Turns a clip's number into an example, with the generator of its place in the stream."""

    options: DataOptions
    source: Source

    def random_map(self, element: int, rng: np.random.Generator) -> Example:
        start = window_start(self.source.num_frames[element], self.options.num_frames, rng)
        return load_example(self.source[element], self.options, start)


def _open(options: DataOptions) -> tuple[Source, list[int]]:
    """As `open_clips`, with the cached latents of these clips checked too."""
    source, chosen = open_clips(options)
    if options.latents:
        clips = {source.clip_ids[index]: source.num_frames[index] for index in chosen}
        kinds = frozenset((options.target_kind, options.condition_kind))
        latents.require_clips(options.latents, options.encoding, clips, kinds)
    return source, chosen


def _require_cameras(options: DataOptions, source: Source, chosen: list[int]) -> None:
    """Looks at clips until one has a camera."""
    if not any(source[index].has_camera for index in chosen):
        raise UserError(
            "camera.enabled is True, but no camera is known",
            expected=f"the cameras of some of the {len(chosen)} clips in {options.path}",
            got="none; a network would learn nothing about cameras from such data",
            fix="add the cameras, or set --config.camera.enabled=False",
        )


def open_clips(options: DataOptions) -> tuple[Source, list[int]]:
    """Opens the source and lists the numbers of the clips to use, in the order of their names.

    Raises:
        UserError: for a source that cannot be read or has clips that are too short.
    """
    source = open_source(options.path, options.num_frames)
    by_name = sorted(range(len(source)), key=lambda index: source.clip_ids[index])
    return source, by_name[: options.max_clips or None]
