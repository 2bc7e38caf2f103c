"""Motion that is known exactly, and everything that is no motion at all."""

import cv2
import numpy as np
import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.tracking.lucas_kanade import Options, track

FRAMES, HEIGHT, WIDTH = 14, 320, 576
FACES = ((0, 1, 3, 2), (5, 4, 6, 7), (4, 0, 2, 6), (1, 5, 7, 3), (4, 5, 1, 0), (2, 3, 7, 6))
"""Corners 4 z + 2 y + x of each side of a box, clockwise seen from outside."""


def texture(seed: int, height: int, width: int, strength: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128.0)
    for cell, contrast in ((4, 30), (12, 50), (40, 60)):
        noise = rng.uniform(-1, 1, (height // cell + 2, width // cell + 2, 3))
        picture += strength * contrast * cv2.resize(noise, (width, height), interpolation=2)
    return np.clip(picture, 0, 255).astype(np.uint8)


def centred(linear: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The affine map [3 3] with a linear part that takes one point to another."""
    whole = np.eye(3)
    whole[:2, :2] = linear
    whole[:2, 2] = end - linear @ start
    return whole


def turned(degrees: float, scale: float = 1.0) -> np.ndarray:
    cos, sin = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])


def filmed(maps: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A texture under maps [f 3 3] of its pixels, in front of a still one where there is a mask."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV counts from pixel centres
    front, back = texture(1, HEIGHT, WIDTH), texture(2, HEIGHT, WIDTH, 0.5)
    frames, masks = [], []
    for whole in maps:
        move = (np.linalg.inv(half) @ whole @ half)[:2]
        moved = cv2.warpAffine(front, move, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
        shown = np.ones((HEIGHT, WIDTH), np.uint8)
        if mask is not None:
            shown = cv2.warpAffine(mask, move, (WIDTH, HEIGHT), flags=cv2.INTER_NEAREST)
        frames.append(np.where(shown[..., None] > 0, moved, back))
        masks.append(shown.astype(np.uint16) * 12501)
    return np.stack(frames), np.stack(masks)


def carried(maps: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ maps[:, :2, :2].swapaxes(1, 2) + maps[:, None, :2, 2]


def disc(radius: float, x: float, y: float) -> np.ndarray:
    return cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (int(x), int(y)), int(radius), 1, -1)


def rotation(axis: tuple[float, float, float], angle: float) -> np.ndarray:
    return cv2.Rodrigues(np.array(axis) / np.linalg.norm(axis) * angle)[0]


def turning_box(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames, masks, points [f p 2] and which are seen [f p] of a box that turns by 180 degrees.

    It crosses the picture by 26 pixels a frame, seen by a pinhole camera, lit from one side.
    """
    rng, focal, fine = np.random.default_rng(seed), 600.0, 2
    sides = [texture(10 * seed + side, 128, 128) for side in range(6)]
    corners = np.array([[x, y, z] for z in (-30, 30) for y in (-30, 30) for x in (-45, 45)], float)
    of_face, (u, v) = rng.integers(0, 6, 60), rng.uniform(0.12, 0.88, (2, 60, 1))
    a, b, _, d = corners[np.array(FACES)[of_face]].swapaxes(0, 1)
    points = a + u * (b - a) + v * (d - a)
    back = cv2.resize(texture(seed, HEIGHT, WIDTH, 0.5), (WIDTH * fine, HEIGHT * fine))
    frames, masks, pixels, seen = [], [], [], []

    def project(xyz):
        return xyz[:, :2] / xyz[:, 2:] * focal + (WIDTH / 2, HEIGHT / 2)

    for t in range(FRAMES):
        pose = rotation((1, 0, 0), 0.5) @ rotation((0.1, 1, 0.05), np.pi * t / 13 + 0.35)
        place = np.array([26 * (t - 6.5), 30 * np.sin(0.24 * t), focal])
        now, picture = corners @ pose.T + place, back.copy()
        whole, front = np.zeros(picture.shape[:2], np.uint8), np.zeros(6, bool)
        for side, face in enumerate(FACES):
            middle = now[list(face)].mean(axis=0)
            normal = (middle - place) / np.linalg.norm(middle - place)
            front[side] = normal @ middle < 0
            if not front[side]:
                continue
            target = (project(now[list(face)]) * fine - 0.5).astype(np.float32)
            square = np.array([[0, 0], [128, 0], [128, 128], [0, 128]], np.float32) - 0.5
            warp = cv2.getPerspectiveTransform(square, target)
            lit = (sides[side] * (0.75 + 0.25 * abs(normal @ (0.3, -0.8, -0.5)))).astype(np.uint8)
            drawn = cv2.warpPerspective(
                lit, warp, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE
            )
            inside = cv2.fillConvexPoly(
                np.zeros_like(whole), np.rint(target * 16).astype(np.int32), 1, shift=4
            )
            picture[inside > 0] = drawn[inside > 0]
            whole |= inside
        small = cv2.resize(whole * 255, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        frames.append(cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
        masks.append((small > 127).astype(np.uint16) * 12501)
        pixels.append(project(points @ pose.T + place))
        seen.append(front[of_face])
    return np.stack(frames), np.stack(masks), np.stack(pixels), np.stack(seen)


MIDDLE = np.array([WIDTH / 2, HEIGHT / 2])
STEPS = np.arange(FRAMES)
MOTIONS = {
    "still": [np.eye(3) for _ in STEPS],
    "shift": [centred(np.eye(2), MIDDLE, MIDDLE + np.array((3.3 * t, -1.7 * t))) for t in STEPS],
    "turn": [centred(turned(4 * t), MIDDLE, MIDDLE) for t in STEPS],
    "grow": [centred(turned(0, 1.04**t), MIDDLE, MIDDLE) for t in STEPS],
    "shear": [centred(np.array([[1, 0.03 * t], [0, 1]]), MIDDLE, MIDDLE) for t in STEPS],
}


@pytest.mark.parametrize("name", MOTIONS)
def test_whole_pictures_that_move(name):
    """Includes the half pixel between OpenCV's coordinates and this project's."""
    maps = np.array(MOTIONS[name])
    frames, _ = filmed(maps)
    seeds = MIDDLE + np.random.default_rng(0).uniform(-70, 70, (25, 2))
    tracked = track(frames, seeds)
    apart = np.linalg.norm(tracked.points_px - carried(maps, seeds), axis=2)
    assert np.median(apart) < 0.1
    assert apart.max() < 0.5
    assert tracked.visible.mean() > 0.98


@pytest.mark.parametrize("masked", [True, False])
def test_disc_that_turns_by_180_degrees_and_travels_30_pixels_a_frame(masked):
    place = np.array([93.0, 160.0])
    maps = np.array(
        [centred(turned(180 / 13 * t), place, place + np.array((30 * t, 0))) for t in STEPS]
    )
    frames, masks = filmed(maps, disc(70, *place))
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    radii = np.linspace(5, 55, 30)[:, None]
    seeds = place + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    tracked = track(frames, seeds, masks=masks if masked else None)
    apart = np.linalg.norm(tracked.points_px - carried(maps, seeds), axis=2)[1:]
    assert np.median(apart) < 0.3
    assert np.percentile(apart, 90) < 1.5
    assert tracked.visible.mean() > 0.9


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full)])
def test_box_that_turns_by_180_degrees(seed, masked):
    """Sides come and go; points are followed while they are seen."""
    frames, masks, points, seen = turning_box(seed)
    mine = np.flatnonzero(seen[0])
    assert len(mine) > 20
    tracked = track(frames, points[0, mine], masks=masks if masked else None)
    apart = np.linalg.norm(tracked.points_px - points[:, mine], axis=2)[1:]
    there = seen[1:, mine]
    assert np.median(apart[there]) < 0.5
    assert (apart[there] < 1.5).mean() > 0.85
    found = tracked.visible[1:]
    assert there[found].mean() > 0.9, "precision"
    assert found[there].mean() > 0.8, "recall"
    assert np.median(apart[there & found]) < 0.3


def test_points_hidden_for_a_while_are_found_again():
    frames, _ = filmed(np.array([np.eye(3)] * FRAMES))
    frames[5:9, 120:200, 250:330] = texture(7, 80, 80)
    seeds = np.array([[290.0, 160.0], [100.0, 100.0], [150.0, 220.0]])
    tracked = track(frames, seeds)
    assert not tracked.visible[5:9, 0].any()
    assert tracked.visible[9:, 0].all()
    assert tracked.visible[:, 1:].all()
    assert np.abs(tracked.points_px - seeds).max() < 1


def test_flat_point_is_carried_by_its_neighbours_but_not_seen():
    maps = np.array([centred(np.eye(2), MIDDLE, MIDDLE + np.array((6 * t, 3 * t))) for t in STEPS])
    mask = disc(60, *MIDDLE)
    frames, masks = filmed(maps, mask)
    for t, move in enumerate(maps):
        x, y = (move[:2, :2] @ MIDDLE + move[:2, 2]).astype(int)
        cv2.circle(frames[t], (int(x), int(y)), 30, (90, 140, 60), -1)
    tracked = track(frames, MIDDLE[None], Options(), masks=masks)
    assert np.abs(tracked.points_px[:, 0] - carried(maps, MIDDLE[None])[:, 0]).max() < 2
    assert tracked.visible[:, 0].tolist() == [True] + [False] * 13


def test_far_flat_point_does_not_follow_a_moving_object():
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), 200, np.uint8)
    for t in range(FRAMES):
        frames[t, 100:200, 50 + 10 * t : 150 + 10 * t] = texture(3, 100, 100)
    seeds = np.array([[100.0, 150.0], [500.0, 40.0], [60.0, 300.0]])
    tracked = track(frames, seeds)
    np.testing.assert_allclose(tracked.points_px[:, 0, 0], 100 + 10 * STEPS, atol=0.5)
    assert tracked.visible[:, 0].all()
    assert np.abs(tracked.points_px[:, 1:] - seeds[1:]).max() < 1
    assert not tracked.visible[1:, 1:].any()


