"""Follows points through a video by pyramidal Lucas-Kanade flow. numpy and OpenCV, no network.

From each frame to the next, the seeds and many good features around them are followed: first by
OpenCV's pyramid, forwards and back, which finds large motion, and then by an affine fit of a small
window, which turns and stretches with the surface and so does not drift. Points that fail start
again from where an affine motion of their neighbours takes them; those that still fail are carried
there, and looked for in later frames with the picture of where they were seen last. With masks,
every object is followed on its own, cut out of its background, and what is lost when it turns fast
is found by its motion as a whole, if texture shows that (`rigid_object`). If not, use a network.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from posetraj_jax.errors import UserError
from posetraj_jax.tracking import affine_fit, object_features, rigid_object
from posetraj_jax.tracking.track_json import Tracked, inside

Array = np.ndarray

GREY = 128
"""What is put in place of the background of a cut-out object."""
CV_CENTRE = 0.5
"""OpenCV counts from the centre of the first pixel, this project from its corner."""
FLATTEST = 1e-4
"""Smallest eigenvalue of the gradients in a window that can be followed (OpenCV's measure)."""
AS_ONE_PX = 1.0
"""How far neighbours that move as one are from their common motion."""
LONELY = 0.3
"""Weight of a point's own last motion; a neighbour at no distance has 1."""
FEWEST = 4
"""Neighbours that make a motion."""


@dataclass(frozen=True)
class Options:
    """How points are followed; lengths in pixels of the frames."""

    window_px: int = 17
    """Side of the square that OpenCV's flow compares."""
    levels: int = 4
    """Times the picture is halved for it."""
    return_px: float = 1.5
    """How far from its start a point may end that is followed forwards and back."""
    radius_px: int = 8
    """Half the side of the square of the affine fit; even."""
    iterations: int = 8
    """Of the affine fit."""
    likeness: float = 0.85
    """Least correlation (1 = equal but for brightness and contrast) of a window that was found."""
    agree_px: float = 5.0
    """How far from its neighbours' motion a point may go, plus 3 times how far they are apart."""
    reach_px: float = 30.0
    """How far neighbours count: as a bell curve of this width."""
    num_features: int = 120
    """Neighbours in one picture or on one object, at most."""
    margin_px: int = 24
    """Around a cut-out object."""
    settle_px: float = 3.0
    """How far a point may be moved to where it looks most like its first picture."""
    memory_frames: int = 8
    """How many frames back a lost point is looked for in its old picture."""


class _Cut(NamedTuple):
    """A frame, or an object cut out of one."""

    picture: UInt8[Array, "h w 3"]
    start: Float[Array, "2"]
    """Where its first pixel lies in the frame."""
    where: UInt8[Array, "h w"] | None
    """Where the object is; None for everywhere."""
    smooth: affine_fit.Smooth


class _Matches(NamedTuple):
    """Points of one picture found in another."""

    there: Float[Array, "p 2"]
    shape: Float[Array, "p 2 2"]
    """How the surface around each was turned and stretched."""
    good: Bool[Array, "p"]


class _Carried(NamedTuple):
    """Points where their neighbours take them."""

    there: Float[Array, "p 2"]
    shape: Float[Array, "p 2 2"]
    spread: Float[Array, "p"]
    """How far the neighbours are from a common motion, pixels; infinite without neighbours."""


def track(
    frames: UInt8[Array, "f h w 3"],
    seeds: Float[Array, "p 2"],
    options: Options | None = None,
    *,
    masks: Integer[Array, "..."] | None = None,
) -> Tracked:
    """Follows points of the first frame through all frames.

    Equal input gives equal output, on any number of threads.

    Args:
        frames: RGB, at least one.
        seeds: (x, y) in pixels, pixel centres at 0.5, inside the picture.
        options: of the method.
        masks: panoptic ids [n h w], of all frames or of the first alone. Every seed belongs to
            what lies under it in the first frame, and is followed on that alone wherever it is
            known.

    Returns:
        Finite points in every frame, the seeds themselves in the first; visible where the point
        itself was found in the picture, not only carried by its neighbours.

    Raises:
        UserError: seeds outside the picture or not finite, or masks of another size.
    """
    seeds = np.asarray(seeds, np.float64)
    _check(frames, seeds, masks)
    points = np.repeat(seeds[None], len(frames), axis=0)
    visible = np.zeros(points.shape[:2], bool)
    objects = np.zeros(len(seeds), np.int64)
    if masks is not None:
        objects = object_features.segments_under(masks[0], seeds)
    for panoptic_id in np.unique(objects):
        members = np.flatnonzero(objects == panoptic_id)
        own = None if masks is None else (masks == panoptic_id).astype(np.uint8)
        followed = _Followed(frames, own, seeds[members], options or Options())
        found = followed.points, followed.visible
        if own is not None and rigid_object.worth_trying(own, followed.visible):
            found = rigid_object.found_again(frames, own, *found) or found
        points[:, members], visible[:, members] = found
    return Tracked(points.astype(np.float32), visible)


class _Followed:
    """Seeds that all lie on one object, or in a video without masks, followed to the end."""

    def __init__(self, frames: Array, masks: Array | None, seeds: Array, options: Options):
        self._frames, self._options = frames, options
        self._masks = [] if masks is None else list(masks)
        boxes = [cv2.boundingRect(mask) for mask in self._masks]
        self._boxes = np.array(boxes, int).reshape(-1, 4)
        self._cuts: dict[tuple[int, bool], _Cut] = {}
        self._motion = np.zeros_like(seeds)
        self._first = np.zeros(len(seeds), int)
        self._shape = np.repeat(np.eye(2)[None], len(seeds), axis=0)
        self.points = np.repeat(seeds[None], len(frames), axis=0)
        self.visible = np.zeros(self.points.shape[:2], bool)
        self.visible[0] = True
        for t in range(1, len(frames)):
            self._step(t)
            self._look_back(t)
            moved = self.points[t] - self.points[t - 1]
            self._motion = np.where(self.visible[t, :, None], moved, 0.5 * self._motion)
            oldest, used = t - options.memory_frames, set(self._first.tolist())
            for key in [key for key in self._cuts if key[0] < oldest and key[0] not in used]:
                del self._cuts[key]

    def _step(self, t: int) -> None:
        """From the last frame to this one."""
        options, count = self._options, self.points.shape[1]
        pair = before, after = self._pair(t - 1, t)
        start = self.points[t - 1] - before.start - CV_CENTRE
        both = np.concatenate([start, _features(before, options)])
        matches = _match(before, after, both, options)
        motion = np.zeros_like(both)
        motion[:count] = self._motion + before.start - after.start
        for _ in range(2):
            carried = _carry(both, matches, motion, options)
            matches = _try_again(pair, both, matches, carried, count, options)
        carried = _carry(both, matches, motion, options)
        # A lost point stands where it was only guessed to be: what is found there may be another.
        apart = np.linalg.norm(matches.there - carried.there, axis=1)
        good = matches.good & (apart <= options.agree_px + 3 * carried.spread)
        good = good[:count] & self.visible[t - 1]
        found = np.where(good[:, None], matches.there[:count], carried.there[:count])
        self.points[t] = found + after.start + CV_CENTRE
        self._settle(t, matches.shape[:count], good)
        self.visible[t] = good & self._seen(t)

    def _settle(self, t: int, shape: Float[Array, "p 2 2"], good: Bool[Array, "p"]) -> None:
        """Moves found points to where they look most like their first picture: no drift adds up.

        Points that have come to look too different take the last frame for their first picture.
        """
        whole_shape = shape @ self._shape
        settled = self._first == t - 1
        for s in np.unique(self._first[good & ~settled]).tolist():
            members = np.flatnonzero(good & (self._first == s))
            before, after = self._pair(s, t)
            start = self.points[s, members] - before.start - CV_CENTRE
            guess = _guessed(self.points[t, members] - after.start - CV_CENTRE)
            guess = guess._replace(shape=whole_shape[members])
            fitted = _fit(before, after, start, guess, self._options)
            near = np.linalg.norm(fitted.there - guess.there, axis=1) <= self._options.settle_px
            kept = fitted.good & near
            self.points[t, members[kept]] = fitted.there[kept] + after.start + CV_CENTRE
            whole_shape[members[kept]] = fitted.shape[kept]
            settled[members[kept]] = True
        self._first = np.where(settled, self._first, t - 1)
        self._shape = np.where(settled[:, None, None], whole_shape, shape)

    def _look_back(self, t: int) -> None:
        """Looks for lost points with the pictures in which they were seen last."""
        options = self._options
        last = t - 1 - self.visible[:t][::-1].argmax(axis=0)
        for s in range(max(0, t - options.memory_frames), t - 1):
            lost = np.flatnonzero(~self.visible[t] & (last == s))
            if not len(lost):
                continue
            before, after = self._pair(s, t)
            guess = self.points[t, lost] - after.start - CV_CENTRE
            start = self.points[s, lost] - before.start - CV_CENTRE
            found = _fit(before, after, start, _guessed(guess), options)
            again = lost[found.good]
            self.points[t, again] = found.there[found.good] + after.start + CV_CENTRE
            self._first[again], self._shape[again] = t, np.eye(2)
            self.visible[t, again] = self._seen(t)[again]

    def _seen(self, t: int) -> Bool[Array, "p"]:
        """Which points lie in the picture, and on their object or at its edge if it is known."""
        height, width = self._frames.shape[1:3]
        seen = inside(self.points[t], (height, width))
        if self._known(t):
            columns, rows = np.clip(self.points[t], 0, (width - 1, height - 1)).astype(int).T
            seen &= cv2.dilate(self._masks[t], np.ones((5, 5), np.uint8))[rows, columns] > 0
        return seen

    def _known(self, t: int) -> bool:
        return t < len(self._boxes) and bool(self._boxes[t, 2])

    def _pair(self, *numbers: int) -> list[_Cut]:
        """Cuts of the object out of two frames; the whole frames unless both show it."""
        whole = not all(self._known(t) for t in numbers)
        for t in numbers:
            if (t, whole) not in self._cuts:
                self._cuts[t, whole] = self._cut(t, whole)
        return [self._cuts[t, whole] for t in numbers]

    def _cut(self, t: int, whole: bool) -> _Cut:
        """The object in the middle of a grey picture, as large as it ever needs to be."""
        frame = self._frames[t]
        if whole:
            where = self._masks[t] if self._known(t) else None
            return _Cut(frame, np.zeros(2), where, affine_fit.smooth(frame))
        margin = self._options.margin_px
        width, height = self._boxes[:, 2:].max(axis=0) + 2 * margin
        start = self._boxes[t, :2] + self._boxes[t, 2:] // 2 - (width // 2, height // 2)
        move = np.array([[1, 0, -start[0]], [0, 1, -start[1]]], np.float64)
        how = {"dsize": (int(width), int(height)), "flags": cv2.INTER_NEAREST}
        where = cv2.warpAffine(self._masks[t], move, **how)
        picture = cv2.warpAffine(frame, move, **how)
        picture[where == 0] = GREY
        return _Cut(picture, start.astype(np.float64), where, affine_fit.smooth(picture))


def _features(cut: _Cut, options: Options) -> Float[Array, "q 2"]:
    """Corners of a picture, or of the object in it."""
    if not options.num_features:  # which OpenCV takes for any number
        return np.zeros((0, 2))
    grey = cv2.cvtColor(cut.picture, cv2.COLOR_RGB2GRAY)
    corners = cv2.goodFeaturesToTrack(grey, options.num_features, 0.002, 4, mask=cut.where)
    return np.zeros((0, 2)) if corners is None else corners.reshape(-1, 2).astype(np.float64)


def _match(before: _Cut, after: _Cut, start: Array, options: Options) -> _Matches:
    """Follows points forwards and back by OpenCV's flow; those that come home are fitted."""
    there, found = _flow(before.picture, after.picture, start, start, options)
    back, found_back = _flow(after.picture, before.picture, there, start, options)
    home = np.linalg.norm(back - start, axis=1) <= options.return_px
    guess = _guessed(there)._replace(good=found & found_back & home)
    return _fit(before, after, start, guess, options)


def _guessed(there: Float[Array, "p 2"]) -> _Matches:
    return _Matches(
        there, np.repeat(np.eye(2)[None], len(there), axis=0), np.ones(len(there), bool)
    )


def _flow(
    before: Array, after: Array, start: Array, guess: Array, options: Options
) -> tuple[Float[Array, "p 2"], Bool[Array, "p"]]:
    """OpenCV's flow: where points are, and which could be followed at all."""
    if not len(start):
        return guess.copy(), np.zeros(0, bool)
    there, status, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        start.astype(np.float32)[:, None],
        guess.astype(np.float32)[:, None].copy(),
        winSize=(options.window_px, options.window_px),
        maxLevel=options.levels,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        minEigThreshold=FLATTEST,
    )
    there = there[:, 0].astype(np.float64)
    found = (status[:, 0] == 1) & np.isfinite(there).all(axis=1)
    return np.where(found[:, None], there, guess), found


