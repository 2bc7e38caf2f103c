import cv2
import numpy as np
import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.tracking import seeds
from posetraj_jax.tracking.lucas_kanade import track

HEIGHT, WIDTH = 120, 200


def noise(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 5 + 2, width // 5 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def test_innermost_pixel_of_every_segment():
    mask = np.zeros((20, 30), np.uint16)
    mask[5:12, 10:17] = 12402  # 7 x 7: the middle is unique
    mask[15:18, 3:6] = 43
    found = seeds.from_mask(mask)
    assert found.ids == (0, 43, 12402)
    assert found.points_px.dtype == np.float32
    np.testing.assert_array_equal(found.points_px[1:], [[4.5, 16.5], [13.5, 8.5]])
    x, y = found.points_px[0].astype(int)
    assert mask[y, x] == 0


def test_first_of_several_pixels_that_are_as_deep_and_never_the_picture_edge():
    found = seeds.from_mask(np.full((4, 9), 7, np.uint8))
    np.testing.assert_array_equal(found.points_px, [[1.5, 1.5]])


def test_every_point_lies_on_its_segment():
    rng = np.random.default_rng(0)
    mask = cv2.resize(rng.integers(0, 9, (9, 13)).astype(np.uint8), (130, 90), interpolation=0)
    found = seeds.from_mask(mask)
    assert list(found.ids) == sorted(np.unique(mask))
    columns, rows = found.points_px.astype(int).T
    assert mask[rows, columns].tolist() == list(found.ids)
    tracked = track(np.zeros((2, 90, 130, 3), np.uint8), found.points_px)
    assert tracked.visible[0].all()


def test_small_segments_may_be_left_out():
    mask = np.zeros((10, 10), np.uint8)
    mask[2, 2] = 5
    assert seeds.from_mask(mask).ids == (0, 5)
    assert seeds.from_mask(mask, least_pixels=2).ids == (0,)
    for bad, least in ((mask, 1000), (mask.astype(np.int32) - 1, 1), (mask[:0], 1)):
        with pytest.raises(UserError, match="No point can be taken"):
            seeds.from_mask(bad, least)


def test_given_points():
    found = seeds.from_points([(1, 2), (3.5, 4.25)], (5, 9))
    assert found.ids == (12500, 12501)
    np.testing.assert_array_equal(found.points_px, [[1, 2], [3.5, 4.25]])


@pytest.mark.parametrize(
    "points", [[], [(9, 1)], [(1, -1)], [(1, 2, 3)], [(1, 2), (3,)], [("a", 1)], [(np.nan, 1)], [1]]
)
def test_given_points_that_are_none(points):
    with pytest.raises(UserError, match="9 x 5 pixels"):
        seeds.from_points(points, (5, 9))


@pytest.fixture(scope="module")
def travelling():
    """A textured square that moves by 6 pixels a frame over a textured ground, and the ground."""
    frames = np.repeat(noise(0, HEIGHT, WIDTH)[None], 8, axis=0)
    for t, frame in enumerate(frames):
        frame[30:80, 20 + 6 * t : 70 + 6 * t] = noise(1, 50, 50)
    return frames


def on_square(points: np.ndarray) -> np.ndarray:
    x, y = points.T
    return (x > 20) & (x < 70) & (y > 30) & (y < 80)


def test_most_points_of_a_video_lie_on_what_moves(travelling):
    found = seeds.from_video(travelling, 8)
    assert found.ids == tuple(range(12500, 12508))
    assert on_square(found.points_px).tolist() == [True] * 6 + [False] * 2
    apart = np.linalg.norm(found.points_px[:, None] - found.points_px[None], axis=2)
    assert apart[~np.eye(8, dtype=bool)].min() > seeds.SPACING * np.hypot(HEIGHT, WIDTH)
    again = seeds.from_video(travelling, 8)
    np.testing.assert_array_equal(found.points_px, again.points_px)


def test_what_moves_is_what_departs_from_the_camera():
    """All moves to the left but the square, which stands still in the picture."""
    wide = noise(0, HEIGHT, WIDTH + 60)
    frames = np.stack([wide[:, 5 * t : 5 * t + WIDTH] for t in range(8)])
    frames[:, 30:80, 20:70] = noise(1, 50, 50)
    found = seeds.from_video(frames, 8)
    assert on_square(found.points_px)[:6].mean() > 0.8
    assert not on_square(found.points_px)[6:].any()


def test_still_video_gets_points_all_over(travelling):
    for frames in (travelling[:1], np.repeat(travelling[:1], 4, axis=0)):
        found = seeds.from_video(frames, 8)
        assert len(found.ids) == 8
        assert np.ptp(found.points_px, axis=0).min() > 0.7 * HEIGHT


def test_flat_video_has_no_points():
    with pytest.raises(UserError, match="flat"):
        seeds.from_video(np.full((3, 40, 50, 3), 9, np.uint8))


def test_tiny_video():
    found = seeds.from_video(noise(0, 8, 8)[None].repeat(3, axis=0), 4)
    assert 1 <= len(found.ids) <= 4
    assert ((found.points_px >= 0) & (found.points_px < 8)).all()