@pytest.mark.parametrize("known", ["first frame", "two of three frames", "not at the end"])
def test_masks_that_lack_the_object_in_some_frames(known):
    maps = np.array([centred(turned(5 * t), MIDDLE, MIDDLE + np.array((5 * t, 0))) for t in STEPS])
    frames, masks = filmed(maps, disc(60, *MIDDLE))
    if known == "first frame":
        masks = masks[:1]
    else:
        masks[slice(8, None) if known == "not at the end" else slice(2, None, 3)] = 0
    seeds = MIDDLE + np.random.default_rng(1).uniform(-30, 30, (10, 2))
    tracked = track(frames, seeds, masks=masks)
    apart = np.linalg.norm(tracked.points_px - carried(maps, seeds), axis=2)
    assert np.median(apart) < 0.5
    assert tracked.visible.mean() > 0.9


def test_point_that_leaves_the_picture_is_not_visible():
    maps = np.array([centred(np.eye(2), MIDDLE, MIDDLE - (25 * t, 0)) for t in STEPS])
    frames, _ = filmed(maps)
    seeds = np.array([[0.2, 160.0], [60.0, 0.0], [200.0, 160.0], [WIDTH - 0.01, HEIGHT - 0.01]])
    tracked = track(frames, seeds)
    x, y = tracked.points_px[..., 0], tracked.points_px[..., 1]
    inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    assert not (tracked.visible & ~inside).any()
    assert not tracked.visible[3:, 1].any()
    assert tracked.visible[0].all()