def _try_again(
    pair: list, start: Array, matches: _Matches, carried: _Carried, seeds: int, options: Options
) -> _Matches:
    """Fits points that were not found, starting where their neighbours take them.

    The first of the points, seeds, start there too if their neighbours move as one: along a
    straight edge, where a window fits anywhere, only neighbours know how far it went.
    """
    as_one = (carried.spread < AS_ONE_PX) & (np.arange(len(start)) < seeds)
    again = np.flatnonzero(np.where(matches.good, as_one, np.isfinite(carried.spread)))
    guess = _Matches(carried.there[again], carried.shape[again], np.ones(len(again), bool))
    retried = _fit(*pair, start[again], guess, options)
    kept = retried.good | ~matches.good[again]
    merged = _Matches(*(field.copy() for field in matches))
    for whole, part in zip(merged, retried, strict=True):
        whole[again[kept]] = part[kept]
    return merged


def _carry(start: Array, matches: _Matches, motion: Array, options: Options) -> _Carried:
    """Fits an affine motion to the neighbours of every point that were found, itself left out.

    Neighbours count by how near they are and how little they differ from the common motion
    (iteratively reweighted least squares); at first, from the point's own motion: what it was
    found to be, else `motion`, the last one. So a point on a small object is carried by that, and
    a point far from all others goes on as it did: it is its own neighbour, of weight LONELY.
    """
    helpers = np.flatnonzero(matches.good)
    num_points = len(start)
    if len(helpers) < FEWEST:
        alone = _guessed(start + motion)
        return _Carried(alone.there, alone.shape, np.full(num_points, np.inf))
    own = np.where(matches.good[:, None], matches.there - start, motion)
    offset = start[helpers][None] - start[:, None]
    offset = np.concatenate([offset, np.zeros((num_points, 1, 2))], axis=1)
    moved = np.repeat((matches.there - start)[helpers][None], num_points, axis=0)
    moved = np.concatenate([moved, motion[:, None]], axis=1)
    near = np.exp(-0.5 * (offset**2).sum(-1) / options.reach_px**2) + 1e-6
    near[helpers, np.arange(len(helpers))] = 0
    near[:, -1] = LONELY
    apart = np.linalg.norm(moved - own[:, None], axis=2)
    columns = np.concatenate([np.ones((*offset.shape[:2], 1)), offset], axis=2)
    # Holds the linear part to the identity where few neighbours, or neighbours in a row, are.
    prior = np.diag([1e-9, 1.0, 1.0]) * (0.2 * options.reach_px) ** 2
    width = 6.0
    for _ in range(6):
        weights = near / (1 + (apart / width) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        weighted = (weights[..., None] * columns).swapaxes(1, 2)
        fit = np.linalg.solve(weighted @ columns + prior, weighted @ moved)
        apart = np.linalg.norm(columns @ fit - moved, axis=2)
        width = max(1.5, width / 2)
    spread = np.sqrt((weights * apart**2).sum(axis=1))
    return _Carried(start + fit[:, 0], np.eye(2) + fit[:, 1:].swapaxes(1, 2), spread)


def _fit(before: _Cut, after: _Cut, start: Array, guess: _Matches, options: Options) -> _Matches:
    """Fits windows around points that are guessed to be good; those are good that are found."""
    chosen = np.flatnonzero(guess.good)
    fitted = affine_fit.fit(
        before.smooth,
        after.smooth,
        start[chosen],
        guess.there[chosen],
        guess.shape[chosen],
        radius_px=options.radius_px,
        iterations=options.iterations,
    )
    near = np.linalg.norm(fitted.there - guess.there[chosen], axis=1) <= options.agree_px
    result = _Matches(guess.there.copy(), guess.shape.copy(), np.zeros(len(start), bool))
    result.there[chosen], result.shape[chosen] = fitted.there, fitted.shape
    result.good[chosen] = near & (fitted.alike >= options.likeness)
    return result


def _check(frames: Array, seeds: Array, masks: Array | None) -> None:
    num_frames, height, width = frames.shape[:3]
    good = np.isfinite(seeds).all(axis=1) & inside(seeds, (height, width))
    if not good.all():
        raise UserError(
            "Points cannot be followed",
            expected=f"(x, y) inside the first frame, which has {width} x {height} pixels",
            got=f"{(~good).sum()} of {len(good)} elsewhere, as {seeds[good.argmin()].tolist()}",
            fix="give points of the first frame, in its own pixels",
        )
    if masks is not None and masks.shape not in ((n, height, width) for n in (1, num_frames)):
        raise UserError(
            "Points cannot be followed",
            expected=f"masks of {num_frames} frames, or of one, of {height} x {width} pixels",
            got=f"masks of shape {masks.shape}",
            fix="give the masks of this video",
        )
