"""One more camera of a structure, from the points that it sees."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float

from posetraj_jax.cameras.structure import Structure

Array = np.ndarray

CONFIDENCE = 0.9999


class PoseSearch(NamedTuple):
    """How a pose is looked for among points of which some are wrong."""

    fewest: int
    """Points that must agree with it. Three would do, if none were wrong."""
    error_px: float
    """How far off a point that agrees may be."""
    trials: int


def with_pose(
    scene: Structure,
    tracks_px: Float[Array, "f p 2"],
    frame: int,
    known: Bool[Array, "p"],
    search: PoseSearch,
) -> Structure | None:
    """The structure with one more camera; None if the points disagree on it.

    Args:
        scene: with points that the frame sees.
        tracks_px: where the points are seen.
        frame: whose camera is found.
        known: points of the scene that the frame sees.
        search: how.
    """
    if known.sum() < search.fewest:
        return None
    points, pixels = scene.points[known], tracks_px[frame, known]
    found, _, _, inliers = cv2.solvePnPRansac(
        points,
        pixels,
        scene.k,
        None,
        iterationsCount=search.trials,
        reprojectionError=search.error_px,
        confidence=CONFIDENCE,
        flags=cv2.SOLVEPNP_AP3P,
    )
    if not found or inliers is None or len(inliers) < search.fewest:
        return None
    # What it makes of the inliers (EPnP) may be mirrored where they are flat; SQPnP is global.
    which = inliers[:, 0]
    found, turn, shift = cv2.solvePnP(
        points[which], pixels[which], scene.k, None, flags=cv2.SOLVEPNP_SQPNP
    )
    if not (found and np.isfinite(turn).all() and np.isfinite(shift).all()):
        return None
    rotations, translations, posed = (array.copy() for array in scene[1:4])
    rotations[frame], translations[frame], posed[frame] = cv2.Rodrigues(turn)[0], shift[:, 0], True
    return scene._replace(rotations=rotations, translations=translations, posed=posed)
