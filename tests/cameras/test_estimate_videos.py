"""Cameras of the clips that come with the package, against the cameras they were rendered with."""

import json
from pathlib import Path

import numpy as np
import pytest

import posetraj_jax
from posetraj_jax.cameras import camera_npy
from posetraj_jax.cameras.estimate import Options, estimate
from posetraj_jax.data.camera_file import read_camera
from posetraj_jax.data.sources import open_source
from posetraj_jax.video import read_video

DATA = Path(posetraj_jax.__file__).parent / "data"
VIDEOS = sorted(path.name for path in (DATA / "videos/imgs").iterdir())
MOST_TURN_DEG, MOST_DIRECTION_DEG = 1.0, 10.0
ENOUGH_BASELINE = 0.1
"""Of the longest: below it, a direction means little."""
FOCAL_TOLD = {"orbit": True, "dolly": False, "truck": False, "crane": True}
"""Cameras that do not turn say nothing of their focal length."""


def angle_deg(rotations):
    cosine = (np.trace(rotations, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def between_deg(one, two):
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(two, axis=-1)
    return np.degrees(np.arccos(np.clip((one * two).sum(axis=-1) / lengths, -1, 1)))


def relative(rotations, translations):
    """Poses of later frames in the axes of earlier ones, for all pairs."""
    one, two = np.triu_indices(len(rotations), 1)
    turned = rotations[one].swapaxes(1, 2)
    shift = (turned @ (translations[two] - translations[one])[..., None])[..., 0]
    return turned @ rotations[two], shift


def aligned_error(path, truth):
    """Largest distance of two paths [f 3] after similarity, by the true way from end to end."""
    one, two = path - path.mean(axis=0), truth - truth.mean(axis=0)
    u, s, vt = np.linalg.svd(two.T @ one)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = np.trace(np.diag(s) @ sign) / (one**2).sum()
    off = scale * one @ (u @ sign @ vt).T - two
    return np.linalg.norm(off, axis=1).max() / np.linalg.norm(truth[-1] - truth[0])


def truth_of(name):
    camera = read_camera(DATA / f"videos/estimated_cam_rt/{name}/camera.npy")
    scene = json.loads((DATA / f"videos/scenes/{name}.json").read_text())
    return camera.rotations, camera.translations, np.array(scene["cameras"][0]["k"])


def check(found, name):
    rotations, translations, _ = truth_of(name)
    turns, shifts = relative(rotations, translations)
    found_turns, found_shifts = relative(found.rotations, found.translations)
    assert angle_deg(found_turns.swapaxes(1, 2) @ turns).max() <= MOST_TURN_DEG
    lengths = np.linalg.norm(shifts, axis=1)
    far = lengths > ENOUGH_BASELINE * lengths.max()
    assert between_deg(shifts[far], found_shifts[far]).max() <= MOST_DIRECTION_DEG
    assert aligned_error(found.translations, translations) <= 0.02
    assert found.motion == "moving"
    assert found.weak_frames == ()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if n == 0 else pytest.mark.full) for n, name in enumerate(VIDEOS)],
)
def test_known_intrinsics(name, tmp_path):
    frames, _ = read_video(DATA / "videos/imgs" / name)
    k = truth_of(name)[2]
    found = estimate(frames, k=k, options=Options(name=name))
    check(found, name)
    assert found.focal_source == "given"
    np.testing.assert_array_equal(found.k, k)
    camera_npy.write_camera(tmp_path / "camera.npy", found)
    read = read_camera(tmp_path / "camera.npy")
    np.testing.assert_allclose(read.translations, found.translations, atol=1e-6)
    np.testing.assert_allclose(read.rotations, found.rotations, atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("name", VIDEOS)
def test_unknown_intrinsics(name):
    frames, _ = read_video(DATA / "videos/imgs" / name)
    found = estimate(frames, options=Options(name=name))
    check(found, name)
    told = FOCAL_TOLD[name.split("_")[1]]
    assert found.focal_source == ("estimated" if told else "assumed")
    if told:
        assert abs(np.log(found.k[0, 0] / truth_of(name)[2][0, 0])) < 0.03
    else:
        assert found.k[0, 0] == frames.shape[2]


@pytest.mark.parametrize(
    "clip",
    [9, *(pytest.param(clip, marks=pytest.mark.full) for clip in (0, 3, 15))],
)
def test_still_camera_despite_what_moves(clip):
    frames = open_source(DATA / "clips")[clip].frames(0, 14)
    found = estimate(frames)
    assert found.motion == "still"
    assert (found.translations == 0).all()
    assert angle_deg(found.rotations).max() < 0.2
    assert found.scale.startswith("none")
