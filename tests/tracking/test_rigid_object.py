"""A textured object that turns too fast for flow, whose motion is known exactly."""

import cv2
import numpy as np
import pytest
from test_lucas_kanade import rotation, turning_box

from posetraj_jax.cameras.structure import Structure, agreeing
from posetraj_jax.tracking import affine_start, object_features, rigid_motion, rigid_object
from posetraj_jax.tracking.lucas_kanade import track

FOCAL, WIDTH, HEIGHT = 600.0, 576, 320
K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])


def cloud(degrees: float, frames: int, noise_px: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Tracks [f p 2] of points of a ball, seen while they face the camera, and its turns."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 3))
    points *= 40 / np.linalg.norm(points, axis=1, keepdims=True)
    axis = np.array([0.2, 1, 0.1])
    turns = np.stack(
        [rotation((1, 0, 0), 0.4) @ rotation(axis, np.radians(degrees) * t) for t in range(frames)]
    )
    place = np.stack([20.0 * (np.arange(frames) - frames / 2), np.zeros(frames)], axis=1)
    view = points @ turns.swapaxes(1, 2) + np.insert(place, 2, FOCAL, axis=1)[:, None]
    tracks = view[..., :2] / view[..., 2:] * FOCAL + K[:2, 2]
    tracks += rng.normal(size=tracks.shape) * noise_px
    tracks[view[..., 2] > FOCAL - 8] = np.nan
    return tracks[:, np.isfinite(tracks[..., 0]).sum(axis=0) >= 2], turns


def turned_by(rotations: np.ndarray) -> np.ndarray:
    """Degrees from each frame to the next."""
    steps = rotations[1:] @ rotations[:-1].swapaxes(1, 2)
    cosines = (np.trace(steps, axis1=1, axis2=2) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


@pytest.mark.parametrize("degrees", [12, 25])
@pytest.mark.parametrize("wrong", [1.0, 0.85])
def test_poses_from_tracks(degrees, wrong):
    """Even if the focal length is wrong by some percent."""
    tracks, _ = cloud(degrees, 10)
    k = K * np.array([[wrong], [wrong], [1]])
    k[:2, 2] = K[:2, 2]
    scene = rigid_motion.reconstructed(tracks, k)
    assert scene is not None
    assert scene.posed.all()
    assert np.abs(turned_by(scene.rotations) - degrees).max() < 1.5
    assert agreeing(scene, tracks).sum() > 0.97 * np.isfinite(tracks[..., 0]).sum()


def test_wrong_tracks_are_left_out():
    tracks, _ = cloud(15, 8)
    rng = np.random.default_rng(1)
    wrong = rng.random(tracks.shape[:2]) < 0.1
    tracks[wrong] += rng.normal(size=(wrong.sum(), 2)) * 15
    scene = rigid_motion.reconstructed(tracks, K)
    assert scene is not None
    assert scene.posed.all()
    assert np.abs(turned_by(scene.rotations) - 15).max() < 2


@pytest.mark.parametrize("kind", ["noise", "none", "few"])
def test_what_is_not_rigid_has_no_model(kind):
    tracks = np.random.default_rng(0).uniform(0, 300, (8, 60, 2))
    tracks = {"noise": tracks, "none": tracks[:, :0], "few": tracks[:, :5]}[kind]
    assert rigid_motion.reconstructed(tracks, K) is None


def test_three_frames_tell_how_far_a_ball_turned():
    tracks, _ = cloud(20, 3, 0.0)
    assert affine_start.triples(tracks, 2) == [(0, 1, 2)]
    starts = affine_start.starts(tracks, K, (0, 1, 2))
    assert len(starts) == 2
    assert min(np.abs(turned_by(scene.rotations) - 20).max() for scene in starts) < 6


def test_features_are_placed_by_the_poses_that_are_known():
    """As if nothing else were there: not by frames without a pose, nor beside other features."""
    tracks, turns = cloud(12, 6, 0.0)
    place = np.stack([20.0 * (np.arange(6) - 3), np.zeros(6), np.full(6, FOCAL)], axis=1)
    posed = np.isin(np.arange(6), [1, 2, 4])
    empty = np.zeros((tracks.shape[1], 3))
    scene = Structure(K, turns, place, posed, empty)
    points = rigid_motion.placed(scene, tracks).points
    twice = np.isfinite(tracks[posed, :, 0]).sum(axis=0) >= 2
    assert 0 < twice.sum() < len(twice)
    np.testing.assert_array_equal(np.isfinite(points[:, 0]), twice)
    np.testing.assert_allclose(np.linalg.norm(points[twice], axis=1), 40, atol=1e-3)
    hidden = np.where(posed[:, None, None], tracks, np.nan)
    again = rigid_motion.placed(scene, hidden[:, twice]).points
    np.testing.assert_array_equal(again, points[twice])


def test_features_are_matched_where_they_are():
    """They agree with the true motion of the box, and every one is seen twice."""
    frames, masks, _, _ = turning_box(0)
    tracks = object_features.matched(frames, (masks > 0).astype(np.uint8))
    seen = np.isfinite(tracks[..., 0])
    assert tracks.shape[1] > 300
    assert (seen.sum(axis=0) >= 2).all()
    steps = np.arange(len(frames))
    turns = [
        rotation((1, 0, 0), 0.5) @ rotation((0.1, 1, 0.05), np.pi * t / 13 + 0.35) for t in steps
    ]
    places = [(26 * (t - 6.5), 30 * np.sin(0.24 * t), FOCAL) for t in steps]
    empty = np.zeros((tracks.shape[1], 3))
    truth = Structure(K, np.array(turns), np.array(places), np.ones(len(frames), bool), empty)
    agreed = agreeing(rigid_motion.placed(truth, tracks), tracks)
    assert agreed.sum() > 0.85 * seen.sum()


def test_box_that_turns_by_28_degrees_a_frame():
    frames, masks, points, seen = (array[::2] for array in turning_box(0))
    mine = np.flatnonzero(seen[0])
    tracked = track(frames, points[0, mine], masks=masks)
    apart = np.linalg.norm(tracked.points_px - points[:, mine], axis=2)[1:]
    assert np.median(apart[seen[1:, mine]]) < 1.5
    assert np.isfinite(tracked.points_px).all()


def test_equal_results_on_any_number_of_threads():
    frames, masks, points, seen = (array[::2] for array in turning_box(2))
    own = (masks > 0).astype(np.uint8)
    seeds = points[0, seen[0]]
    held = np.repeat(seeds[None], len(frames), axis=0)
    unseen = np.zeros(held.shape[:2], bool)
    threads, results = cv2.getNumThreads(), []
    try:
        for number in (1, 2):
            cv2.setNumThreads(number)
            results.append(rigid_object.found_again(frames, own, held, unseen))
    finally:
        cv2.setNumThreads(threads)
    assert results[0] is not None
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_flat_object_is_left_to_flow():
    frames = np.full((4, 60, 80, 3), 90, np.uint8)
    masks = np.zeros((4, 60, 80), np.uint8)
    masks[:, 20:40, 30:60] = 1
    held = np.full((4, 3, 2), 35.0)
    assert rigid_object.found_again(frames, masks, held, np.zeros((4, 3), bool)) is None
