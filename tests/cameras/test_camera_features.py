"""Corners that are followed, and what cameras cannot be estimated from."""

import cv2
import numpy as np
import pytest

from posetraj_jax.cameras import features
from posetraj_jax.cameras.estimate import Options, estimate
from posetraj_jax.errors import UserError

HEIGHT, WIDTH, FRAMES = 180, 320, 6
STEP = 3.25


def texture(seed, width=WIDTH + 40):
    """A picture full of corners."""
    noise = np.random.default_rng(seed).uniform(0, 255, (HEIGHT // 4, width // 4))
    size = width, HEIGHT
    return cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def sliding(seed=0):
    """A picture that moves left by STEP pixels per frame."""
    wide = texture(seed)
    shifts = [np.array([[1, 0, -STEP * t], [0, 1, 0]]) for t in range(FRAMES)]
    return [cv2.warpAffine(wide, shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC) for shift in shifts]


def in_colour(greys):
    return np.repeat(np.stack(greys)[..., None], 3, axis=3)


def test_corners_move_as_the_picture_does():
    tracks = features.follow(sliding(), None, "sliding")
    steps = np.diff(tracks, axis=0)
    steps = steps[np.isfinite(steps[..., 0])]
    assert len(steps) > 500
    off = np.linalg.norm(steps - [-STEP, 0.0], axis=1)
    assert np.median(off) < 0.05
    assert np.percentile(off, 95) < 0.3


def test_positions_count_from_the_corner_of_the_picture():
    """A corner symmetric about a pixel is in its middle, at half a pixel."""
    grey = np.full((HEIGHT, WIDTH), 90, np.uint8)
    places = [(x, y) for x in range(20, WIDTH - 20, 20) for y in range(20, HEIGHT - 20, 20)]
    for x, y in places:
        grey[y - 2 : y + 3, x - 2 : x + 3] = 200
        grey[y, x] = 255
    tracks = features.follow([grey, grey], None, "dots")
    nearest = np.linalg.norm(tracks[0][:, None] - (np.array(places) + 0.5), axis=2).min(axis=1)
    assert (tracks[0] % 1 == 0.5).all()
    assert np.median(nearest) < 4


def test_masks_hide_what_they_cover_and_a_margin():
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    masks[:, 60:120, 100:200] = 7
    moving = features.moving_regions(masks, HEIGHT, WIDTH)
    tracks = features.follow(sliding(), moving, "masked")
    x, y = tracks[np.isfinite(tracks[..., 0])].T
    margin = features.MASK_MARGIN * WIDTH - 1
    inside = (x > 100 - margin) & (x < 200 + margin) & (y > 60) & (y < 120)
    assert len(x) > 300
    assert not inside.any()


def test_small_masks_survive_being_made_smaller():
    masks = np.zeros((1, 1080, 1920), np.uint16)
    masks[0, 500, 900] = 300
    assert features.moving_regions(masks, HEIGHT, WIDTH).any()


@pytest.mark.full
def test_work_at_a_smaller_size_gives_intrinsics_of_the_frames():
    large = [cv2.resize(grey, (1280, 720), interpolation=cv2.INTER_CUBIC) for grey in sliding()]
    found = estimate(in_colour(large), options=Options(work_width=320))
    np.testing.assert_allclose(found.k[:2, 2], [640, 360])


def cut():
    return in_colour([*sliding(0)[:3], *sliding(1)[:3]])


BAD = {
    "one frame": ({"frames": in_colour(sliding()[:1])}, "1 frame"),
    "flat": ({"frames": np.zeros((4, HEIGHT, WIDTH, 3), np.uint8)}, "frame 0 shows too little"),
    "cut": ({"frames": cut()}, "frame 3 does not follow frame 2"),
    "all masked": (
        {
            "frames": in_colour(sliding()),
            "masks": np.ones((FRAMES, HEIGHT, WIDTH), np.uint8),
        },
        "100% of the picture masked",
    ),
    "masks of another size": (
        {"frames": in_colour(sliding()), "masks": np.ones((FRAMES, 9, 9), np.uint8)},
        "masks of",
    ),
    "skew": (
        {"frames": in_colour(sliding()), "k": np.array([[9.0, 1, 5], [0, 9, 5], [0, 0, 1]])},
        "intrinsics",
    ),
    "scale": (
        {"frames": in_colour(sliding()), "options": Options(scale_value=float("nan"))},
        "scale_value nan",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_estimated_is_named(case):
    arguments, said = BAD[case]
    with pytest.raises(UserError) as caught:
        estimate(**{"options": Options(name="clip 7"), **arguments})
    assert said in str(caught.value)
    assert case == "scale" or "clip 7" in str(caught.value)


def test_noise_without_a_scene_is_no_camera():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="does not follow"):
        estimate(frames)
