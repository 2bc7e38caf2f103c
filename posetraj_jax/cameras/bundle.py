"""Bundle adjustment: cameras, points and focal length that agree best with all tracks at once.

Own code for one reason: points may be bound to a plane. A floor fills the background of many clips,
and points that are free to leave it bend with the smallest bias of the tracks; Ceres, as pycolmap
gives it to Python, has no such constraint. Points that are free are the same equations with three
unknowns in place of two.

Levenberg-Marquardt on the cameras alone: points only meet cameras, never each other, so they are
eliminated (Schur complement; Triggs et al., Bundle Adjustment - A Modern Synthesis, section 6.1).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from posetraj_jax.cameras.structure import SOFT_PX, Structure

Array = np.ndarray

MOST_STEPS = 40
SMALLEST_GAIN = 1e-6
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-4, 1e-9, 1e8
FOCAL_PRIOR = 2.0
"""Cost of a focal length e times as long as the likely one. A thousand good observations of a
camera that turns and moves cost as much for one percent."""
UNKNOWNS = 6
"""Of a camera: turn and shift."""


class _Equations(NamedTuple):
    """Normal equations of a linearised problem. g is the focal length: one, or none (size 0)."""

    cameras: Float[Array, "f 6 6"]
    points: Float[Array, "p d d"]
    mixed: Float[Array, "f 6 p d"]
    focal: Float[Array, "g g"]
    focal_cameras: Float[Array, "g f 6"]
    focal_points: Float[Array, "g p d"]
    right_cameras: Float[Array, "f 6"]
    right_points: Float[Array, "p d"]
    right_focal: Float[Array, "g"]


def adjusted(
    scene: Structure,
    tracks_px: Float[Array, "f p 2"],
    used: Bool[Array, "f p"],
    *,
    likely_focal: float | None = None,
    smallest_gain: float = SMALLEST_GAIN,
) -> Structure:
    """The scene with everything that `used` observations bind moved to where it agrees best.

    Args:
        scene: where all is before; if it is flat, its points stay in the plane z = 0.
        tracks_px: where the points are seen.
        used: which of these count; residuals beyond SOFT_PX count less and less (Cauchy).
        likely_focal: pixels; if given, the focal length of x moves too, that of y in proportion.
            It stays near this one only where the tracks say nothing of it (FOCAL_PRIOR).
        smallest_gain: a step that lowers the cost by a smaller share is the last.
    """
    known = np.isfinite(scene.points[:, 0])
    used = used & scene.posed[:, None] & known
    used &= used.sum(axis=0) >= 2
    frames, points = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
    if len(frames) < 2 or len(points) < UNKNOWNS:
        return scene
    part = Structure(
        scene.k, *(array[frames] for array in scene[1:4]), scene.points[points], scene.flat
    )
    window = np.ix_(frames, points)
    part = _minimised(part, tracks_px[window], used[window], likely_focal, smallest_gain)
    rotations, translations, xyz = (
        array.copy() for array in (scene.rotations, scene.translations, scene.points)
    )
    rotations[frames], translations[frames], xyz[points] = (
        part.rotations,
        part.translations,
        part.points,
    )
    return scene._replace(k=part.k, rotations=rotations, translations=translations, points=xyz)


def focal_deviation(
    scene: Structure, tracks_px: Float[Array, "f p 2"], used: Bool[Array, "f p"]
) -> float:
    """Standard deviation of the logarithm of the focal length that the tracks leave; may be inf.

    As if noise were independent, which that of one track is not: take it times a few.
    """
    used = used & scene.posed[:, None] & np.isfinite(scene.points[:, 0])
    used &= used.sum(axis=0) >= 2
    window = np.ix_(scene.posed, used.any(axis=0))
    part = Structure(
        scene.k,
        *(array[scene.posed] for array in scene[1:4]),
        scene.points[window[1][0]],
        scene.flat,
    )
    tracks_px, used = tracks_px[window], used[window]
    left = _reduced(_linearised(part, tracks_px, used, part.k[0, 0]), LEAST_DAMPING)[0]
    cameras, mixed = left[:-1, :-1], left[:-1, -1]
    information = left[-1, -1] - mixed @ np.linalg.lstsq(cameras, mixed, rcond=1e-10)[0]
    with np.errstate(all="ignore"):
        squares = (_errors(part, _in_cameras(part), tracks_px) ** 2)[used].mean()
        return float(np.sqrt(squares / information)) if information > 0 else float("inf")


def _minimised(
    scene: Structure,
    tracks_px: Array,
    used: Array,
    likely_focal: float | None,
    smallest_gain: float,
) -> Structure:
    damping, now = FIRST_DAMPING, _robust_cost(scene, tracks_px, used, likely_focal)
    for _ in range(MOST_STEPS):
        equations = _linearised(scene, tracks_px, used, likely_focal)
        gain = 0.0
        while damping < MOST_DAMPING:
            moved = _stepped(scene, equations, damping)
            then = _robust_cost(moved, tracks_px, used, likely_focal)
            if then < now:
                gain, scene, now = 1.0 - then / now, moved, then
                damping = max(damping / 10.0, LEAST_DAMPING)
                break
            damping *= 10.0
        if gain < smallest_gain:
            break
    return scene


def _robust_cost(
    scene: Structure, tracks_px: Array, used: Array, likely_focal: float | None
) -> float:
    view = _in_cameras(scene)
    with np.errstate(all="ignore"):
        off = _errors(scene, view, tracks_px)
        squares = np.where(view[..., 2] > 0, (off**2).sum(axis=2), np.inf)
        cost = np.log1p(squares[used] / SOFT_PX**2).sum()
    unlikely = np.log(scene.k[0, 0] / likely_focal) if likely_focal else 0.0
    return float(cost + FOCAL_PRIOR * unlikely**2)


def _in_cameras(scene: Structure) -> Array:
    """Points in the axes of each camera [f p 3]."""
    return scene.points @ scene.rotations.swapaxes(1, 2) + scene.translations[:, None]


def _errors(scene: Structure, view: Array, tracks_px: Array) -> Array:
    focal = np.diag(scene.k)[:2]
    return view[..., :2] / view[..., 2:] * focal + scene.k[:2, 2] - tracks_px


def _linearised(
    scene: Structure, tracks_px: Array, used: Array, likely_focal: float | None
) -> _Equations:
    """Normal equations of the reweighted squares; unused observations have no weight."""
    view = np.where(used[..., None], _in_cameras(scene), [0.0, 0.0, 1.0])
    error = np.where(used[..., None], _errors(scene, view, tracks_px), 0.0)
    weight = used / (1.0 + (error**2).sum(axis=2) / SOFT_PX**2)
    by_view = _by_view(view, np.diag(scene.k)[:2])
    turned = view - scene.translations[:, None]
    by_camera = np.concatenate([-by_view @ _cross(turned), by_view], axis=3)
    by_point = by_view @ scene.rotations[:, None, :, : 2 if scene.flat else 3]
    # By the logarithm of the focal length.
    by_focal = (view[..., :2] / view[..., 2:] * np.diag(scene.k)[:2])[..., None]
    by_focal = by_focal[..., : int(likely_focal is not None)]
    w_camera, w_point, w_focal = (
        weight[..., None, None] * part for part in (by_camera, by_point, by_focal)
    )
    frames, points = used.shape
    prior = FOCAL_PRIOR * SOFT_PX**2
    unlikely = np.log(scene.k[0, 0] / likely_focal) if likely_focal else 0.0
    rows = by_camera.reshape(frames, points * 2, UNKNOWNS)
    w_rows = w_camera.reshape(rows.shape)
    return _Equations(
        cameras=w_rows.swapaxes(1, 2) @ rows,
        points=_summed(w_point, by_point),
        mixed=(w_camera.swapaxes(2, 3) @ by_point).transpose(0, 2, 1, 3),
        focal=np.einsum("fpag,fpah->gh", w_focal, by_focal) + prior,
        focal_cameras=np.einsum("fpag,fpai->gfi", w_focal, by_camera),
        focal_points=np.einsum("fpag,fpaj->gpj", w_focal, by_point),
        right_cameras=-np.einsum("fpai,fpa->fi", w_camera, error),
        right_points=-np.einsum("fpaj,fpa->pj", w_point, error),
        right_focal=-np.einsum("fpag,fpa->g", w_focal, error) - prior * unlikely,
    )


def _by_view(view: Array, focal: Array) -> Array:
    """How pixels change with points in a camera's axes [f p 2 3]."""
    inverse = 1.0 / view[..., 2]
    derivative = np.zeros((*view.shape[:2], 2, 3))
    derivative[..., 0, 0], derivative[..., 1, 1] = focal[0] * inverse, focal[1] * inverse
    derivative[..., 2] = -focal * view[..., :2] * (inverse**2)[..., None]
    return derivative


