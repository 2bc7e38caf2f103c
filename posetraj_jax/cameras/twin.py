"""The other motion that a plane allows, where it is so near the first that nothing tells which.

Two frames of a plane allow two motions of the camera, and they become one if the camera moves
straight away from the plane: a crane above a floor. Near there the right motion is between the two,
noise drives them apart (by the root of the noise: degrees, from tenths of a pixel), and more frames
of the same motion do not help. Their mean is then a far better estimate than either.
"""

import cv2
import numpy as np
from jaxtyping import Float

from posetraj_jax.cameras.plane import laid_flat
from posetraj_jax.cameras.structure import Structure, cost, residuals_px, triangulated

Array = np.ndarray

AS_GOOD = 1.003
"""Motions whose cost is at most this many times the lower one cannot be told apart."""
MEAN_AS_GOOD = 1.2
"""The same for what is between them. There the cost is higher, as between two valleys, the more so
if the focal length is wrong by a percent; yet nothing else is as near to whichever is right."""
MERGED_DEG = 15.0
"""Motions that differ less are taken for one that noise has split."""


def other_start(scene: Structure, pair: tuple[int, int]) -> Structure | None:
    """The points of a flat scene as the other motion between two frames has them; None without it.

    Only the first of the two frames is posed.
    """
    relative = scene.rotations[pair[1]] @ scene.rotations[pair[0]].T
    count, rotations, translations, normals = cv2.decomposeHomographyMat(
        _warp(scene, pair), scene.k
    )
    best, most = None, -1.0
    for index in range(count):
        # Both cameras look at the plane, from the side that its normal points away from.
        if normals[index][2, 0] < 0 or np.linalg.norm(translations[index]) < 1e-9:
            continue
        off = angle_deg(rotations[index] @ relative.T)
        if off > most:
            best, most = index, off
    if best is None:
        return None
    normal, first = normals[best][:, 0], pair[0]
    view = scene.points @ scene.rotations[first].T + scene.translations[first]
    with np.errstate(all="ignore"):
        points = view / (view @ normal)[:, None]  # where the same rays meet the other plane
        points[~(points[:, 2] > 0)] = np.nan
    frames = len(scene.posed)
    start = scene._replace(
        rotations=np.tile(np.eye(3), (frames, 1, 1)),
        translations=np.zeros((frames, 3)),
        posed=np.arange(frames) == first,
        points=points,
    )
    return laid_flat(start, normal, 1.0)


def _warp(scene: Structure, pair: tuple[int, int]) -> Array:
    """The homography [3 3] of the plane z = 0 from one frame to another, in pixels."""
    one, two = (
        scene.k @ np.column_stack([scene.rotations[f][:, :2], scene.translations[f]]) for f in pair
    )
    return two @ np.linalg.inv(one)


def angle_deg(rotation: Float[Array, "*n 3 3"]) -> Float[Array, "*n"]:
    """The angle of rotations."""
    cosine = (np.trace(rotation, axis1=-2, axis2=-1) - 1.0) / 2.0
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def settled(scene: Structure, twin: Structure, tracks_px: Float[Array, "f p 2"]) -> Structure:
    """The better of two flat scenes, or their mean if they cannot be told apart and are near."""
    seen = np.isfinite(tracks_px[..., 0])
    prices = [cost(residuals_px(each, tracks_px), seen) for each in (scene, twin)]
    better = scene if prices[0] <= prices[1] else twin
    if not (scene.posed.all() and twin.posed.all()) or max(prices) > AS_GOOD * min(prices):
        return better
    mean = _mean(scene, _onto(twin, scene))
    if mean is None:
        return better
    mean = triangulated(mean, tracks_px)
    price = cost(residuals_px(mean, tracks_px), seen)
    return mean if price <= MEAN_AS_GOOD * min(prices) else better


def _onto(scene: Structure, other: Structure) -> Structure:
    """A scene moved in its plane, turned and scaled so that its cameras are nearest another's."""
    one, two = scene.centres, other.centres
    turn = np.einsum("fji,fjk->ik", scene.rotations, other.rotations)  # world to world, transposed
    angle = np.arctan2(turn[0, 1] - turn[1, 0], turn[0, 0] + turn[1, 1])
    c, s = np.cos(angle), np.sin(angle)
    to_other = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]).T
    scale = two[:, 2].mean() / one[:, 2].mean()
    moved = scale * one @ to_other.T
    shift = (two - moved).mean(axis=0) * [1.0, 1.0, 0.0]
    rotations = scene.rotations @ to_other.T
    centres = moved + shift
    return scene._replace(
        rotations=rotations, translations=-np.einsum("fij,fj->fi", rotations, centres)
    )


def _mean(one: Structure, two: Structure) -> Structure | None:
    """The scene between two in one world; None if they differ by more than MERGED_DEG."""
    if angle_deg(two.rotations @ one.rotations.swapaxes(1, 2)).max() > MERGED_DEG:
        return None
    u, _, vt = np.linalg.svd(one.rotations + two.rotations)
    rotations = u @ vt
    k = one.k.copy()
    k[[0, 1], [0, 1]] = np.sqrt(np.diag(one.k)[:2] * np.diag(two.k)[:2])
    centres = (one.centres + two.centres) / 2
    return one._replace(
        k=k, rotations=rotations, translations=-np.einsum("fij,fj->fi", rotations, centres)
    )
