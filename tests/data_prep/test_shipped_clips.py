"""Every frame of the clips that come with the package, checked from their pixels."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import posetraj_jax
from data_prep.engines import verify
from data_prep.scenes import geometry
from posetraj_jax.data.records import check_clip, find_datasets, open_dataset

FOLDER = Path(posetraj_jax.__file__).parent / "data/clips"
IDS = open_dataset(FOLDER).clip_ids
MB = 1_000_000


@pytest.fixture(scope="module", params=range(len(IDS)), ids=IDS)
def clip(request):
    return open_dataset(FOLDER)[request.param]


@pytest.fixture(scope="module")
def masks(clip):
    return [verify.decode(png) for png in clip.masks_png]


def test_there_are_eight_of_each_curve_and_at_least_six_objects():
    notes = [open_dataset(FOLDER)[i].provenance for i in range(len(IDS))]
    assert sorted(note["curve"] for note in notes) == ["S"] * 8 + ["circle"] * 8
    assert len({note["object"] for note in notes}) >= 6


def test_files_are_small_enough_to_ship():
    sizes = [path.stat().st_size for path in find_datasets(FOLDER)[0].iterdir()]
    assert sum(sizes) <= 8 * MB
    assert max(sizes) <= 3 * MB


def test_format(clip):
    assert check_clip(clip) == (320, 576)
    assert len(clip.frames_jpeg) == 14
    assert (clip.fps, clip.licence, clip.camera_known) == (5.0, "CC0-1.0", True)
    assert {"floor", "centre", "surface"} == set(clip.track_kinds)


def test_box_contains_the_mask(clip, masks):
    for frame, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        pixels = np.stack([columns, rows], axis=-1) + 0.5
        # Signed distance from OpenCV, independent of what the renderer's own check computes.
        hull = cv2.convexHull(clip.box_px[frame, 0])
        inside = [cv2.pointPolygonTest(hull, p, True) for p in pixels[:: max(1, len(rows) // 500)]]
        assert min(inside) > -0.05, f"frame {frame}"
        assert verify.inside_distance(pixels, clip.box_px[frame, 0]).min() > -0.05, f"frame {frame}"


def test_object_touches_each_side_of_its_box(clip, masks):
    for frame, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        pixels = np.stack([columns, rows], axis=-1) + 0.5
        touching = verify.contacts(clip, frame, 0)
        assert sorted(touching) == [0, 1, 2, 3, 4, 5]
        for side, (pixel, world) in touching.items():
            face = clip.box_world[frame, 0][list(geometry.BOX_FACES[side])]
            normal = np.cross(face[1] - face[0], face[2] - face[0])
            assert abs((world - face[0]) @ normal) / np.linalg.norm(normal) < 1e-4
            k, rt = clip.camera_k[frame], clip.camera_rt[frame]
            np.testing.assert_allclose(geometry.project(world, k, rt), pixel, atol=0.01)
            assert np.linalg.norm(pixels - pixel, axis=1).min() <= 2.0, f"frame {frame} side {side}"


def test_mask_fills_the_outline_of_the_vertices(clip, masks):
    for frame, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        rectangle = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        outline = clip.provenance["mesh_rect_px"][frame][0]
        np.testing.assert_allclose(rectangle, outline, atol=2.0, err_msg=f"frame {frame}")


def test_floor_track_lies_under_the_object(clip, masks):
    floor = clip.track_kinds.index("floor")
    for frame, mask in enumerate(masks):
        point = clip.tracks_px[frame, floor]
        foot = clip.box_world[frame, 0, :4].mean(axis=0)
        assert foot[2] == pytest.approx(0, abs=1e-6)
        k, rt = clip.camera_k[frame], clip.camera_rt[frame]
        np.testing.assert_allclose(geometry.project(foot, k, rt), point, atol=0.01)
        assert verify.inside_distance(point[None], clip.box_px[frame, 0, :4]).min() > 0
        columns = np.nonzero(mask.any(axis=0))[0]
        assert columns[0] <= point[0] <= columns[-1] + 1


def test_boxes_poses_and_cameras_agree(clip):
    rest = geometry.transform(np.linalg.inv(clip.object_pose[0, 0]), clip.box_world[0, 0])
    low, high = rest.min(axis=0), rest.max(axis=0)
    np.testing.assert_allclose(rest, geometry.box_corners(low, high), atol=1e-6)
    np.testing.assert_allclose([(low + high)[0], (low + high)[1], low[2]], 0, atol=1e-6)
    assert (high - low).max() == pytest.approx(1, abs=1e-5)
    for frame in range(14):
        k, rt = clip.camera_k[frame], clip.camera_rt[frame]
        moved = geometry.transform(clip.object_pose[frame, 0], rest)
        np.testing.assert_allclose(moved, clip.box_world[frame, 0], atol=1e-6)
        projected = geometry.project(clip.box_world[frame, 0], k, rt)
        np.testing.assert_allclose(projected, clip.box_px[frame, 0], atol=0.01)
    np.testing.assert_allclose(clip.camera_k[0], geometry.official_k(576, 320), rtol=1e-6)
    np.testing.assert_allclose(clip.camera_rt[0], geometry.official_rt(), atol=1e-6)


def test_the_box_stays_in_the_picture(clip):
    assert geometry.inside_picture(clip.box_px, 576, 320).all()


def test_objects_look_where_they_go(clip):
    poses = clip.object_pose[:, 0].astype(np.float64)
    moved = np.diff(poses[:, :2, 3], axis=0)
    length = np.pi * (1.1 if clip.provenance["curve"] == "circle" else 0.98)
    # Chords are a little shorter than their arcs.
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), length / 13, rtol=0.02)
    front = -(poses[:-1, :2, 1] + poses[1:, :2, 1])
    front /= np.linalg.norm(front, axis=1, keepdims=True)
    unit = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    assert (unit * front).sum(axis=1).min() > 0.97


def test_surface_points_are_seen_on_the_object(clip, masks):
    """A visible surface point lies on (or right at the edge of) the object's own pixels."""
    surface = np.array([kind == "surface" for kind in clip.track_kinds])
    assert clip.tracks_visible[:, surface].any(axis=1).all()
    assert not clip.tracks_visible[:, surface].all(axis=1).any()
    for frame, mask in enumerate(masks):
        away = cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        points = clip.tracks_px[frame, surface & clip.tracks_visible[frame]].astype(int)
        assert away[points[:, 1], points[:, 0]].max() <= 2.0


def test_renderers_own_check_agrees(clip):
    assert verify.problems(clip) == []
