"""The videos that come with the package: their cameras and tracks, checked from their pixels."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import posetraj_jax
from data_prep.scenes import filmed, geometry
from data_prep.scenes.scene import from_json
from posetraj_jax.data.sources import open_source

FOLDER = Path(posetraj_jax.__file__).parent / "data/videos"
IDS = open_source(FOLDER).clip_ids
FRAMES, HEIGHT, WIDTH = 16, 360, 640
SKY_ROWS = 150
"""Rows from the top that may show what is no floor, or floor too far away to be sharp."""
MB = 1_000_000


@pytest.fixture(scope="module", params=range(len(IDS)), ids=IDS)
def clip(request):
    return open_source(FOLDER)[request.param]


@pytest.fixture(scope="module")
def frames(clip):
    return clip.frames(0, FRAMES)


@pytest.fixture(scope="module")
def extrinsics(clip):
    """World to camera [f 3 4], as camera.npy has it and nothing else."""
    camera = clip.camera(0, FRAMES).astype(np.float64)
    return np.concatenate([camera[:, :9].reshape(-1, 3, 3), camera[:, 9:, None]], axis=2)


@pytest.fixture(scope="module")
def scene(clip):
    return from_json((FOLDER / f"scenes/{clip.clip_id}.json").read_text())


@pytest.fixture(scope="module")
def warps(extrinsics):
    """[a, b] carries pixels of the floor from frame a to frame b."""
    k = filmed.camera_k()
    of_floor = [k @ np.concatenate([rt[:, :2], rt[:, 3:]], axis=1) for rt in extrinsics]
    return np.array([[b @ np.linalg.inv(a) for b in of_floor] for a in of_floor])


def warped(picture: np.ndarray, warp: np.ndarray) -> np.ndarray:
    # OpenCV counts pixels from their centres, the cameras from the corner of the picture.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return cv2.warpPerspective(picture, np.linalg.inv(half) @ warp @ half, (WIDTH, HEIGHT))


def test_one_video_for_each_motion_of_the_camera():
    assert [name.split("_")[1] for name in IDS] == ["orbit", "dolly", "truck", "crane"]
    source = open_source(FOLDER, min_frames=14)
    assert source.num_frames == (FRAMES,) * 4
    kinds = [source[i].tracks(0, 1).kinds for i in range(4)]
    assert all(sorted(k)[-3:] in (["object", "object", "stuff"], ["object", "stuff", "void"])
               for k in kinds)  # fmt: skip
    assert any("void" in k for k in kinds)


def test_files_are_small_enough_to_ship():
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(sizes) <= 3 * MB
    assert max(sizes) <= MB / 10


def test_format(clip, frames, scene):
    assert frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert clip.fps == 5.0 == scene.fps
    assert clip.camera(0, FRAMES).shape == (FRAMES, 12)
    assert clip.tracks(0, FRAMES).kinds.count("object") == 2
    assert (clip.tracks(0, FRAMES).points_px % 1 == 0).all()
    assert scene.clip_id == clip.clip_id


def test_camera_files_hold_the_cameras_of_the_scenes(extrinsics, scene):
    np.testing.assert_allclose(extrinsics, [camera.rt for camera in scene.cameras], atol=1e-5)
    for camera in scene.cameras:
        np.testing.assert_array_equal(camera.k, filmed.camera_k())


def test_tracks_of_the_floor_are_its_projections(clip, extrinsics, scene):
    tracks = clip.tracks(0, FRAMES)
    places = scene.about["floor_points"]
    of_floor = [name for name in ("0", "43") if name in places]  # in the order of the file
    assert len(of_floor) == len(places)
    for number, name in enumerate(of_floor):
        assert tracks.kinds[number] == {"0": "void", "43": "stuff"}[name]
        point = np.array(places[name])
        assert point[2] == 0
        pixels = [geometry.project(point, filmed.camera_k(), rt) for rt in extrinsics]
        np.testing.assert_allclose(pixels, tracks.points_px[:, number], atol=1.5)
        moved = np.linalg.norm(tracks.points_px[-1, number] - tracks.points_px[0, number])
        assert moved > 20, "a camera that stands still would pass this test"


def test_the_floor_moves_as_the_cameras_say(frames, warps):
    """Optical flow of what is left to explain, over three frames, where the floor itself moves."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    whole = np.full((HEIGHT, WIDTH), 255, np.uint8)
    for a in range(0, FRAMES - 3, 4):
        b, warp = a + 3, warps[a, a + 3]
        seen = cv2.erode(warped(whole, warp), np.ones((41, 41)), borderValue=0)
        seen[:SKY_ROWS] = 0
        there = cv2.cvtColor(frames[b], cv2.COLOR_RGB2GRAY)
        here = cv2.cvtColor(frames[a], cv2.COLOR_RGB2GRAY)
        left, moved = (
            np.median(np.linalg.norm(flow.calc(start, there, None), axis=-1)[seen > 0])
            for start in (warped(here, warp), here)
        )
        assert left < 0.7, f"frames {a} to {b}"
        assert moved > 5, f"frames {a} to {b}"


