"""Finds points of an object again that turned too fast for flow, if it moves as a rigid body."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from posetraj_jax.cameras.structure import Structure
from posetraj_jax.tracking import affine_fit, object_features, rigid_motion, rigid_points
from posetraj_jax.tracking.track_json import inside

Array = np.ndarray

FOCAL = 1.2
"""Focal length, in longer sides of the picture, that is taken; small objects hardly show it."""
RADIUS_PX, ITERATIONS = 6, 8
LIKENESS = 0.8
"""Least correlation of a window that was found."""
NEAR_PX = 2.5
"""How far from where it is expected a point may be found."""
LARGEST = 0.4
"""Share of the picture; what is larger is taken for the background."""
WELL_FOLLOWED = 0.9
"""Share of points and frames that flow finds, above which it is left alone."""
GREY, CV_CENTRE = 128, 0.5


def worth_trying(masks: UInt8[Array, "_ h w"], visible: Bool[Array, "f p"]) -> bool:
    """Whether flow lost much of an object that all frames show and that is not the background."""
    known = len(masks) == len(visible) > 2 and masks.any(axis=(1, 2)).all()
    lost = masks.mean(axis=(1, 2)).max() < LARGEST and visible.mean() < WELL_FOLLOWED
    return bool(known and lost)


def found_again(
    frames: UInt8[Array, "f h w 3"],
    masks: UInt8[Array, "f h w"],
    points: Float[Array, "f p 2"],
    visible: Bool[Array, "f p"],
) -> tuple[Float[Array, "f p 2"], Bool[Array, "f p"]] | None:
    """Points of one object where its motion as a whole takes them; None if that is not found.

    Args:
        frames: RGB.
        masks: of the object, nonzero, of all frames.
        points: where flow followed them, the seeds in the first frame.
        visible: where flow found them.

    Returns:
        The points, and where they were found in the picture.
    """
    height, width = masks.shape[1:]
    focal = FOCAL * max(height, width)
    k = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    tracks = object_features.matched(frames, masks)
    scene = rigid_motion.reconstructed(tracks, k)
    if scene is None:
        return None
    smooth = []
    for frame, mask in zip(frames, masks, strict=True):
        picture = frame.copy()
        picture[mask == 0] = GREY
        smooth.append(affine_fit.smooth(picture))
    pictures = [each.picture for each in smooth]
    surface = rigid_points.located(scene, tracks, pictures, points[0], RADIUS_PX)
    if surface is None:
        return None
    expected = rigid_points.predicted(scene, surface, np.zeros((points.shape[1], 1, 2)))[:, :, 0]
    there, found = _looked_for(scene, surface, smooth, expected)
    whole, shown = _merged(scene, expected, there, found, points, visible)
    return whole, shown & inside(whole, (height, width))


def _looked_for(
    scene: Structure, surface: rigid_points.Surface, smooth: list, expected: Array
) -> tuple[Array, Array]:
    """Points near where they are expected, found by their windows in the first frame or the last
    in which they were seen, turned and stretched as the surface is."""
    count = expected.shape[1]
    axes = np.broadcast_to(np.array([[0.0, 0], [1, 0], [0, 1]]), (count, 3, 2))
    places = rigid_points.predicted(scene, surface, axes)
    shapes = (places[:, :, 1:] - places[:, :, :1]).swapaxes(2, 3)
    there, found = expected.copy(), np.zeros(expected.shape[:2], bool)
    there[0], found[0] = surface.seeds, True
    last = np.zeros(count, int)
    for t in np.flatnonzero(scene.posed)[1:]:
        for sources in (last.copy(), np.zeros(count, int)):
            for s in np.unique(sources).tolist():
                flat = np.abs(np.linalg.det(shapes[s])) < 0.05
                members = np.flatnonzero((sources == s) & ~found[t] & ~flat)
                if not len(members):
                    continue
                shape = shapes[t, members] @ np.linalg.inv(shapes[s, members])
                fitted = affine_fit.fit(
                    smooth[s],
                    smooth[t],
                    there[s, members] - CV_CENTRE,
                    expected[t, members] - CV_CENTRE,
                    shape,
                    radius_px=RADIUS_PX,
                    iterations=ITERATIONS,
                )
                place = fitted.there + CV_CENTRE
                near = np.linalg.norm(place - expected[t, members], axis=1) <= NEAR_PX
                good = near & (fitted.alike >= LIKENESS)
                there[t, members[good]], found[t, members[good]] = place[good], True
        last[found[t]] = t
    return there, found


def _merged(
    scene: Structure, expected: Array, there: Array, found: Array, points: Array, visible: Array
) -> tuple[Array, Array]:
    """Depths again by all frames in which points were found; these, and what flow found near."""
    seen = np.where(found[..., None], there, np.nan)
    again = rigid_motion.placed(scene, seen)
    view = again.points @ scene.rotations.swapaxes(1, 2) + scene.translations[:, None]
    with np.errstate(all="ignore"):
        better = view[..., :2] / view[..., 2:] * np.diag(scene.k)[:2] + scene.k[:2, 2]
    enough = (found.sum(axis=0) >= 3) & np.isfinite(better[scene.posed]).all(axis=(0, 2))
    expected = np.where(enough[:, None], better, expected)
    whole = np.where(found[..., None], there, expected)
    flow = visible & (np.linalg.norm(points - expected, axis=2) < 2 * NEAR_PX)
    whole = np.where((flow & ~found)[..., None], points, whole)
    unposed = ~np.isfinite(whole).all(axis=2)
    whole = np.where(unposed[..., None], points, whole)
    shown = found | flow | (visible & unposed)
    whole[0], shown[0] = points[0], True
    return whole, shown
