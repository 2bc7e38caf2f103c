"""Checks rendered videos of several objects, which may hide each other and leave the picture."""

from collections.abc import Iterator

import cv2
import numpy as np

from data_prep.engines import verify
from posetraj_jax.data.clip import Clip


def problems(clip: Clip) -> list[str]:
    """All that is wrong with a video, one line each; empty if it is sound.

    Per frame and object: box and pose agree and project to `box_px` by the camera of the frame; the
    projected box contains every pixel of the mask; the middle of the box lies on the mask, or on
    that of an object before it, and is seen in the first frame; where nothing hides or cuts the
    object, its mask fills the outline of its vertices to within 2 px. The pictures are neither
    dark, blown nor flat, and the camera moves.
    """
    found = [] if _camera_moves(clip) else ["the camera stands still"]
    for frame, (jpeg, png) in enumerate(zip(clip.frames_jpeg, clip.masks_png, strict=True)):
        picture, masks = verify.decode(jpeg), verify.decode(png)
        lines = [*verify.picture_problems(picture), *verify.geometry_problems(clip, frame)]
        for thing in range(clip.box_px.shape[1]):
            lines += _object_problems(clip, frame, thing, masks)
        found += [f"frame {frame}: {line}" for line in lines]
    return found


def _camera_moves(clip: Clip) -> bool:
    moved = np.abs(np.diff(clip.camera_rt, axis=0)).max(axis=(1, 2))
    return bool((moved > 0).all())


def _object_problems(clip: Clip, frame: int, thing: int, masks: np.ndarray) -> Iterator[str]:
    mask = masks == thing + 1
    if mask.sum() < verify.MIN_OBJECT_PIXELS:
        yield f"object {thing} has {mask.sum()} pixels"
        return
    yield from verify.mask_problems(clip, frame, thing, mask)
    if _wholly_seen(clip, frame, thing, masks.shape):
        yield from verify.outline_problems(clip, frame, thing, mask)
    number = middle_track(clip, thing)
    column, row = clip.tracks_px[frame, number].astype(int)
    if not (0 <= row < masks.shape[0] and 0 <= column < masks.shape[1]):
        yield f"the middle of object {thing} leaves the picture"
        return
    away = cv2.distanceTransform((masks == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    seen = clip.tracks_visible[frame, number]
    if frame == 0 and not seen:
        yield f"the middle of object {thing} is hidden in the first frame"
    if away[row, column] > verify.TOUCH_PX:
        yield f"the middle of object {thing} is {away[row, column]:.2f} px from all objects"
    elif not _near(mask if seen else (masks > 0) & ~mask, row, column):
        yield f"the middle of object {thing} is on another object, or hidden behind none"


def middle_track(clip: Clip, thing: int) -> int:
    """Number of the track at the middle of an object's box."""
    owners = zip(clip.track_kinds, clip.track_objects.tolist(), strict=True)
    return list(owners).index(("centre", thing))


def _near(mask: np.ndarray, row: int, column: int) -> bool:
    reach = int(verify.TOUCH_PX)
    rows, columns = (slice(max(0, n - reach), n + reach + 1) for n in (row, column))
    return bool(mask[rows, columns].any())


def _wholly_seen(clip: Clip, frame: int, thing: int, size: tuple[int, int]) -> bool:
    """Whether an object is inside the picture and apart from all others in it."""
    left, top, right, bottom = np.array(clip.provenance["mesh_rect_px"])[frame, thing]
    inside = min(left, top) >= 0 and right <= size[1] and bottom <= size[0]
    return bool(inside) and verify.alone(clip, frame, thing)
