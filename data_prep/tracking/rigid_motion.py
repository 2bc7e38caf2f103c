"""How a rigid object turned and moved: its shape and poses, from features that were matched."""


import cv2
import numpy as np
from jaxtyping import Float

from data_prep.cameras import bundle
from data_prep.cameras.structure import (
    AGREE_PX,
    Structure,
    agreeing,
    cost,
    residuals_px,
    triangulated,
)
from data_prep.tracking import affine_start

Array = np.ndarray

FEWEST_POSED = 8
"""Features that a pose is found from."""
POSE_ERROR_PX, POSE_TRIALS = 2.5, 400
ROUGH_GAIN, FINE_GAIN = 0.02, 1e-3
"""Where adjusting stops while the model grows, and at its end."""
TRIED_TRIPLES = 3
MOST_TRACKS = 350
"""Features that poses are found from: the longest."""
LEAST_SHARE = 0.6
"""Of the features of posed frames that a model must explain."""


def reconstructed(
    tracks_px: Float[Array, "f p 2"], k: Float[Array, "3 3"], first: int = 0
) -> Structure | None:
    """Shape and poses that explain most; None if the features do not move as something rigid.

    Args:
        tracks_px: features of the object, NaN where they are not seen.
        k: of the camera; a rough focal length will do.
        first: the frame that must be posed.
    """
    counts = np.isfinite(tracks_px[..., 0]).sum(axis=0)
    chosen = np.sort(np.argsort(-counts, kind="stable")[:MOST_TRACKS])
    few = tracks_px[:, chosen]
    best, most = None, 0
    for frames in affine_start.triples(few, TRIED_TRIPLES):
        scene = _from_triple(few, k, frames)
        explained = 0 if scene is None else agreeing(scene, few).sum()
        if scene is not None and scene.posed[first] and explained > most:
            best, most = scene, explained
        if best is not None and best.posed.all() and _share(best, few) > 0.85:
            break
    if best is None or _share(best, few) < LEAST_SHARE:
        return None
    return triangulated(best._replace(points=np.zeros((tracks_px.shape[1], 3))), tracks_px)


def _share(scene: Structure, tracks_px: Array) -> float:
    seen = np.isfinite(tracks_px[..., 0]) & scene.posed[:, None]
    return float(agreeing(scene, tracks_px).sum() / max(1, seen.sum()))


def _from_triple(tracks_px: Array, k: Array, frames: tuple[int, int, int]) -> Structure | None:
    """The model that grows from three frames; of an object and its mirror image the likelier."""
    best, lowest = None, np.inf
    few = np.full_like(tracks_px, np.nan)
    shared = np.isfinite(tracks_px[list(frames), :, 0]).all(axis=0)
    few[:, shared] = tracks_px[:, shared]
    for scene in affine_start.starts(tracks_px, k, frames):
        scene = _adjusted(scene, few, FINE_GAIN, agree_px=10.0)
        scene = _adjusted(scene, few, FINE_GAIN)
        scene = _grown(scene, tracks_px, 2, FINE_GAIN)
        used = np.isfinite(tracks_px[..., 0]) & scene.posed[:, None]
        price = cost(residuals_px(scene, tracks_px), used) / np.sqrt(scene.posed.sum())
        if price < lowest:
            best, lowest = scene, price
    if best is None:
        return None
    scene = _grown(best, tracks_px, len(tracks_px))
    return _adjusted(_adjusted(scene, tracks_px, FINE_GAIN), tracks_px, FINE_GAIN)


def _grown(scene: Structure, tracks_px: Array, most: int, gain: float = ROUGH_GAIN) -> Structure:
    """The model with up to `most` more poses, those first that most of its points are seen in."""
    seen = np.isfinite(tracks_px[..., 0])
    failed = np.zeros(len(tracks_px), bool)
    for _ in range(len(tracks_px)):
        known = seen & np.isfinite(scene.points[:, 0])
        counts = np.where(scene.posed | failed, -1, known.sum(axis=1))
        frame = int(counts.argmax())
        if counts[frame] < FEWEST_POSED or most <= 0:
            break
        posed = _posed(scene, tracks_px, frame, known[frame])
        if posed is None:
            failed[frame] = True
            continue
        scene = _adjusted(triangulated(posed, tracks_px), tracks_px, gain)
        failed[:], most = False, most - 1
    return scene


def _posed(scene: Structure, tracks_px: Array, frame: int, known: Array) -> Structure | None:
    """The model with one more pose, from the points seen there; None if they disagree."""
    points, pixels = scene.points[known], tracks_px[frame, known]
    found, turn, shift, inliers = cv2.solvePnPRansac(
        points,
        pixels,
        scene.k,
        None,
        iterationsCount=POSE_TRIALS,
        reprojectionError=POSE_ERROR_PX,
        confidence=0.9999,
        flags=cv2.SOLVEPNP_AP3P,
    )
    if not found or inliers is None or len(inliers) < FEWEST_POSED:
        return None
    which = inliers[:, 0]
    found, turn, shift = cv2.solvePnP(
        points[which], pixels[which], scene.k, None, flags=cv2.SOLVEPNP_SQPNP
    )
    if not (found and np.isfinite(turn).all() and np.isfinite(shift).all()):
        return None
    rotations, translations, posed = (array.copy() for array in scene[1:4])
    rotations[frame], translations[frame], posed[frame] = cv2.Rodrigues(turn)[0], shift[:, 0], True
    return scene._replace(rotations=rotations, translations=translations, posed=posed)


def _adjusted(
    scene: Structure, tracks_px: Array, gain: float = ROUGH_GAIN, agree_px: float = AGREE_PX
) -> Structure:
    used = np.nan_to_num(residuals_px(scene, tracks_px), nan=np.inf) < agree_px
    return triangulated(bundle.adjusted(scene, tracks_px, used, smallest_gain=gain), tracks_px)
