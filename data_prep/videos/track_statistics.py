"""What can be said of tracks without their videos: counts, lengths, places, and a picture."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from data_prep.videos.pictures import Size
from posetraj_jax.data.track_file import VIPSegTracks, kind_of
from posetraj_jax.data.tracks import draw_maps
from posetraj_jax.video import contact_sheet

Array = np.ndarray

SIZES = ((360, 640), (480, 640), (480, 854), (720, 1280), (1080, 1920), (1440, 2560), (2160, 3840))
"""(height, width) of VIPSeg's videos, from small to large."""
MAP_SIZE = (160, 288)
WINDOW = 14
MOST_SHOWN = 24
BAR = 40
FAR_PX = 5_000


def estimated_size(tracks: VIPSegTracks) -> Size:
    """The smallest usual size that holds all points of the first frame, which lie in the picture.

    A guess: a picture may be larger than the places of its points.
    """
    width, height = np.ceil(tracks.points_px[0].max(axis=0) + 1).astype(int).tolist()
    fitting = [size for size in SIZES if size[0] >= height and size[1] >= width]
    return fitting[0] if fitting else (max(height, 1), max(width, 1))


def statistics(videos: Mapping[str, VIPSegTracks], min_frames: int) -> Iterator[str]:
    """Lines for people; videos are read already and at least one."""
    lengths = Counter(len(tracks.points_px) for tracks in videos.values())
    short = sum(count for length, count in lengths.items() if length < min_frames)
    yield f"{len(videos)} videos, {short} of them with fewer than {min_frames} frames"
    yield "frames per video:"
    yield from _histogram(lengths)
    per_video = sorted(len(tracks.ids) for tracks in videos.values())
    yield (
        f"tracks: {sum(per_video)}, {per_video[0]} to {per_video[-1]} per video, "
        f"median {per_video[len(per_video) // 2]}"
    )
    kinds = Counter(kind_of(i) for tracks in videos.values() for i in tracks.ids)
    yield "kinds: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    yield from _places(list(videos.values()))


def _histogram(lengths: Counter[int]) -> Iterator[str]:
    most = max(lengths.values())
    for length, count in sorted(lengths.items()):
        yield f"  {length:5d} {count:6d} {'#' * max(1, round(BAR * count / most))}"


def _places(videos: Sequence[VIPSegTracks]) -> Iterator[str]:
    total = sum(tracks.points_px[..., 0].size for tracks in videos)
    negative = sum(int((tracks.points_px < 0).any(axis=2).sum()) for tracks in videos)
    beyond = sum(
        int((tracks.points_px >= estimated_size(tracks)[::-1]).any(axis=2).sum())
        for tracks in videos
    )
    far = sum(bool(np.abs(tracks.points_px).max() > FAR_PX) for tracks in videos)
    lowest = np.min([tracks.points_px.min(axis=(0, 1)) for tracks in videos], axis=0)
    highest = np.max([tracks.points_px.max(axis=(0, 1)) for tracks in videos], axis=0)
    yield (
        f"points: {total}, x {lowest[0]:g} to {highest[0]:g}, y {lowest[1]:g} to {highest[1]:g}; "
        f"{far} videos have one beyond {FAR_PX} pixels"
    )
    yield (
        f"outside the picture: {negative / total:.1%} have a negative coordinate, and "
        f"{beyond / total:.1%} lie beyond the smallest usual size that holds the first frame's"
    )


def preview(videos: Mapping[str, VIPSegTracks]) -> UInt8[Array, "h w 3"]:
    """The maps of the first window of some videos, all maps of a video on one picture."""
    names = list(videos)
    chosen = names[:: -(-len(names) // MOST_SHOWN)]
    return contact_sheet(np.stack([_drawn(name, videos[name]) for name in chosen]), columns=6)


def _drawn(name: str, tracks: VIPSegTracks) -> UInt8[Array, "h w 3"]:
    window = tracks.points_px[:WINDOW]
    picture = np.zeros((*MAP_SIZE, 3), np.uint8)
    for drawn in draw_maps(window, estimated_size(tracks), MAP_SIZE):
        np.copyto(picture, drawn, where=drawn.any(axis=2, keepdims=True))
    label = name if name.isascii() else ascii(name)
    cv2.putText(picture, label, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255), 1)
    return picture
