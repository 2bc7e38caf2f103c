"""Solid shapes as plain vertex and face lists, from which the built-in objects are put together.

NumPy only. Every shape is a closed surface; faces may have any number of corners, and all faces of
a shape look outwards or all look inwards (an engine turns them outwards).
"""

from typing import NamedTuple

import numpy as np

AXES = {"x": 0, "y": 1, "z": 2}


class Mesh(NamedTuple):
    """Vertices [n 3] and faces as tuples of vertex numbers."""

    vertices: np.ndarray
    faces: tuple[tuple[int, ...], ...]

    def moved(self, x: float, y: float, z: float) -> "Mesh":
        """The mesh shifted by (x, y, z)."""
        return self._replace(vertices=self.vertices + np.array([x, y, z], dtype=np.float64))

    def scaled(self, x: float, y: float, z: float) -> "Mesh":
        """The mesh stretched about the origin."""
        return self._replace(vertices=self.vertices * np.array([x, y, z], dtype=np.float64))

    def turned(self, axis: str, degrees: float) -> "Mesh":
        """The mesh turned about 'x', 'y' or 'z' through the origin, right-handed."""
        i, j = ((AXES[axis] + step) % 3 for step in (1, 2))
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turned = self.vertices.copy()
        turned[:, i] = cos * self.vertices[:, i] - sin * self.vertices[:, j]
        turned[:, j] = sin * self.vertices[:, i] + cos * self.vertices[:, j]
        return self._replace(vertices=turned)


def box(x: float, y: float, z: float) -> Mesh:
    """A box of these side lengths about the origin."""
    return prism([(-y / 2, -z / 2), (y / 2, -z / 2), (y / 2, z / 2), (-y / 2, z / 2)], x)


def prism(outline: list[tuple[float, float]], width: float, axis: str = "x") -> Mesh:
    """A polygon drawn across `axis`, drawn out along it to `width` about the origin.

    The outline's coordinates are the two axes that follow `axis`: (y, z) for 'x', (z, x) for 'y'
    and (x, y) for 'z'.
    """
    i, n = AXES[axis], len(outline)
    vertices = np.zeros((2 * n, 3))
    vertices[:, [(i + 1) % 3, (i + 2) % 3]] = np.tile(np.array(outline), (2, 1))
    vertices[:, i] = np.repeat([-width / 2, width / 2], n)
    sides = tuple((a, (a + 1) % n, n + (a + 1) % n, n + a) for a in range(n))
    return Mesh(vertices, (*sides, tuple(range(n))[::-1], tuple(range(n, 2 * n))))


def lathe(profile: list[tuple[float, float]], segments: int = 48) -> Mesh:
    """A profile of (radius, z) turned about z; flat ends where it starts or stops off the axis.

    Inner points need a radius above 0.
    """
    angles = 2 * np.pi * np.arange(segments) / segments
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    rings = [np.array([*(radius * ring).T, np.full(segments, z)]).T for radius, z in profile]
    return _joined([r[:1] if p[0] == 0 else r for r, p in zip(rings, profile, strict=True)])


def ellipsoid(x: float, y: float, z: float, segments: int = 40) -> Mesh:
    """An ellipsoid of these half axes about the origin."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, segments // 2 + 1)
    profile = [(float(np.cos(a)), float(np.sin(a))) for a in angles]
    profile[0], profile[-1] = (0.0, -1.0), (0.0, 1.0)
    return lathe(profile, segments).scaled(x, y, z)


def cylinder(radius: float, length: float, axis: str = "z", segments: int = 40) -> Mesh:
    """A cylinder about the origin along `axis`."""
    mesh = lathe([(radius, -length / 2), (radius, length / 2)], segments)
    return mesh if axis == "z" else mesh.turned("y" if axis == "x" else "x", 90)


def tube(path: list[tuple[float, float]], radii: list[float], segments: int = 20) -> Mesh:
    """A round bar through points (y, z) of the plane x = 0, with a radius at each."""
    points = np.array(path, dtype=np.float64)
    along = np.gradient(points, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    angles = 2 * np.pi * np.arange(segments) / segments
    rings = []
    for point, (ty, tz), radius in zip(points, along, radii, strict=True):
        across = radius * np.sin(angles)
        rings.append(
            np.stack(
                [radius * np.cos(angles), point[0] - tz * across, point[1] + ty * across], axis=-1
            )
        )
    return _joined(rings)


def _joined(rings: list[np.ndarray]) -> Mesh:
    """Rings of equal size (or single points) joined in order; open ends are capped."""
    starts = np.cumsum([0, *(len(ring) for ring in rings)])
    segments = max(len(ring) for ring in rings)
    faces: list[tuple[int, ...]] = []
    for low, high in zip(range(len(rings) - 1), range(1, len(rings)), strict=True):
        for a in range(segments):
            b = (a + 1) % segments
            corners = [
                *(starts[low] + np.array([a, b]) % len(rings[low])),
                *(starts[high] + np.array([b, a]) % len(rings[high])),
            ]
            faces.append(tuple(dict.fromkeys(int(c) for c in corners)))
    for end in (0, len(rings) - 1):
        if len(rings[end]) > 1:
            cap = tuple(range(int(starts[end]), int(starts[end]) + len(rings[end])))
            faces.append(cap if end else cap[::-1])
    return Mesh(np.concatenate(rings), tuple(faces))