@pytest.mark.parametrize("masked", [True, False])
def test_equal_input_gives_equal_output_on_any_number_of_threads(masked):
    frames, masks, points, seen = turning_box(2)
    seeds = points[0, seen[0]]
    before, results = cv2.getNumThreads(), []
    try:
        for threads in (1, 2, 2):
            cv2.setNumThreads(threads)
            results.append(track(frames[:6], seeds, masks=masks[:6] if masked else None))
    finally:
        cv2.setNumThreads(before)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].points_px, other.points_px)
        np.testing.assert_array_equal(results[0].visible, other.visible)


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (3, 40), (HEIGHT, WIDTH)])
@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize("value", [0, 130, "noise"])
def test_pictures_that_show_nothing(size, num_frames, value):
    frames = np.full((num_frames, *size, 3), 0 if value == "noise" else value, np.uint8)
    if value == "noise":
        frames[:] = np.random.default_rng(0).integers(0, 255, frames.shape)
    seeds = np.array([[0.5, 0.5], [size[1] - 0.5, size[0] - 0.5]])
    for masks in (None, np.ones(frames.shape[:3], np.int32)):
        tracked = track(frames, seeds, masks=masks)
        assert tracked.points_px.shape == (num_frames, 2, 2)
        assert tracked.points_px.dtype == np.float32
        assert np.isfinite(tracked.points_px).all()
        np.testing.assert_array_equal(tracked.points_px[0], seeds)
        assert tracked.visible[0].all()
        if value != "noise":
            np.testing.assert_array_equal(tracked.points_px[-1], seeds)
            # An object that is all black still has an outline.
            assert masks is not None or not tracked.visible[1:].any()


def test_no_seeds():
    tracked = track(np.zeros((3, 20, 20, 3), np.uint8), np.zeros((0, 2)))
    assert tracked.points_px.shape == (3, 0, 2)
    assert tracked.visible.shape == (3, 0)


@pytest.mark.parametrize("seed", [(-0.1, 5), (5, 40), (60, 5), (np.nan, 5), (5, np.inf)])
def test_seeds_outside_the_picture(seed):
    with pytest.raises(UserError, match="60 x 40 pixels"):
        track(np.zeros((2, 40, 60, 3), np.uint8), np.array([(5, 5), seed], float))


def test_masks_of_another_video():
    frames = np.zeros((3, 40, 60, 3), np.uint8)
    for shape in ((2, 40, 60), (3, 60, 40), (40, 60)):
        with pytest.raises(UserError, match="masks of shape"):
            track(frames, np.array([[5.0, 5.0]]), masks=np.zeros(shape, np.uint8))
