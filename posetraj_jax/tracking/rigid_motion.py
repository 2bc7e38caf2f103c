"""How a rigid object turned and moved: its shape and poses, from features that were matched."""

import numpy as np
from jaxtyping import Bool, Float, Int

from posetraj_jax.cameras import bundle
from posetraj_jax.cameras.pose import PoseSearch, with_pose
from posetraj_jax.cameras.structure import (
    AGREE_PX,
    Structure,
    agreeing,
    normalised,
    residuals_px,
)
from posetraj_jax.tracking import affine_start

Array = np.ndarray

SEARCH = PoseSearch(fewest=8, error_px=2.5, trials=400)
START_GAIN, ROUGH_GAIN, FINE_GAIN = 1e-4, 0.02, 1e-3
"""Where adjusting stops while the model grows, and at its end."""
TRIED_TRIPLES = 2
AS_GOOD = 1.3
"""A second model is grown if its error is at most this many times the first's."""
PER_PAIR = 40
"""Features that each frame shares with the next, of those that poses are found from, at most."""
LEAST_GROWN = 0.5
"""Of the features that a new pose shares with the others, it must explain."""
LEAST_SHARE = 0.75
"""Of the features of posed frames that a model must explain."""


def reconstructed(tracks_px: Float[Array, "f p 2"], k: Float[Array, "3 3"]) -> Structure | None:
    """Shape and poses in all frames; None if features do not move as something rigid.

    Args:
        tracks_px: features of the object, NaN where they are not seen.
        k: of the camera; a rough focal length will do.
    """
    few = tracks_px[:, _chosen(np.isfinite(tracks_px[..., 0]))]
    best, most = None, 0
    for frames in affine_start.triples(few, TRIED_TRIPLES):
        scene = _from_triple(few, k, frames)
        explained = 0 if scene is None else agreeing(scene, few).sum()
        if scene is not None and explained > most:
            best, most = scene, explained
        if best is not None and best.posed.all() and _share(best, few) > 0.85:
            break
    if best is None or not best.posed.all() or _share(best, few) < LEAST_SHARE:
        return None
    return placed(best, tracks_px)


def _chosen(seen: Bool[Array, "f p"]) -> Int[Array, "q"]:
    """Tracks that every frame shares enough of with the next, the longest first."""
    length = seen.sum(axis=0)
    chosen = np.zeros(seen.shape[1], bool)
    for pair in seen[:-1] & seen[1:]:
        members = np.flatnonzero(pair)
        chosen[members[np.argsort(-length[members], kind="stable")[:PER_PAIR]]] = True
    return np.flatnonzero(chosen)


def _share(scene: Structure, tracks_px: Array) -> float:
    seen = np.isfinite(tracks_px[..., 0]) & scene.posed[:, None]
    return float(agreeing(scene, tracks_px).sum() / max(1, seen.sum()))


def _from_triple(tracks_px: Array, k: Array, frames: tuple[int, int, int]) -> Structure | None:
    """The model that grows from three frames; of an object and its mirror image the likelier."""
    few = np.full_like(tracks_px, np.nan)
    shared = np.flatnonzero(np.isfinite(tracks_px[list(frames), :, 0]).all(axis=0))
    few[:, shared] = tracks_px[:, shared]
    begun = []
    for scene in affine_start.starts(tracks_px, k, frames):
        for agree_px in (12.0, 4.0, AGREE_PX):
            scene = _adjusted(scene, few, START_GAIN, agree_px)
        scene = _grown(scene, tracks_px, 2, START_GAIN)
        begun.append((_price(scene, tracks_px), scene))
    begun.sort(key=lambda each: each[0])
    if not begun or _share(begun[0][1], tracks_px) < LEAST_SHARE:
        return None
    done = []
    for price, scene in begun:
        if price <= AS_GOOD * begun[0][0]:
            scene = _grown(scene, tracks_px, len(tracks_px))
            for _ in range(2):
                scene = _adjusted(scene, tracks_px, FINE_GAIN)
            done.append((_price(scene, tracks_px), scene))
    return min(done, key=lambda each: each[0])[1] if done else None


def _price(scene: Structure, tracks_px: Array) -> float:
    """Mean error, to which frames without a pose count as much as can be."""
    residual = np.minimum(np.nan_to_num(residuals_px(scene, tracks_px), nan=np.inf), AGREE_PX)
    return float(residual[np.isfinite(tracks_px[..., 0])].mean())


