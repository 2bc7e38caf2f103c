"""Where the camera of a clip was, frame by frame, from its pictures alone.

Three explanations are tried, the simplest first: the camera stood still, it turned, it moved. A
richer one is believed in only if it explains clearly more. What moves by itself is what disagrees
with the explanation of most; corners are spread evenly over the picture, so "most" is of its area.

The geometry of two frames is OpenCV's. All frames together are adjusted by `bundle`. pycolmap was
measured on the four rendered videos of this project, known intrinsics, 640 x 360, 16 frames: its
incremental mapping finds two of them to 0.2 degrees in 4 to 7 s each, but ends in the other of the
two motions that a floor allows for the third (38 degrees) and poses 2 of 16 frames of the fourth:
SIFT takes one tile for another, and no constraint says that a floor is flat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8, UInt16

from posetraj_jax.cameras import features, focal, structure
from posetraj_jax.cameras.checks import check_input, no_model, weak_frames
from posetraj_jax.cameras.reconstruct import reconstructed
from posetraj_jax.cameras.structure import Structure
from posetraj_jax.cameras.turning import Turning, still, turning
from posetraj_jax.cameras.two_view import widest_pair

Array = np.ndarray

RICHER_RATIO, RICHER_PX = 1.5, 0.15
"""By how much the error of a simpler explanation must exceed that of a richer one, on what the
richer one explains, for the richer one to be believed in."""
LEAST_EXPLAINED = 0.4
"""Share of all observations that an explanation must agree with."""


@dataclass(frozen=True)
class Options:
    """How cameras are estimated."""

    work_width: int = 640
    """Pictures wider than this are made smaller for the work, pixels."""
    scale_by: Literal["depth", "path"] = "depth"
    """What `scale_value` is the length of: the median depth of the background in frame 0, or the
    whole way of the camera."""
    scale_value: float = 1.0
    """In the unit that translations shall have, such as metres."""
    name: str = "the video"
    """For errors."""


class Quality(NamedTuple):
    """How well the cameras explain the pictures."""

    rms_px: float
    """Root mean square of what is explained, pixels of the frames as given."""
    explained: float
    """Share of the observations that stand still in the world, to AGREE_PX at the work's size."""
    corners: int
    """How many were followed."""
    parallax_deg: float
    """Median over points of the widest angle they are seen under; 0 without translation."""


class Estimate(NamedTuple):
    """A camera per frame: the point x of its axes is at R x + T in the world, that of frame 0.

    Axes as in OpenCV: x right, y down, z forward.
    """

    rotations: Float[Array, "f 3 3"]
    translations: Float[Array, "f 3"]
    """Exactly zero unless `motion` is moving."""
    k: Float[Array, "3 3"]
    """Intrinsics in pixels of the frames as given, the picture spanning [0, w] x [0, h]."""
    motion: Literal["still", "turning", "moving"]
    focal_source: Literal["given", "estimated", "assumed"]
    """`assumed`: the larger side of the picture, because this motion does not tell."""
    scale: str
    """What the length of translations means."""
    quality: Quality
    weak_frames: tuple[int, ...]
    """Frames in which little of the background was seen or explained."""


class Explanation(NamedTuple):
    """What a camera may have done, in pixels of the work's size and an arbitrary world."""

    rotations: Array
    """Camera to world."""
    centres: Array
    residuals_px: Array
    k: Array
    focal_source: str
    motion: str
    scene: Structure | None


def estimate(
    frames: Sequence[UInt8[Array, "h w 3"]] | UInt8[Array, "f h w 3"],
    *,
    masks: UInt8[Array, "f2 h2 w2"] | UInt16[Array, "f2 h2 w2"] | None = None,
    k: Float[Array, "3 3"] | None = None,
    options: Options = Options(),
) -> Estimate:
    """Estimates the camera of each frame. The same input gives the same output.

    Args:
        frames: RGB, of one size, in order, at least two; close enough in time that neighbours show
            much the same.
        masks: nonzero where something may move; None = found by itself.
        k: intrinsics in pixels, without skew; None = square pixels, the middle of the picture, and
            a focal length from the motion if it tells one.
        options: see there.

    Raises:
        UserError: naming the video, and the frame where there is one: input of the wrong kind, too
            little texture, a cut, motion that is too fast, or nothing rigid that explains most.
    """
    check_input(frames, masks, k, options)
    height, width = frames[0].shape[:2]
    factor = min(1.0, options.work_width / width)
    greys = [_grey(frame, factor) for frame in frames]
    moving = None if masks is None else features.moving_regions(masks, *greys[0].shape)
    tracks_px = features.follow(greys, moving, options.name)
    to_work = np.diag([greys[0].shape[1] / width, greys[0].shape[0] / height, 1.0])
    found = explained(tracks_px, greys[0].shape, None if k is None else to_work @ k, options.name)
    return _finished(found, tracks_px, to_work, k, options)


