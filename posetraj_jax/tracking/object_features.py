"""Features of one object, matched between frames that are so far apart that flow fails.

Source: Lowe, "Distinctive image features from scale-invariant keypoints", 2004, on an enlarged
picture of the object; descriptors compared as Arandjelovic and Zisserman, "Three things everyone
should know", 2012; matches checked by the epipolar geometry of two frames (MAGSAC++).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, Integer, UInt8

Array = np.ndarray

ENLARGED, LARGEST = 2.5, 640
"""Times that an object is enlarged, and the longest side, pixels, that it is enlarged to."""
MARGIN_PX = 12
MOST_FEATURES, LEAST_CONTRAST, LONGEST_EDGE = 1200, 0.005, 15
RATIO = 0.95
"""How much farther off the second best match must be, at least (1 = not at all)."""
GAPS = {1: 12, 2: 30}
"""Frames between two that are matched, and how many matches must agree."""
EPIPOLAR_PX, CONFIDENCE, TRIALS = 1.0, 0.999, 2000
GREY = 128


def segments_under(mask: Integer[Array, "h w"], seeds: Float[Array, "p 2"]) -> Integer[Array, "p"]:
    """The panoptic id under each seed; beside it, where that is 0: an edge is not that exact."""
    columns, rows = seeds.astype(int).T
    beside = cv2.dilate(mask.astype(np.float64), np.ones((3, 3), np.uint8)).astype(np.int64)
    own = mask[rows, columns].astype(np.int64)
    return np.where(own == 0, beside[rows, columns], own)


def matched(frames: UInt8[Array, "f h w 3"], masks: UInt8[Array, "f h w"]) -> Float[Array, "f p 2"]:
    """Features of what masks (nonzero) show, (x, y) in pixels, NaN where they are not found.

    Each is found in at least two frames.
    """
    sift = cv2.SIFT_create(
        MOST_FEATURES, contrastThreshold=LEAST_CONTRAST, edgeThreshold=LONGEST_EDGE
    )
    found = [_detected(sift, frame, mask) for frame, mask in zip(frames, masks, strict=True)]
    counts = np.array([len(places) for places, _ in found])
    starts = np.concatenate([[0], np.cumsum(counts)])
    links = [
        np.array(pair) + starts[[t, t + gap]]
        for gap, least in GAPS.items()
        for t in range(len(frames) - gap)
        for pair in _pairs(found[t], found[t + gap], least)
    ]
    frame_of = np.repeat(np.arange(len(frames)), counts)
    track_of = _linked(links, frame_of)
    _, column, length = np.unique(track_of, return_inverse=True, return_counts=True)
    tracks = np.full((len(frames), len(length), 2), np.nan)
    tracks[frame_of, column] = np.concatenate([places for places, _ in found])
    return tracks[:, length >= 2]


def _detected(sift: cv2.SIFT, frame: Array, mask: Array) -> tuple[Array, Array]:
    """Where the features of an object are [n 2], and their descriptors [n 128]."""
    x, y, width, height = cv2.boundingRect(mask)
    empty = np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    if not width:
        return empty
    left, top = max(0, x - MARGIN_PX), max(0, y - MARGIN_PX)
    window = np.s_[top : y + height + MARGIN_PX, left : x + width + MARGIN_PX]
    picture, where = frame[window].copy(), mask[window]
    picture[where == 0] = GREY
    times = min(ENLARGED, max(1.0, LARGEST / max(where.shape)))
    size = tuple(round(times * side) for side in where.shape[::-1])
    large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    found, descriptors = sift.detectAndCompute(cv2.cvtColor(large, cv2.COLOR_RGB2GRAY), None)
    if descriptors is None:
        return empty
    places = np.array([each.pt for each in found]) + 0.5
    places = places / (np.array(size) / where.shape[::-1]) + (left, top)
    descriptors /= np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9)
    return places, np.sqrt(descriptors)


def _pairs(
    before: tuple[Array, Array], after: tuple[Array, Array], least: int
) -> Sequence[Int[Array, "2"]]:
    """Features that are each other's best match and that agree with one epipolar geometry."""
    if min(len(before[0]), len(after[0])) < least:
        return []
    alike = before[1] @ after[1].T
    best = alike.argmax(axis=1)
    rows = np.arange(len(best))
    apart = 1 - alike[rows, best]
    mutual = alike.argmax(axis=0)[best] == rows
    alike[rows, best] = -1
    kept = np.flatnonzero(mutual & (apart < RATIO**2 * (1 - alike.max(axis=1))))
    pairs = np.stack([kept, best[kept]], axis=1)
    if len(pairs) < least:
        return []
    _, agreed = cv2.findFundamentalMat(
        before[0][pairs[:, 0]],
        after[0][pairs[:, 1]],
        cv2.USAC_MAGSAC,
        EPIPOLAR_PX,
        CONFIDENCE,
        TRIALS,
    )
    if agreed is None or agreed.sum() < least:
        return []
    return list(pairs[agreed[:, 0] > 0])


def _linked(links: Sequence[Array], frame_of: Int[Array, "n"]) -> Int[Array, "n"]:
    """A number for each feature, equal for those that links join; none twice in a frame."""
    parent = list(range(len(frame_of)))
    shown = [{frame} for frame in frame_of.tolist()]

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for link in links:
        one, two = (root(node) for node in link.tolist())
        if one != two and not shown[one] & shown[two]:
            parent[two] = one
            shown[one] |= shown[two]
    return np.array([root(node) for node in range(len(parent))], int)
