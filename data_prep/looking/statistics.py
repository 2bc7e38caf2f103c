"""What a dataset holds, counted clip by clip: memory is a few numbers per clip."""

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from data_prep.looking.dataset import Seen
from data_prep.looking.geometry_checks import angles_deg
from posetraj_jax.data.clip import Clip, check_clip
from posetraj_jax.data.lazy_clip import BOXED, CLEAN, LazyClip, Tracks
from posetraj_jax.data.sources import OfficialClip

Array = np.ndarray

UNKNOWN = "not recorded"
STILL, MOVING, NO_CAMERA = "still", "moving", "unknown"
STILL_CHANGE = 1e-5
"""Most that any number of a still camera's extrinsics changes over a clip."""
FOLLOWED = ("floor", "object", "centre", "surface", "stuff")
"""Whose motion is measured: tracks of the first of these kinds that a clip has."""
BAR, MOST_ROWS = 30, 12
QUANTILES = (("5 %", 0.05), ("median", 0.5), ("95 %", 0.95), ("largest", 1.0))


class Facts(NamedTuple):
    """What is counted of one clip."""

    num_frames: int
    size: tuple[int, int]
    """(height, width) of the pictures."""
    fps: float
    source: str
    licence: str
    curves: tuple[str, ...]
    """Kinds of path, one per object; empty where nobody recorded them."""
    camera: str
    num_boxes: int
    track_kinds: tuple[str, ...]
    """Empty for a clip that has only drawn maps."""
    visible: Bool[Array, "f p"]
    inside: Bool[Array, "f p"]
    """Whether each tracked point is in the picture."""
    steps_px: Float[Array, "s p"]
    """How far the followed points go from frame to frame; NaN where an end is outside."""
    turning_deg: Float[Array, "o"]
    """How far each object turns over the clip, all turns added."""
    parts: tuple[str, ...]
    """Which of masks, depths and the like the clip has."""


def facts_of(seen: Seen) -> Facts:
    """Reads what is counted; of the pictures of a record the headers, of others the first frame.

    Raises:
        UserError: a record that is not legal, or a file that cannot be read.
    """
    clip, record, num_frames = seen
    size = _size(clip) if record is None else check_clip(record)
    tracks = clip.tracks(0, num_frames)
    if tracks is None:
        tracks = Tracks(np.zeros((num_frames, 0, 2)), np.zeros((num_frames, 0), bool), ())
    inside = ((tracks.points_px >= 0) & (tracks.points_px <= size[::-1])).all(axis=2)
    held = {} if record is None else {"masks": record.masks_png, "depth": record.depths_png}
    return Facts(
        num_frames=num_frames,
        size=size,
        fps=clip.fps,
        source=record.source if record else UNKNOWN,
        licence=record.licence if record else UNKNOWN,
        curves=_curves(clip, record),
        camera=_camera(clip, num_frames),
        num_boxes=record.box_px.shape[1] if record else int(BOXED in clip.frame_kinds),
        track_kinds=tracks.kinds,
        visible=tracks.visible,
        inside=inside,
        steps_px=_steps(tracks, inside),
        turning_deg=_turning(record),
        parts=tuple(name for name, pictures in held.items() if pictures),
    )


def _size(clip: LazyClip) -> tuple[int, int]:
    clean = CLEAN in clip.frame_kinds
    shape = (clip.frames(0, 1) if clean else clip.boxed_frames(0, 1, 1)).shape
    return shape[1], shape[2]


def _curves(clip: LazyClip, record: Clip | None) -> tuple[str, ...]:
    """Kinds of path; provenance is free JSON, so anything may be there."""
    if record is None:
        named = isinstance(clip, OfficialClip) and "_" in clip.clip_id
        return (clip.clip_id.rpartition("_")[2],) if named else ()
    about = record.provenance if isinstance(record.provenance, dict) else {}
    paths = about.get("paths")
    paths = paths if isinstance(paths, list) else [about]
    curves = [path.get("curve") for path in paths if isinstance(path, dict)]
    return tuple(curve for curve in curves if isinstance(curve, str))


def _camera(clip: LazyClip, num_frames: int) -> str:
    numbers = clip.camera(0, num_frames)
    if numbers is None:
        return NO_CAMERA
    return STILL if np.abs(numbers - numbers[0]).max() <= STILL_CHANGE else MOVING


def _steps(tracks: Tracks, inside: Bool[Array, "f p"]) -> Float[Array, "s p"]:
    kind = next((kind for kind in FOLLOWED if kind in tracks.kinds), None)
    chosen = [number for number, each in enumerate(tracks.kinds) if each == kind]
    points = tracks.points_px[:, chosen].astype(np.float64)
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=2)
    return np.where(inside[1:, chosen] & inside[:-1, chosen], lengths, np.nan)


def _turning(record: Clip | None) -> Float[Array, "o"]:
    if record is None or len(record.object_pose) < 2:
        return np.zeros(0)
    rotations = record.object_pose[..., :3, :3].astype(np.float64)
    return angles_deg(rotations[:-1], rotations[1:]).sum(axis=0)


