"""The z-buffer against what OpenCV fills and what the geometry says."""

import cv2
import numpy as np
import pytest

from data_prep.engines import raster
from data_prep.scenes import geometry

WIDTH, HEIGHT = 64, 48
K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
FRONT = np.concatenate([np.eye(3), np.zeros((3, 1))], axis=1)
"""A camera at the origin that looks along +z."""


def triangles(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = rng.uniform([-2, -1.5, 3], [2, 1.5, 6], (count, 1, 3))
    return middle + rng.normal(0, 0.6, (count, 3, 3))


def ray_depths(corners: np.ndarray, per_pixel: int = 1) -> np.ndarray:
    """[t h w] depth where the ray through a sample meets each triangle, else infinite."""
    scale = 1 / per_pixel
    y, x = np.mgrid[: HEIGHT * per_pixel, : WIDTH * per_pixel]
    pixels = np.stack([(x + 0.5) * scale, (y + 0.5) * scale, np.ones_like(x)], axis=-1)
    rays = pixels @ np.linalg.inv(K).T
    depths = []
    for a, b, c in corners:
        edges = [np.broadcast_to(edge, rays.shape) for edge in (b - a, c - a)]
        matrix = np.stack([*edges, -rays], axis=-1)
        solved = np.linalg.solve(matrix, np.broadcast_to(-a, rays.shape)[..., None])[..., 0]
        u, v, depth = np.moveaxis(solved, -1, 0)
        depths.append(np.where((u >= 0) & (v >= 0) & (u + v <= 1), depth, np.inf))
    return np.array(depths)


@pytest.mark.parametrize("per_pixel", [1, 2])
def test_every_sample_shows_the_nearest_triangle(per_pixel):
    corners = triangles(12)
    hits = raster.nearest(raster.project(corners, K, FRONT), WIDTH, HEIGHT, per_pixel)
    depths = ray_depths(corners, per_pixel)
    nearest = depths.min(axis=0)
    hit = hits.triangle >= 0
    assert (hit == np.isfinite(nearest)).mean() > 0.999  # rounding at edges
    both = hit & np.isfinite(nearest)
    np.testing.assert_allclose(1 / hits.inverse_depth[both], nearest[both], rtol=1e-5)
    assert (hits.triangle[both] == depths.argmin(axis=0)[both]).mean() > 0.999
    assert (hits.inverse_depth[~hit] == 0).all()


def test_a_mesh_has_neither_gaps_nor_doubles():
    """Two triangles that share an edge cover each sample of their square once."""
    square = np.array([[-1, -1, 4], [1, -1, 4], [1, 1, 4], [-1, 1, 4.0]])
    for turn in np.linspace(0, 1.5, 7):
        cos, sin = np.cos(turn), np.sin(turn)
        corners = square @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        halves = [corners[[0, 1, 2]], corners[[0, 2, 3]]]
        seen = [
            raster.covered(raster.project(half[None], K, FRONT), WIDTH, HEIGHT) for half in halves
        ]
        assert not (seen[0] & seen[1]).any()
        both = raster.covered(raster.project(np.array(halves), K, FRONT), WIDTH, HEIGHT)
        np.testing.assert_array_equal(both, seen[0] | seen[1])
        assert abs(both.sum() - 30**2) <= 4


def test_filling_agrees_with_opencv():
    for corners in triangles(20, seed=1):
        projected = raster.project(corners[None], K, FRONT)
        ours = raster.covered(projected, WIDTH, HEIGHT)
        theirs = np.zeros((HEIGHT, WIDTH), np.uint8)
        shifted = np.rint((projected.pixels[0] - 0.5) * 256).astype(np.int32)
        cv2.fillPoly(theirs, [shifted], 1, shift=8)
        # OpenCV draws the border too.
        inner = cv2.erode(theirs, np.ones((3, 3), np.uint8))
        assert (ours >= inner.astype(bool)).all()
        assert (ours <= theirs.astype(bool)).all()


def test_equal_depths_show_the_first_triangle():
    one = triangles(1)[0]
    hits = raster.nearest(raster.project(np.array([one, one]), K, FRONT), WIDTH, HEIGHT)
    assert set(np.unique(hits.triangle)) == {-1, 0}


def test_how_samples_are_grouped_changes_nothing(monkeypatch):
    projected = raster.project(triangles(30), K, FRONT)
    whole = raster.nearest(projected, WIDTH, HEIGHT)
    monkeypatch.setattr(raster, "MOST_AT_ONCE", 50)
    parts = raster.nearest(projected, WIDTH, HEIGHT)
    np.testing.assert_array_equal(whole.triangle, parts.triangle)
    np.testing.assert_array_equal(whole.inverse_depth, parts.inverse_depth)


def test_triangles_behind_and_edge_on_are_left_out():
    behind, edge_on = triangles(2)
    behind = behind - [0, 0, 20]
    edge_on = np.array([[0, 0, 3], [0, 0, 5], [0, 0, 4.0]])
    assert len(raster.project(np.array([behind, edge_on]), K, FRONT).index) == 0
    kept = raster.project(np.array([behind, *triangles(1)]), K, FRONT)
    assert kept.index.tolist() == [1]
    empty = raster.project(np.zeros((0, 3, 3)), K, FRONT)
    assert not raster.covered(empty, WIDTH, HEIGHT).any()
    assert (raster.nearest(empty, WIDTH, HEIGHT).triangle == -1).all()


def test_holes_show_what_is_behind():
    near, far = triangles(1)[0], triangles(1)[0] + [0, 0, 1.0]
    projected = raster.project(np.array([near, far * 1.3]), K, FRONT)
    solid = raster.nearest(projected, WIDTH, HEIGHT)
    holed = raster.nearest(
        projected, WIDTH, HEIGHT, holes=lambda number, x, y: (number == 0) & (x < 32)
    )
    columns = np.arange(WIDTH) + 0.5 < 32
    assert (solid.triangle[:, columns] == 0).any() or (solid.triangle[:, ~columns] == 0).any()
    assert (holed.triangle[:, columns] != 0).all()
    np.testing.assert_array_equal(holed.triangle[:, ~columns], solid.triangle[:, ~columns])


def test_shares_are_right_in_perspective():
    corners = triangles(1, seed=3)
    projected = raster.project(corners, K, FRONT)
    wanted = np.array([[0.2, 0.3, 0.5], [0.8, 0.1, 0.1]])
    places = geometry.project(wanted @ corners[0], K, FRONT)
    shares = raster.perspective_shares(projected, np.zeros(2, int), places[:, 0], places[:, 1])
    np.testing.assert_allclose(shares, wanted, atol=1e-9)
