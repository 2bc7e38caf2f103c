"""The built-in toys as models, for the engine that has no Blender: the same solids, unbevelled."""

import numpy as np

from data_prep.objects.colour import linear
from data_prep.objects.model import Material, Model
from data_prep.objects.parts import Part, merged
from data_prep.objects.polygons import triangulated
from data_prep.scenes import toys
from data_prep.scenes.shapes import Mesh

TOYS = tuple(f"{toys.BUILTIN}{name}" for name in toys.BUILDERS)
"""All but those that are Blender's own."""


def toy_model(asset: str) -> Model:
    """The normalised model of one of TOYS."""
    return merged([_part(part) for part in toys.BUILDERS[asset.removeprefix(toys.BUILTIN)]()])


def _part(part: toys.Part) -> Part:
    sizes = np.array([len(face) for face in part.mesh.faces])
    corners = np.concatenate([np.array(face) for face in part.mesh.faces])
    triangles, _ = triangulated(sizes, part.mesh.vertices[corners])
    return Part(
        part.mesh.vertices,
        _outwards(part.mesh, corners[triangles]),
        _material(part.material),
    )


def _outwards(mesh: Mesh, triangles: np.ndarray) -> np.ndarray:
    """Triangles that look outwards; a closed surface turned inside out has a negative volume."""
    a, b, c = (mesh.vertices[triangles[:, i]] for i in range(3))
    volume = (a * np.cross(b, c)).sum()
    return triangles if volume > 0 else triangles[:, ::-1]


def _material(name: str) -> Material:
    look = toys.MATERIALS[name]
    colour = tuple(float(c) for c in linear(np.array(look.colour, np.float32)))
    return Material(colour, look.metallic, look.roughness, (0.0, 0.0, 0.0), None, 0.0)