def _grown(scene: Structure, tracks_px: Array, most: int, gain: float = ROUGH_GAIN) -> Structure:
    """The model with up to `most` more poses, those first that most of its points are seen in."""
    seen = np.isfinite(tracks_px[..., 0])
    failed = np.zeros(len(tracks_px), bool)
    while most > 0:
        known = seen & np.isfinite(scene.points[:, 0])
        counts = np.where(scene.posed | failed, -1, known.sum(axis=1))
        frame = int(counts.argmax())
        if counts[frame] < 0:
            break
        guesses = [
            with_pose(scene, tracks_px, frame, known[frame], SEARCH),
            _continued(scene, frame),
        ]
        if guesses[0] is not None and known[frame].sum() > 40:
            guesses = guesses[:1]
        grown = [
            _adjusted(_loosely(guess, tracks_px, frame), tracks_px, gain)
            for guess in guesses
            if guess is not None
        ]
        both = seen[frame] & (seen & scene.posed[:, None]).any(axis=0)
        share = [agreeing(each, tracks_px)[frame].sum() / max(12, both.sum()) for each in grown]
        if not grown or max(share) < LEAST_GROWN:
            failed[frame] = True
            continue
        scene = grown[int(np.argmax(share))]
        failed[:], most = False, most - 1
    return scene


def _loosely(scene: Structure, tracks_px: Array, frame: int) -> Structure:
    """The model after its newest pose, a guess, was adjusted with its neighbours."""
    posed = np.flatnonzero(scene.posed)
    near = posed[np.argsort(np.abs(posed - frame), kind="stable")[:4]]
    part = scene._replace(posed=np.isin(np.arange(len(tracks_px)), near))
    for agree_px in (20.0, 6.0):
        part = _adjusted(part, tracks_px, FINE_GAIN, agree_px)
    return part._replace(posed=scene.posed)


def _continued(scene: Structure, frame: int) -> Structure | None:
    """The model with one more pose: from its neighbour, it goes on to move as it did before."""
    for step in (1, -1):
        before = [frame - step, frame - 2 * step]
        if min(before) < 0 or max(before) >= len(scene.posed) or not scene.posed[before].all():
            continue
        middle = np.nanmean(scene.points, axis=0)
        (one, two), (near, far) = scene.rotations[before], scene.translations[before]
        place_near, place_far = one @ middle + near, two @ middle + far
        rotations, translations, posed = (array.copy() for array in scene[1:4])
        rotations[frame] = one @ two.T @ one
        translations[frame] = 2 * place_near - place_far - rotations[frame] @ middle
        posed[frame] = True
        return scene._replace(rotations=rotations, translations=translations, posed=posed)
    return None


def _adjusted(
    scene: Structure, tracks_px: Array, gain: float = ROUGH_GAIN, agree_px: float = AGREE_PX
) -> Structure:
    """The model moved to where it agrees best with what is not farther off than `agree_px`."""
    scene = placed(scene, tracks_px, agree_px)
    used = np.nan_to_num(residuals_px(scene, tracks_px), nan=np.inf) < agree_px
    return bundle.adjusted(scene, tracks_px, used, smallest_gain=gain)


def placed(
    scene: Structure, tracks_px: Float[Array, "f p 2"], agree_px: float = AGREE_PX
) -> Structure:
    """The same poses with every feature that two of them agree on (linear, reweighted)."""
    shown = np.isfinite(tracks_px[..., 0])
    # Most features are not seen in the few poses that are known at first.
    some = np.flatnonzero(shown[scene.posed].sum(axis=0) >= 2)
    part = scene._replace(
        rotations=scene.rotations[scene.posed],
        translations=scene.translations[scene.posed],
        posed=np.ones(scene.posed.sum(), bool),
    )
    points = np.full((tracks_px.shape[1], 3), np.nan)
    points[some] = _placed(part, tracks_px[scene.posed][:, some], agree_px)
    return scene._replace(points=points)


def _placed(scene: Structure, tracks_px: Array, agree_px: float) -> Array:
    """The points [p 3] of features, NaN where two poses do not agree on them; all are posed."""
    seen = np.isfinite(tracks_px[..., 0])
    xy = np.nan_to_num(normalised(tracks_px, scene.k))
    rows = xy[..., None] * scene.rotations[:, None, 2:] - scene.rotations[:, None, :2]
    right = scene.translations[:, None, :2] - xy * scene.translations[:, None, 2:]
    weight = seen / np.maximum(np.abs(scene.translations[:, 2:]), 1e-9) ** 2
    first = weight
    for _ in range(5):
        weighted = weight[..., None, None] * rows
        normal = np.einsum("fpai,fpaj->pij", weighted, rows)
        size = np.einsum("pii->p", normal)[:, None, None]
        normal += (1e-7 * size + 1e-12) * np.eye(3)
        points = np.linalg.solve(normal, np.einsum("fpai,fpa->pi", weighted, right)[..., None])
        residual = residuals_px(scene._replace(points=points[..., 0]), tracks_px)
        residual = np.nan_to_num(residual, nan=np.inf, posinf=1e6)
        weight = first / (1.0 + (residual / (0.2 * agree_px)) ** 2)
    sure = (residual < agree_px).sum(axis=0) >= 2
    return np.where(sure[:, None], points[..., 0], np.nan)