def _grey(frame: Array, factor: float) -> Array:
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    if factor == 1.0:
        return grey
    size = round(factor * grey.shape[1]), round(factor * grey.shape[0])
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def explained(tracks_px: Array, size: tuple[int, int], k: Array | None, name: str) -> Explanation:
    """The simplest explanation that no richer one clearly beats."""
    best = _of_turning(still(tracks_px), "still", *_k_and_source(k, size))
    if not _nothing_left(best):
        turned_k, source = (k, "given") if k is not None else focal.of_turning(tracks_px, size)
        turned = turning(tracks_px, turned_k)
        area = features.area_weights(tracks_px, *size)
        best = _richer(best, _of_turning(turned, "turning", turned_k, source), area)
        best = _richer(best, _moving(tracks_px, size, k, turned), area)
    share = (np.nan_to_num(best.residuals_px, nan=np.inf) < structure.AGREE_PX).sum()
    share /= np.isfinite(tracks_px[..., 0]).sum()
    if share < LEAST_EXPLAINED:
        raise no_model(share, LEAST_EXPLAINED, name)
    return best


def _k_and_source(k: Array | None, size: tuple[int, int]) -> tuple[Array, str]:
    return (focal.assumed_k(size), "assumed") if k is None else (k, "given")


def _of_turning(turned: Turning, motion: str, k: Array, source: str) -> Explanation:
    centres = np.zeros((len(turned.rotations), 3))
    return Explanation(turned.rotations, centres, turned.residuals_px, k, source, motion, None)


def _moving(
    tracks_px: Array, size: tuple[int, int], k: Array | None, turned: Turning
) -> Explanation | None:
    """The best structure, or None if some camera cannot be told."""
    pair = widest_pair(tracks_px, turned)
    if k is None:
        scene, source = focal.of_moving(tracks_px, size, pair)
    else:
        scene, source = reconstructed(tracks_px, k, pair), "given"
    if scene is None or not scene.posed.all():
        return None
    return Explanation(
        scene.rotations.swapaxes(1, 2),
        scene.centres,
        structure.residuals_px(scene, tracks_px),
        scene.k,
        source,
        "moving",
        scene,
    )


def _nothing_left(simple: Explanation) -> bool:
    """Whether nearly everything is explained to a fraction of a pixel: nothing can be better."""
    seen = np.isfinite(simple.residuals_px)
    return structure.cost(simple.residuals_px, seen) < RICHER_PX


def _richer(simple: Explanation, rich: Explanation | None, area: Array) -> Explanation:
    """The richer explanation if it is clearly better, else the simpler one.

    It must cost less in all, by area, and be clearly more exact on what it explains: what it
    leaves out is taken to move by itself.
    """
    if rich is None:
        return simple
    seen = np.isfinite(simple.residuals_px)
    agreed = seen & (np.nan_to_num(rich.residuals_px, nan=np.inf) < structure.AGREE_PX)
    if not agreed.any():
        return simple
    costs = [structure.cost(each.residuals_px, seen, area) for each in (simple, rich)]
    rms = [structure.cost(each.residuals_px, agreed) for each in (simple, rich)]
    clearly = costs[1] < costs[0] and rms[0] > RICHER_RATIO * rms[1] + RICHER_PX
    return rich if clearly else simple


def _finished(
    found: Explanation, tracks_px: Array, to_work: Array, k: Array | None, options: Options
) -> Estimate:
    """In the axes of frame 0, pixels of the frames as given, and the scale that was asked for."""
    seen = np.isfinite(tracks_px[..., 0])
    agreed = seen & (np.nan_to_num(found.residuals_px, nan=np.inf) < structure.AGREE_PX)
    first = found.rotations[0].T
    translations = (found.centres - found.centres[0]) @ first.T
    factor, scale, parallax = 1.0, "none: the camera does not move from its place", 0.0
    if found.scene is not None:
        factor, scale = _scale(found.scene, agreed, translations, options)
        parallax = float(np.median(structure.parallax_deg(found.scene, agreed)[agreed.any(axis=0)]))
    quality = Quality(
        rms_px=structure.cost(found.residuals_px, agreed) / to_work[0, 0],
        explained=float(agreed.sum() / seen.sum()),
        corners=tracks_px.shape[1],
        parallax_deg=parallax,
    )
    return Estimate(
        first @ found.rotations,
        translations * factor,
        np.linalg.inv(to_work) @ found.k if k is None else np.array(k, np.float64),
        found.motion,
        found.focal_source,
        scale,
        quality,
        weak_frames(agreed, seen),
    )


def _scale(
    scene: Structure, agreed: Array, translations: Array, options: Options
) -> tuple[float, str]:
    """What to multiply lengths with, and what they then mean."""
    if options.scale_by == "path":
        length = np.linalg.norm(np.diff(translations, axis=0), axis=1).sum()
        meaning = "the way of the camera over all frames"
    else:
        depth = scene.points @ scene.rotations[0, 2] + scene.translations[0, 2]
        length = np.median(depth[agreed[0]])
        meaning = "the median depth of the background in frame 0"
    return options.scale_value / length, f"{meaning} = {options.scale_value:g}"
