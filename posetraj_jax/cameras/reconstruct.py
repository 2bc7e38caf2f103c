"""Cameras and points of a whole clip, grown from the motion between two of its frames."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from posetraj_jax.cameras import bundle, twin
from posetraj_jax.cameras.plane import flattened
from posetraj_jax.cameras.pose import PoseSearch, with_pose
from posetraj_jax.cameras.structure import Structure, agreeing, cost, residuals_px, triangulated
from posetraj_jax.cameras.two_view import Motion, motions

Array = np.ndarray

SEARCH = PoseSearch(fewest=8, error_px=3.0, trials=300)
REFINED = 3
"""Rounds of triangulation and bundle adjustment at the end."""
GROWTH = 1.5
"""After how many times as many frames all is adjusted again, so that errors do not add up."""
ROUGH_GAIN = 1e-3
"""Where adjusting stops while a structure grows."""
TRIED_FRAMES = 7
"""Frames that decide between motions."""
AS_GOOD = 1.05
"""Structures whose cost is at most this many times the lowest are compared on all frames."""
TWIN_COST = 1.5
"""A second motion is adjusted if it costs at most this many times the first before that."""
FLAT_SHARE, FLAT_RATIO, FLAT_PX = 0.9, 1.3, 0.05
"""A plane is believed in if it explains this share of what free points explain, which also explain
some that move, and if its error on what both explain is at most this much larger."""


def reconstructed(
    tracks_px: Float[Array, "f p 2"],
    k: Float[Array, "3 3"],
    pair: tuple[int, int],
    *,
    likely_focal: float | None = None,
) -> Structure | None:
    """The structure, of all that two frames allow, that explains all frames best.

    None if no motion between the two frames explains anything.
    """
    tried = _tried(tracks_px, k, pair, likely_focal)
    if not tried:
        return None
    lowest = tried[0][0]
    seen = np.isfinite(tracks_px[..., 0])
    done = []
    for price, part in tried:
        if price <= AS_GOOD * lowest:
            scene = grown(part, tracks_px)
            scene = refined(scene, tracks_px, likely_focal=likely_focal)
            done.append((cost(residuals_px(scene, tracks_px), seen), scene))
    scene = _flat_if_as_good(min(done, key=lambda each: each[0])[1], tracks_px, likely_focal)
    return _with_twin(scene, tracks_px, pair, likely_focal) if scene.flat else scene


def _with_twin(
    scene: Structure, tracks_px: Array, pair: tuple[int, int], likely_focal: float | None
) -> Structure:
    """A flat scene, after the other motion that the plane allows was looked at."""
    other = twin.other_start(scene, pair) if scene.posed.all() else None
    if other is None:
        return scene
    for frame in np.flatnonzero(~other.posed):
        known = np.isfinite(tracks_px[frame, :, 0]) & np.isfinite(other.points[:, 0])
        posed = with_pose(other, tracks_px, int(frame), known, SEARCH)
        if posed is None:
            return scene
        other = posed
    seen = np.isfinite(tracks_px[..., 0])
    if cost(residuals_px(other, tracks_px), seen) > TWIN_COST * cost(
        residuals_px(scene, tracks_px), seen
    ):
        return scene
    other = refined(other, tracks_px, likely_focal=likely_focal)
    return twin.settled(scene, other, tracks_px)


def trial(
    tracks_px: Float[Array, "f p 2"],
    k: Float[Array, "3 3"],
    pair: tuple[int, int],
    likely_focal: float,
) -> tuple[float, Structure] | None:
    """The lowest cost that a few frames allow if the focal length may move, and its structure."""
    return next(iter(_tried(tracks_px, k, pair, likely_focal)), None)


def _tried(
    tracks_px: Array, k: Array, pair: tuple[int, int], likely_focal: float | None
) -> list[tuple[float, Structure]]:
    """Costs and structures of a few frames for each motion, the cheapest first."""
    seen = np.isfinite(tracks_px[..., 0])
    one, two = pair
    both = seen[one] & seen[two]
    few = _few(tracks_px, pair)
    found = []
    for motion in motions(tracks_px[one, both], tracks_px[two, both], k):
        scene = grown(_started(motion, pair, k, few), few)
        scene = _flat_if_as_good(_adjusted(scene, few, likely_focal), few, likely_focal)
        found.append((cost(residuals_px(scene, few), np.isfinite(few[..., 0])), scene))
    return sorted(found, key=lambda each: each[0])


def _few(tracks_px: Array, pair: tuple[int, int]) -> Array:
    """The tracks in a few frames from one of a pair to the other, NaN in all others."""
    frames = np.unique(np.linspace(*pair, TRIED_FRAMES).round().astype(int))
    few = np.full_like(tracks_px, np.nan)
    few[frames] = tracks_px[frames]
    return few


def _flat_if_as_good(scene: Structure, tracks_px: Array, likely_focal: float | None) -> Structure:
    if scene.flat:
        return scene
    flat = flattened(scene, tracks_px)
    if flat is None:
        return scene
    flat = refined(flat, tracks_px, likely_focal=likely_focal)
    seen = np.isfinite(tracks_px[..., 0]) & scene.posed[:, None]
    agreed = [agreeing(each, tracks_px) & seen for each in (flat, scene)]
    exact = [cost(residuals_px(each, tracks_px), agreed[0] & agreed[1]) for each in (flat, scene)]
    enough = agreed[0].sum() >= FLAT_SHARE * agreed[1].sum()
    return flat if enough and exact[0] <= FLAT_RATIO * exact[1] + FLAT_PX else scene


def _started(motion: Motion, pair: Sequence[int], k: Array, tracks_px: Array) -> Structure:
    frames, points = tracks_px.shape[:2]
    rotations, translations = np.tile(np.eye(3), (frames, 1, 1)), np.zeros((frames, 3))
    rotations[pair[1]], translations[pair[1]] = motion
    posed = np.isin(np.arange(frames), pair)
    empty = Structure(k, rotations, translations, posed, np.full((points, 3), np.nan))
    return triangulated(empty, tracks_px)


def grown(scene: Structure, tracks_px: Float[Array, "f p 2"]) -> Structure:
    """The structure with every camera that its points can tell, the best known first."""
    seen = np.isfinite(tracks_px[..., 0])
    scene = _adjusted(triangulated(scene, tracks_px), tracks_px)
    adjusted_at = scene.posed.sum()
    failed = ~seen.any(axis=1)
    while not (scene.posed | failed).all():
        known = seen & np.isfinite(scene.points[:, 0])
        counts = np.where(scene.posed | failed, -1, known.sum(axis=1))
        frame = int(counts.argmax())
        posed = with_pose(scene, tracks_px, frame, known[frame], SEARCH)
        if posed is None:
            failed[frame] = True
            continue
        scene = triangulated(posed, tracks_px)
        if scene.posed.sum() >= GROWTH * adjusted_at:
            scene, adjusted_at = _adjusted(scene, tracks_px), scene.posed.sum()
    return _adjusted(scene, tracks_px)


def _adjusted(
    scene: Structure,
    tracks_px: Array,
    likely_focal: float | None = None,
    gain: float = ROUGH_GAIN,
    with_far: bool = False,
) -> Structure:
    used = agreeing(scene, tracks_px)
    scene = bundle.adjusted(scene, tracks_px, used, likely_focal=likely_focal, smallest_gain=gain)
    return triangulated(scene, tracks_px, with_far=with_far)


def refined(
    scene: Structure,
    tracks_px: Float[Array, "f p 2"],
    *,
    likely_focal: float | None = None,
    gain: float = bundle.SMALLEST_GAIN,
) -> Structure:
    """The structure adjusted and triangulated anew in turns, so that right points come back."""
    for _ in range(REFINED):
        scene = _adjusted(scene, tracks_px, likely_focal, gain, with_far=True)
    return scene
