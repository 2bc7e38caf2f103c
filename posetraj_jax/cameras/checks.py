"""What cameras cannot be estimated from, and which frames they are weak in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from posetraj_jax.errors import UserError, listed

Array = np.ndarray

FEWEST_AGREED = 24
"""Corners of the background; a frame with fewer is weak."""
LEAST_AGREED = 0.4
"""Share of the corners of a frame that stand still; a frame with less is weak."""
SMALLEST_SIDE = 64
"""Of a picture, pixels."""


def check_input(frames: Sequence[Array] | Array, masks: Any, k: Any, options: Any) -> None:
    """Raises UserError, saying all that is wrong with the arguments of `estimate`."""
    problems = _of_frames(frames)
    if not problems and masks is not None:
        problems += _of_masks(frames, masks)
    if k is not None:
        problems += _of_k(np.asarray(k))
    if not (np.isfinite(options.scale_value) and options.scale_value > 0):
        problems.append(f"scale_value {options.scale_value} is not above 0")
    if options.scale_by not in ("depth", "path"):
        problems.append(f"scale_by {options.scale_by!r} is neither depth nor path")
    if options.work_width < SMALLEST_SIDE:
        problems.append(f"work_width {options.work_width} is below {SMALLEST_SIDE}")
    if problems:
        raise UserError(
            f"The camera of {options.name} cannot be estimated",
            expected="two or more frames of one size, uint8 [h w 3]; a mask [h w] for each or "
            "none; and intrinsics [3 3] without skew, or none",
            got=listed(problems),
            fix="mend what the lines above name",
        )


def _of_frames(frames: Sequence[Array] | Array) -> list[str]:
    if len(frames) < 2:
        return [f"{len(frames)} frame" + "s" * (not len(frames))]
    for number, frame in enumerate(frames):
        shape, kind = getattr(frame, "shape", None), getattr(frame, "dtype", None)
        if shape is None or len(shape) != 3 or shape[2] != 3 or kind != np.uint8:
            return [f"frame {number} is {kind} {shape}"]
        if shape != frames[0].shape:
            return [f"frame {number} is {shape}, frame 0 {frames[0].shape}"]
    if min(frames[0].shape[:2]) < SMALLEST_SIDE:
        return [f"frames of {frames[0].shape[:2]}: a side below {SMALLEST_SIDE} pixels"]
    return []


def _of_masks(frames: Sequence[Array] | Array, masks: Any) -> list[str]:
    if len(masks) != len(frames):
        return [f"{len(masks)} masks for {len(frames)} frames"]
    sizes = {np.shape(mask) for mask in masks}
    if sizes != {frames[0].shape[:2]}:
        return [f"masks of {sorted(sizes)} for frames of {frames[0].shape[:2]}"]
    return []


def _of_k(k: Array) -> list[str]:
    if k.shape != (3, 3) or not np.isfinite(k.astype(np.float64)).all():
        return [f"intrinsics of shape {k.shape}, or not finite"]
    off_diagonal = [k[0, 1], k[1, 0], k[2, 0], k[2, 1]]
    if np.any(off_diagonal) or k[2, 2] != 1 or k[0, 0] <= 0 or k[1, 1] <= 0:
        return [f"intrinsics {k.tolist()}, which are not [[fx 0 cx] [0 fy cy] [0 0 1]]"]
    return []


def no_model(share: float, least: float, name: str) -> UserError:
    """For a video in which no explanation holds for enough of the picture."""
    return UserError(
        f"The camera of {name} cannot be estimated: most of what it shows moves by itself",
        expected=f"one rigid background in {least:.0%} of what was followed",
        got=f"{share:.0%}",
        fix="give masks of what moves, or more frames per second",
    )


def weak_frames(agreed: Bool[Array, "f p"], seen: Bool[Array, "f p"]) -> tuple[int, ...]:
    """Frames in which little of the background was seen or explained."""
    count, all_seen = agreed.sum(axis=1), seen.sum(axis=1)
    weak = (count < FEWEST_AGREED) | (count < LEAST_AGREED * all_seen)
    return tuple(int(frame) for frame in np.flatnonzero(weak))