def test_tracks_lie_on_the_objects_and_on_the_floor(clip, frames, warps):
    """The floor alone is the median of all frames, each carried to where the camera is now."""
    tracks = clip.tracks(0, FRAMES)
    whole = np.ones((HEIGHT, WIDTH), np.uint8)
    for t in range(FRAMES):
        carried = np.stack([warped(frames[u], warps[u, t]) for u in range(FRAMES)])
        seen = np.stack([warped(whole, warps[u, t]) for u in range(FRAMES)]) > 0
        for number, kind in enumerate(tracks.kinds):
            if not tracks.visible[t, number]:
                continue
            x, y = tracks.points_px[t, number].astype(int)
            near = (slice(max(0, y - 3), y + 4), slice(max(0, x - 3), x + 4))
            patches = np.where(seen[:, *near, None], carried[:, *near], np.nan)
            off = np.abs(np.nanmedian(patches, axis=0) - frames[t][near]).max(axis=-1)
            if kind == "object":
                assert np.median(off) > 40, f"track {number} in frame {t}"
            else:
                assert np.median(off) < 20, f"track {number} in frame {t}"


def test_void_leaves_the_picture_and_objects_do_not(clip):
    tracks = clip.tracks(0, FRAMES)
    assert tracks.visible[0].all()
    for number, kind in enumerate(tracks.kinds):
        assert tracks.visible[:, number].all() == (kind != "void")


def test_every_camera_moves_as_its_name_says(clip, extrinsics):
    eyes = np.stack([geometry.camera_centre(rt) for rt in extrinsics])
    forward = extrinsics[:, 2, :3]
    steps = np.diff(eyes, axis=0)
    assert (np.linalg.norm(steps, axis=1) > 0.005).all()
    total, turned = eyes[-1] - eyes[0], np.linalg.norm(forward[-1] - forward[0])
    motion = clip.clip_id.split("_")[1]
    if motion == "orbit":
        np.testing.assert_allclose(np.linalg.norm(eyes[:, :2], axis=1), 5.4, atol=1e-4)
        assert turned > 0.4  # radians, nearly
    elif motion == "dolly":
        assert total @ forward[0] > 2
        assert turned < 1e-4
    elif motion == "truck":
        assert abs(total[0]) > 1.5
        assert np.abs(total[1:]).max() < 1e-4
        assert turned < 1e-4
    else:
        assert total[2] > 2
        assert np.abs(total[:2]).max() < 1e-4


def test_two_objects_travel_apart_from_each_other(scene):
    one, two = (np.array(thing.poses)[:, :2, 3] for thing in scene.objects)
    assert np.linalg.norm(one - two, axis=1).min() > 0.5
    for path in (one, two):
        assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() > 2
    assert len({thing.asset for thing in scene.objects}) == 2
