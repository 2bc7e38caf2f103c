"""Models in Blender: built-in objects as one mesh each, with modifiers applied and materials.

Runs in the render environment only. `import bpy` must come before `bmesh` and `mathutils`, which
Blender brings along; the worker sees to that.
"""

import bmesh
import bpy
import numpy as np

from data_prep.scenes import toys
from data_prep.scenes.scene import SceneError

SMOOTH_BELOW_RAD = np.deg2rad(35.0)


def add_model(asset: str, size: float, name: str) -> bpy.types.Object:
    """Adds an object normalised to stand on its origin, its largest side `size` metres long.

    All modifiers are applied, so that the vertices are those that are rendered and a box around
    them is tight.

    Raises:
        SceneError: no such asset.
    """
    if asset not in toys.BUILTIN_ASSETS:
        raise SceneError(f"unknown asset {asset!r}, there are {', '.join(toys.BUILTIN_ASSETS)}")
    model = asset.removeprefix("builtin:")
    if model == "suzanne":
        mesh = _suzanne()
    else:
        mesh = _join([_part_mesh(part) for part in toys.BUILDERS[model]()])
    vertices = mesh_vertices(mesh)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    foot = np.array([*(low + high)[:2] / 2, low[2]])
    _set_vertices(mesh, (vertices - foot) * (size / (high - low).max()))
    mesh.set_sharp_from_angle(angle=SMOOTH_BELOW_RAD)
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    return thing


def mesh_vertices(mesh: bpy.types.Mesh) -> np.ndarray:
    """Vertex positions [n 3] in the mesh's own frame, float64."""
    flat = np.empty(3 * len(mesh.vertices), dtype=np.float32)
    mesh.vertices.foreach_get("co", flat)
    return flat.reshape(-1, 3).astype(np.float64)


def _set_vertices(mesh: bpy.types.Mesh, vertices: np.ndarray) -> None:
    mesh.vertices.foreach_set("co", vertices.astype(np.float32).ravel())
    mesh.update()


def _part_mesh(part: toys.Part) -> bpy.types.Mesh:
    mesh = bpy.data.meshes.new("part")
    mesh.from_pydata(part.mesh.vertices.tolist(), [], [list(face) for face in part.mesh.faces])
    _make_consistent(mesh)
    mesh.materials.append(_material(part.material))
    if part.bevel:
        mesh = _with_modifier(mesh, "BEVEL", width=part.bevel, segments=3, limit_method="ANGLE")
    return mesh


def _make_consistent(mesh: bpy.types.Mesh) -> None:
    """Turns all faces outwards and marks them smooth (sharp edges are split by angle later)."""
    work = bmesh.new()
    work.from_mesh(mesh)
    bmesh.ops.recalc_face_normals(work, faces=work.faces)
    for face in work.faces:
        face.smooth = True
    work.to_mesh(mesh)
    work.free()


def _with_modifier(mesh: bpy.types.Mesh, kind: str, **settings) -> bpy.types.Mesh:
    """The mesh with one modifier applied."""
    carrier = bpy.data.objects.new("carrier", mesh)
    bpy.context.scene.collection.objects.link(carrier)
    modifier = carrier.modifiers.new(kind, kind)
    for name, value in settings.items():
        setattr(modifier, name, value)
    evaluated = carrier.evaluated_get(bpy.context.evaluated_depsgraph_get())
    applied = bpy.data.meshes.new_from_object(evaluated)
    bpy.data.objects.remove(carrier)
    return applied


def _join(meshes: list[bpy.types.Mesh]) -> bpy.types.Mesh:
    """One mesh of several; faces keep their materials."""
    joined, slots = bmesh.new(), {}
    for mesh in meshes:
        slot = slots.setdefault(mesh.materials[0].name, len(slots))
        first = len(joined.faces)
        joined.from_mesh(mesh)
        joined.faces.ensure_lookup_table()
        for face in joined.faces[first:]:
            face.material_index = slot
    result = bpy.data.meshes.new("joined")
    joined.to_mesh(result)
    joined.free()
    for name in slots:
        result.materials.append(bpy.data.materials[name])
    return result


def _suzanne() -> bpy.types.Mesh:
    """Blender's monkey, smoothed; the eyes are white, all else purple."""
    mesh = bpy.data.meshes.new("suzanne")
    work = bmesh.new()
    bmesh.ops.create_monkey(work)
    for face in work.faces:
        face.smooth = True
        face.material_index = int(_island_size(face) < 100)
    work.to_mesh(mesh)
    work.free()
    for name in ("purple", "white"):
        mesh.materials.append(_material(name))
    return _with_modifier(mesh, "SUBSURF", levels=2)


def _island_size(face: bmesh.types.BMFace) -> int:
    """How many faces hang together with this one."""
    seen, border = {face}, [face]
    while border:
        linked = {f for edge in border.pop().edges for f in edge.link_faces} - seen
        seen |= linked
        border.extend(linked)
    return len(seen)


def _linear(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    """Linear RGB of an sRGB colour."""
    return tuple(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)


def _material(name: str) -> bpy.types.Material:
    if name in bpy.data.materials:
        return bpy.data.materials[name]
    look = toys.MATERIALS[name]
    material = bpy.data.materials.new(name)
    shader = new_surface(material)
    shader.inputs["Base Color"].default_value = (*_linear(look.colour), 1.0)
    shader.inputs["Roughness"].default_value = look.roughness
    shader.inputs["Metallic"].default_value = look.metallic
    return material


def new_surface(material: bpy.types.Material) -> bpy.types.Node:
    """Gives a material nothing but a Principled shader, which is returned."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    shader = nodes.new("ShaderNodeBsdfPrincipled")
    links.new(shader.outputs["BSDF"], nodes.new("ShaderNodeOutputMaterial").inputs["Surface"])
    return shader
