"""The one form of every object from a file: triangles, looks and textures in plain arrays.

Both render engines read nothing else, so that annotations come from the same vertices. NumPy only:
the render environment reads it too, and has no jaxtyping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int32, UInt8

Array = np.ndarray


class Material(NamedTuple):
    """A surface. Colours are linear RGB in [0, 1]."""

    base_colour: tuple[float, float, float]
    """Multiplies the texture and the vertex colours."""
    metallic: float
    roughness: float
    emissive: tuple[float, float, float]
    texture: UInt8[Array, "h w 4"] | None
    """sRGB and alpha, first row on top; None for a plain colour."""
    alpha_cutoff: float
    """Where the texture's alpha (0 to 1) is below this, the surface has a hole; 0 for no holes.

    What a file declares half transparent has 0.5: there is no glass, a pixel is there or is not.
    """


class Model(NamedTuple):
    """An object that stands on z = 0 of its own frame, z up, looking along -y; see `normalised`."""

    vertices: Float64[Array, "v 3"]
    """Metres. Every one is a float32 number, so that an engine in float32 has the same."""
    triangles: Int32[Array, "t 3"]
    normals: Float32[Array, "t 3 3"]
    """Of each corner, unit length."""
    uv: Float32[Array, "t 3 2"]
    """Where each corner is in the texture: column / width, row / height; repeats beyond [0, 1]."""
    colours: Float32[Array, "t 3 3"]
    """Linear RGB of each corner, ones if the file has none."""
    material_of: Int32[Array, "t"]
    materials: tuple[Material, ...]


def sides(model: Model) -> tuple[float, float, float]:
    """Side lengths (x, y, z) of the box around all vertices, in the vertices' unit."""
    x, y, z = np.ptp(model.vertices, axis=0)
    return float(x), float(y), float(z)


def area(model: Model) -> float:
    """The sum of the areas of all triangles, in the vertices' unit squared."""
    return float(np.linalg.norm(doubled_areas(model.vertices, model.triangles), axis=-1).sum() / 2)


def doubled_areas(
    vertices: Float64[Array, "v 3"], triangles: Int32[Array, "t 3"]
) -> Float64[Array, "t 3"]:
    """A vector along each triangle's normal, twice as long as its area."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


def normalised(model: Model) -> Model:
    """The model with its largest side 1, centred in x and y, its lowest point on z = 0.

    Raises:
        ValueError: all vertices are in one place.

    Source: the official renderer (`normalize_scene`), which does the same to what Blender imports.
    """
    low, high = model.vertices.min(axis=0), model.vertices.max(axis=0)
    largest = (high - low).max()
    if not largest > 0:
        raise ValueError("all vertices are in one place")
    foot = np.array([*((low + high) / 2)[:2], low[2]])
    vertices = ((model.vertices - foot) / largest).astype(np.float32)
    return model._replace(vertices=vertices.astype(np.float64))
