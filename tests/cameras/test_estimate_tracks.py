"""Cameras from tracks of points that are known exactly, but for noise and what moves."""

from typing import NamedTuple

import numpy as np
import pytest

from posetraj_jax.cameras.bundle import adjusted
from posetraj_jax.cameras.estimate import explained
from posetraj_jax.cameras.structure import Structure, agreeing, triangulated

K = np.array([[600.0, 0, 320], [0, 600.0, 180], [0, 0, 1]])
SIZE = 360, 640


class Synthetic(NamedTuple):
    tracks_px: np.ndarray
    rotations: np.ndarray
    """Camera to world; frame 0 is the world."""
    translations: np.ndarray


def about_y(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def about_x(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def path(motion, frames):
    """Camera to world."""
    along = np.linspace(0.0, 1.0, frames)
    turn = 0.0 if motion in ("still", "sideways") else 1.0
    rotations = np.stack([about_y(12 * turn * a) @ about_x(4 * turn * a**2) for a in along])
    shift = 0.0 if motion in ("still", "turning") else 1.0
    return rotations, shift * np.stack([-1.2 * along, 0.3 * along**2, 0.4 * along], axis=1)


def tracks(motion, structure, *, noise_px=0.3, outliers=0.3, frames=12, points=300, seed=0):
    """Points of a general scene or a plane, some moving by themselves, seen inside the picture."""
    rng = np.random.default_rng(seed)
    rotations, translations = path(motion, frames)
    world = rng.uniform([-5.0, -2.5, 4.0], [5.0, 2.5, 9.0], (points, 3))
    if structure == "plane":
        world[:, 2] = 6.0 + 0.4 * world[:, 0] + 0.3 * world[:, 1]
    steps = rng.normal(0.0, 0.06, (points, 3)) * (rng.random((points, 1)) < outliers)
    moved = world + np.arange(frames)[:, None, None] * steps
    view = (moved - translations[:, None]) @ rotations
    pixels = view[..., :2] / view[..., 2:] * np.diag(K)[:2] + K[:2, 2]
    inside = (pixels >= 0).all(axis=2) & (pixels < (SIZE[1], SIZE[0])).all(axis=2)
    pixels += rng.normal(0.0, noise_px, pixels.shape)
    pixels[~inside | (view[..., 2] < 0.5)] = np.nan
    twice = np.isfinite(pixels[..., 0]).sum(axis=0) >= 2
    return Synthetic(pixels[:, twice], rotations, translations)


def angle_deg(rotations):
    cosine = (np.trace(rotations, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def in_first(found):
    """Rotations and camera centres of an explanation in the axes of frame 0."""
    first = found.rotations[0].T
    return first @ found.rotations, (found.centres - found.centres[0]) @ first.T


def direction_deg(one, two):
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return np.degrees(np.arccos(np.clip((one * two).sum(axis=1) / lengths, -1, 1)))


@pytest.mark.parametrize("structure", ["general", "plane"])
@pytest.mark.parametrize("motion", ["moving", pytest.param("sideways", marks=pytest.mark.full)])
def test_moving_camera(motion, structure):
    truth = tracks(motion, structure)
    found = explained(truth.tracks_px, SIZE, K, "synthetic")
    rotations, centres = in_first(found)
    assert found.motion == "moving"
    assert found.scene.flat == (structure == "plane")
    assert angle_deg(rotations.swapaxes(1, 2) @ truth.rotations).max() < 0.5
    assert direction_deg(centres[3:], truth.translations[3:]).max() < 3.0


@pytest.mark.full
@pytest.mark.parametrize(("structure", "noise_px"), [("general", 0.3), ("plane", 0.1)])
def test_focal_length_of_a_camera_that_moves_and_turns(structure, noise_px):
    truth = tracks("moving", structure, noise_px=noise_px)
    found = explained(truth.tracks_px, SIZE, None, "synthetic")
    rotations, centres = in_first(found)
    assert found.focal_source == "estimated"
    assert abs(np.log(found.k[0, 0] / K[0, 0])) < 0.05
    assert angle_deg(rotations.swapaxes(1, 2) @ truth.rotations).max() < 1.0
    assert direction_deg(centres[3:], truth.translations[3:]).max() < 5.0


@pytest.mark.full
def test_plane_in_more_noise_does_not_tell_the_focal_length():
    found = explained(tracks("moving", "plane").tracks_px, SIZE, None, "synthetic")
    assert (found.motion, found.focal_source) == ("moving", "assumed")
    assert found.k[0, 0] == SIZE[1]


@pytest.mark.parametrize("structure", ["general", pytest.param("plane", marks=pytest.mark.full)])
@pytest.mark.parametrize("k", [K, None], ids=["known", "unknown"])
def test_camera_that_turns_has_no_translation(structure, k):
    truth = tracks("turning", structure)
    found = explained(truth.tracks_px, SIZE, k, "synthetic")
    assert found.motion == "turning"
    assert (found.centres == 0).all()
    error = angle_deg(found.rotations.swapaxes(1, 2) @ truth.rotations)
    assert error.max() < (0.1 if k is not None else 0.5)


@pytest.mark.parametrize("structure", ["general", pytest.param("plane", marks=pytest.mark.full)])
def test_still_camera_has_no_motion(structure):
    truth = tracks("still", structure)
    found = explained(truth.tracks_px, SIZE, None, "synthetic")
    assert found.motion == "still"
    assert (found.centres == 0).all()
    assert (found.rotations == np.eye(3)).all()


def test_same_tracks_same_cameras():
    truth = tracks("moving", "general")
    one, two = (explained(truth.tracks_px, SIZE, K, "synthetic") for _ in range(2))
    np.testing.assert_array_equal(one.rotations, two.rotations)
    np.testing.assert_array_equal(one.centres, two.centres)


def test_exact_tracks_give_exact_cameras():
    truth = tracks("moving", "general", noise_px=0.0, outliers=0.0)
    rotations, centres = in_first(explained(truth.tracks_px, SIZE, K, "synthetic"))
    assert angle_deg(rotations.swapaxes(1, 2) @ truth.rotations).max() < 1e-3
    assert direction_deg(centres[1:], truth.translations[1:]).max() < 1e-2


def test_adjustment_comes_back_from_where_it_was_pushed():
    truth = tracks("moving", "general", noise_px=0.0, outliers=0.0)
    rotations = truth.rotations.swapaxes(1, 2)
    shifts = -np.einsum("fij,fj->fi", rotations, truth.translations)
    frames, points = truth.tracks_px.shape[:2]
    empty = Structure(K, rotations, shifts, np.ones(frames, bool), np.full((points, 3), np.nan))
    exact = triangulated(empty, truth.tracks_px)
    pushed = exact._replace(
        translations=shifts + np.random.default_rng(0).normal(0, 0.002, shifts.shape)
    )
    back = adjusted(pushed, truth.tracks_px, agreeing(exact, truth.tracks_px))
    one, two = (each.centres - each.centres[0] for each in (back, exact))
    assert direction_deg(one[1:], two[1:]).max() < 0.05