class Statistics:
    """Counts clips one at a time, and says what it counted."""

    def __init__(self):
        names = "num_frames size fps source licence camera num_boxes curve part parts kinds"
        self._counts: dict[str, Counter] = {name: Counter() for name in names.split()}
        self._points: Counter[str] = Counter()
        names = ("pixels per frame, median", "pixels per frame, largest", "path", "turning")
        self._motion = {name: array("f") for name in names}

    def add(self, facts: Facts) -> None:
        """Counts a clip."""
        for name in ("num_frames", "size", "fps", "source", "licence", "camera", "num_boxes"):
            self._counts[name][getattr(facts, name)] += 1
        self._counts["curve"].update(facts.curves or [UNKNOWN])
        self._counts["part"].update(facts.parts)
        self._counts["kinds"].update(facts.track_kinds or ["maps that are drawn already"])
        count = facts.inside.size
        self._points.update(
            all=count, visible=int(facts.visible.sum()), outside=count - int(facts.inside.sum())
        )
        self._add_motion(facts)

    def _add_motion(self, facts: Facts) -> None:
        known = facts.steps_px[np.isfinite(facts.steps_px)]
        self._motion["turning"].extend(facts.turning_deg)
        if len(known):
            self._motion["pixels per frame, median"].append(float(np.median(known)))
            self._motion["pixels per frame, largest"].append(float(known.max()))
            paths = np.nansum(facts.steps_px, axis=0) / np.hypot(*facts.size)
            self._motion["path"].append(float(100 * paths.mean()))

    def lines(self, num_bytes: int) -> Iterator[str]:
        """Lines for people; at least one clip was added."""
        counts = self._counts
        clips = counts["size"].total()
        frames = sum(length * count for length, count in counts["num_frames"].items())
        yield _row("clips", f"{clips} with {frames} frames, {_bytes(num_bytes)}")
        yield from _histogram("frames", counts["num_frames"])
        sizes = {f"{w}x{h}": count for (h, w), count in counts["size"].items()}
        yield _row("pictures", _listed(Counter(sizes)))
        yield _row(
            "frames per s", _listed(Counter({f"{k:g}": v for k, v in counts["fps"].items()}))
        )
        yield _row("sources", _listed(counts["source"]))
        yield _row("licences", _listed(counts["licence"]))
        yield _row("paths", _listed(counts["curve"]))
        yield _row("cameras", _listed(counts["camera"]))
        yield from _histogram("3D boxes", counts["num_boxes"])
        yield _row("masks, depth", f"{counts['part']['masks']} and {counts['part']['depth']} clips")
        per_clip = {kind: f"{n / clips:.3g}" for kind, n in counts["kinds"].most_common()}
        yield _row("tracks", ", ".join(f"{n} {kind}" for kind, n in per_clip.items()) + " per clip")
        yield from self._motion_lines()

    def _motion_lines(self) -> Iterator[str]:
        points = self._points
        if points["all"]:
            visible, outside = (points[name] / points["all"] for name in ("visible", "outside"))
            text = f"{points['all']}: {visible:.1%} visible, {outside:.1%} outside the picture"
            yield _row("points", text)
        if self._motion["path"]:
            yield _row("motion", "of the first of these that a clip has: " + ", ".join(FOLLOWED))
            for name in ("median", "largest"):
                values = self._motion[f"pixels per frame, {name}"]
                yield _row("", f"{name} step of a clip, pixels: {_quantiles(values)}")
            text = _quantiles(self._motion["path"])
            yield _row("", f"way of a clip, % of the picture's diagonal: {text}")
        if self._motion["turning"]:
            text = _quantiles(self._motion["turning"])
            yield _row("turning", f"of an object over its clip, degrees: {text}")


def _row(name: str, text: str) -> str:
    return f"  {name:<13} {text}"


def _listed(counter: Counter) -> str:
    """The most frequent first; 'value' alone if there is one."""
    most = counter.most_common(MOST_ROWS)
    if len(counter) == 1:
        return f"{most[0][0]}"
    more = f", and {len(counter) - len(most)} more" if len(counter) > len(most) else ""
    return ", ".join(f"{value} ({count})" for value, count in most) + more


def _histogram(name: str, counter: Counter[int]) -> Iterator[str]:
    """A bar per number of frames, or per range of them if there are many."""
    if len(counter) == 1:
        yield _row(name, f"{next(iter(counter))} per clip")
        return
    low, high = min(counter), max(counter)
    width = 1 if len(counter) <= MOST_ROWS else -(-(high + 1 - low) // MOST_ROWS)
    ranges: Counter[int] = Counter()
    for value, count in counter.items():
        ranges[(value - low) // width * width + low] += count
    most = max(ranges.values())
    yield _row(name, "per clip:")
    for start, count in sorted(ranges.items()):
        text = f"{start}" if width == 1 else f"{start} to {start + width - 1}"
        bar = "#" * max(1, round(BAR * count / most))
        yield _row("", f"{text:>10} {count:>8} {bar}")


def _quantiles(values: array) -> str:
    numbers = np.frombuffer(values, np.float32)
    return ", ".join(f"{name} {np.quantile(numbers, share):.1f}" for name, share in QUANTILES)


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