def _summed(one: Array, two: Array) -> Array:
    """Sum over frames and axes of products [p d d]."""
    frames, points, axes, size = one.shape
    left, right = (x.transpose(1, 0, 2, 3).reshape(points, frames * axes, size) for x in (one, two))
    return left.swapaxes(1, 2) @ right


def _cross(vectors: Array) -> Array:
    """Matrices [... 3 3] whose product with a vector is the cross product."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return np.stack(rows, axis=-1).reshape(*vectors.shape, 3)


def _reduced(eq: _Equations, damping: float) -> tuple[Array, Array, Array, Array]:
    """Equations of cameras and focal length without the points.

    Returns:
        Left side [n n], right side [n], inverses of the points' blocks [p d d], and how the points
        depend on the rest [n p d].
    """
    frames, points, size = len(eq.cameras), *eq.points.shape[:2]
    count = UNKNOWNS * frames
    inverse = np.linalg.inv(_damped(eq.points, damping))
    mixed = np.concatenate([eq.mixed.reshape(count, points, size), eq.focal_points])
    left = np.zeros((len(mixed), len(mixed)))
    for frame, block in enumerate(_damped(eq.cameras, damping)):
        window = slice(UNKNOWNS * frame, UNKNOWNS * (frame + 1))
        left[window, window] = block
    left[count:, :count] = eq.focal_cameras.reshape(-1, count)
    left[:count, count:] = left[count:, :count].T
    left[count:, count:] = eq.focal * (1.0 + damping)
    eliminated = (mixed.swapaxes(0, 1) @ inverse).swapaxes(0, 1).reshape(len(mixed), -1)
    left -= eliminated @ mixed.reshape(len(mixed), -1).T
    right = np.concatenate([eq.right_cameras.ravel(), eq.right_focal])
    return left, right - eliminated @ eq.right_points.ravel(), inverse, mixed


def _stepped(scene: Structure, eq: _Equations, damping: float) -> Structure:
    """The scene after one damped step."""
    left, right, inverse, mixed = _reduced(eq, damping)
    # Least squares, because the world may still be moved, turned and scaled at will.
    step = np.linalg.lstsq(left, right, rcond=1e-14)[0]
    left_over = eq.right_points - np.tensordot(step, mixed, axes=1)
    shift = (inverse @ left_over[..., None])[..., 0]
    count = eq.right_cameras.size
    return _moved(scene, step[:count].reshape(-1, UNKNOWNS), step[count:], shift)


def _damped(blocks: Array, damping: float) -> Array:
    """Blocks [n d d] with larger diagonals."""
    size = blocks.shape[-1]
    diagonal = np.einsum("nii->ni", blocks)
    floor = 1e-12 * (diagonal.max() + 1e-300)
    return blocks + (damping * diagonal + floor)[..., None] * np.eye(size)


def _moved(scene: Structure, cameras: Array, log_focal: Array, points: Array) -> Structure:
    k, xyz = scene.k.copy(), scene.points.copy()
    k[[0, 1], [0, 1]] *= np.exp(np.clip(log_focal, -0.3, 0.3).sum())
    xyz[:, : points.shape[1]] += points
    return scene._replace(
        k=k,
        rotations=_rotations(cameras[:, :3]) @ scene.rotations,
        translations=scene.translations + cameras[:, 3:],
        points=xyz,
    )


def _rotations(turns: Array) -> Array:
    """Rotations [n 3 3] about vectors [n 3] by their lengths, radians (Rodrigues)."""
    angles = np.sqrt((turns[:, None] @ turns[..., None])[:, 0, 0])
    some = ~(angles < 1e-12)  # with what is not finite, so that such a step is seen to be bad
    axes = _cross(turns[some] / angles[some, None])
    sines, cosines = np.sin(angles[some])[:, None, None], np.cos(angles[some])[:, None, None]
    found = np.tile(np.eye(3), (len(turns), 1, 1))
    found[some] = np.eye(3) + sines * axes + (1.0 - cosines) * axes @ axes
    return found
