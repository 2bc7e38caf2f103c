"""Points and cameras that explain tracks: projection, triangulation, and how well they agree.

Inside this package cameras are world to camera, as projection needs them; only `estimate` turns
them around.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Array = np.ndarray

AGREE_PX = 2.0
"""How far from where it should be a point may be seen and still be taken to stand still."""
SOFT_PX = 0.3
"""Where residuals begin to count less than their square."""
LEAST_PARALLAX_DEG = 0.5
"""Angle between two rays to a point, below which its depth is not known."""
FAR = 1e4
"""How far points without a depth are put, in radii of the path of the camera."""
ROUNDS = 6
"""Of reweighting. Noise of half a pixel needs three; a track that jumps needs more."""


class Structure(NamedTuple):
    """What is known of a scene so far."""

    k: Float[Array, "3 3"]
    rotations: Float[Array, "f 3 3"]
    """World to camera."""
    translations: Float[Array, "f 3"]
    """World to camera; the unit of length is arbitrary."""
    posed: Bool[Array, "f"]
    """Whether the camera of a frame is known."""
    points: Float[Array, "p 3"]
    """In the world; NaN = not known."""
    flat: bool = False
    """Whether all points are in the plane z = 0."""

    @property
    def centres(self) -> Float[Array, "f 3"]:
        """Where the cameras are in the world."""
        return -np.einsum("fji,fj->fi", self.rotations, self.translations)


def normalised(tracks_px: Float[Array, "*n 2"], k: Float[Array, "3 3"]) -> Float[Array, "*n 2"]:
    """Pixels as x / z and y / z of the camera's axes."""
    return (tracks_px - k[:2, 2]) / np.diag(k)[:2]


def residuals_px(scene: Structure, tracks_px: Float[Array, "f p 2"]) -> Float[Array, "f p"]:
    """Distance of each point from where it is seen; infinite behind a camera.

    NaN where it is not seen, the camera not known, or the point not known.
    """
    with np.errstate(all="ignore"):  # points that are not known are NaN
        seen = scene.rotations @ scene.points.T + scene.translations[:, :, None]
        depth = seen[:, 2]
        projected = (scene.k[:2, :2] @ (seen[:, :2] / depth[:, None])).swapaxes(1, 2)
        residual = np.linalg.norm(projected + scene.k[:2, 2] - tracks_px, axis=2)
        residual[depth <= 0] = np.inf
    residual[~scene.posed] = np.nan
    residual[~np.isfinite(tracks_px[..., 0])] = np.nan
    residual[:, ~np.isfinite(scene.points[:, 0])] = np.nan
    return residual


def agreeing(scene: Structure, tracks_px: Float[Array, "f p 2"]) -> Bool[Array, "f p"]:
    """Where a point is seen within AGREE_PX of where it should be."""
    return np.nan_to_num(residuals_px(scene, tracks_px), nan=np.inf) < AGREE_PX


def cost(
    residual_px: Float[Array, "f p"],
    seen: Bool[Array, "f p"],
    weight: Float[Array, "f p"] | None = None,
) -> float:
    """Root of the mean square of all residuals, cut at AGREE_PX, as which the unknown ones count.

    The fewer points a scene explains, the higher it is, so scenes can be compared by it.
    """
    cut = np.minimum(np.nan_to_num(residual_px[seen], nan=np.inf), AGREE_PX)
    return float(np.sqrt(np.average(cut**2, weights=None if weight is None else weight[seen])))


def triangulated(
    scene: Structure, tracks_px: Float[Array, "f p 2"], *, with_far: bool = False
) -> Structure:
    """The same cameras with every point that at least two of them see, from wide enough apart.

    Linear triangulation (in the plane, if the scene is flat), reweighted to the error in pixels and
    against frames that disagree. `with_far` keeps points without a depth too, very far away: they
    tell how known cameras turn, but nothing of where unknown ones are.
    """
    seen = np.isfinite(tracks_px[..., 0]) & scene.posed[:, None]
    xy = np.nan_to_num(normalised(tracks_px, scene.k))
    matrices = np.concatenate([scene.rotations, scene.translations[:, :, None]], axis=2)
    rows = xy[..., None] * matrices[:, None, 2:3] - matrices[:, None, :2]
    axes = [0, 1, 3] if scene.flat else [0, 1, 2, 3]
    rows = rows[..., axes].swapaxes(0, 1)
    weight = seen.astype(np.float64)
    points = np.zeros((tracks_px.shape[1], 3))
    for _ in range(ROUNDS):
        weighted = (np.sqrt(weight).T[:, :, None, None] * rows).reshape(len(points), -1, len(axes))
        homogeneous = np.linalg.eigh(weighted.swapaxes(1, 2) @ weighted)[1][:, :, 0]
        with np.errstate(all="ignore"):
            points[:, axes[:-1]] = homogeneous[:, :-1] / homogeneous[:, -1:]
            depth = points @ matrices[:, 2, :3].T + matrices[:, 2, 3]
            residual = residuals_px(scene._replace(points=points), tracks_px)
            weight = seen / (1.0 + (residual / SOFT_PX) ** 2) / depth.T**2
        weight = np.nan_to_num(weight, nan=0.0, posinf=0.0)
        weight /= np.maximum(weight.max(axis=0), 1e-30)
    sure = _sure(scene._replace(points=points), tracks_px)
    if with_far and not scene.flat:
        far = _far_points(scene, xy, seen)
        use = ~sure & _sure(scene._replace(points=far), tracks_px, 0.0)
        points, sure = np.where(use[:, None], far, points), sure | use
    return scene._replace(points=np.where(sure[:, None], points, np.nan))


def _sure(scene: Structure, tracks_px: Array, parallax: float = LEAST_PARALLAX_DEG) -> Array:
    """Which points [p] at least two frames agree on, from wide enough apart."""
    good = agreeing(scene, tracks_px)
    sure = good.sum(axis=0) >= 2
    # A plane tells depths by itself.
    return sure if scene.flat else sure & (parallax_deg(scene, good) >= parallax)


def _far_points(scene: Structure, xy: Array, seen: Array) -> Array:
    """Points [p 3] in the directions in which they are seen, FAR times as far as cameras go."""
    rays = np.concatenate([xy, np.ones((*xy.shape[:2], 1))], axis=2)
    rays = (rays / np.linalg.norm(rays, axis=2, keepdims=True)) @ scene.rotations
    mean = (rays * seen[..., None]).sum(axis=0)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    centres = scene.centres[scene.posed]
    middle = centres.mean(axis=0)
    return middle + FAR * max(np.linalg.norm(centres - middle, axis=1).max(), 1e-9) * mean


def parallax_deg(scene: Structure, seen: Bool[Array, "f p"]) -> Float[Array, "p"]:
    """The widest angle between the ray to a point from where it is first seen and any other."""
    rays = scene.points - scene.centres[:, None]
    with np.errstate(all="ignore"):
        rays = rays / np.linalg.norm(rays, axis=2, keepdims=True)
    first = rays[seen.argmax(axis=0), np.arange(seen.shape[1])]
    # The chord is exact for small angles, where the arc cosine is not.
    chord = np.where(seen, np.linalg.norm(rays - first, axis=2), 0.0).max(axis=0)
    return np.degrees(2 * np.arcsin(np.minimum(np.nan_to_num(chord) / 2, 1.0)))
