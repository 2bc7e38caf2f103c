"""Builds a saved model (`data_prep.objects.model_file`) in Blender: one mesh, its own vertices.

Runs in the render environment only. No importer of Blender's is involved: every engine has the
same vertices, and files of strangers never come here.
"""

from pathlib import Path

import bpy
import numpy as np

from data_prep.engines.blender_models import new_surface
from data_prep.objects.model import Material, Model
from data_prep.objects.model_file import load_model

UV, COLOURS = "uv", "colours"


def add_object(model_file: Path, size: float, name: str) -> bpy.types.Object:
    """Adds a model to the scene, its largest side `size` metres long, standing on its origin.

    Raises:
        ValueError: the file is no model file.
        OSError: it cannot be read.
    """
    model = load_model(model_file)
    mesh = _mesh(model, size, name)
    textures: dict[int, bpy.types.Image] = {}
    for number, look in enumerate(model.materials):
        material = bpy.data.materials.new(f"{name}_{number}")
        _dress(material, look, textures, coloured=bool(mesh.color_attributes))
        mesh.materials.append(material)
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    return thing


def _mesh(model: Model, size: float, name: str) -> bpy.types.Mesh:
    mesh = bpy.data.meshes.new(name)
    num_triangles = len(model.triangles)
    mesh.vertices.add(len(model.vertices))
    mesh.vertices.foreach_set("co", (model.vertices * size).astype(np.float32).ravel())
    mesh.loops.add(3 * num_triangles)
    mesh.loops.foreach_set("vertex_index", model.triangles.ravel())
    mesh.polygons.add(num_triangles)
    mesh.polygons.foreach_set("loop_start", np.arange(num_triangles, dtype=np.int32) * 3)
    mesh.polygons.foreach_set("material_index", model.material_of)
    mesh.polygons.foreach_set("use_smooth", np.ones(num_triangles, dtype=bool))
    mesh.update(calc_edges=True)
    uv = model.uv * np.array([1, -1], np.float32) + np.array([0, 1], np.float32)  # v upwards
    mesh.uv_layers.new(name=UV).uv.foreach_set("vector", uv.ravel())
    if (model.colours != 1).any():
        layer = mesh.color_attributes.new(COLOURS, "FLOAT_COLOR", "CORNER")
        opaque = np.concatenate([model.colours, np.ones_like(model.colours[..., :1])], axis=-1)
        layer.data.foreach_set("color", opaque.ravel())
    mesh.normals_split_custom_set(model.normals.reshape(-1, 3))
    return mesh


def _dress(
    material: bpy.types.Material,
    look: Material,
    textures: dict[int, bpy.types.Image],
    *,
    coloured: bool,
) -> None:
    """Gives a material its look; `coloured` says whether the mesh has colours of its own."""
    shader = new_surface(material)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader.inputs["Metallic"].default_value = look.metallic
    shader.inputs["Roughness"].default_value = look.roughness
    if max(look.emissive) > 0:
        shader.inputs["Emission Color"].default_value = (*look.emissive, 1.0)
        shader.inputs["Emission Strength"].default_value = 1.0
    shader.inputs["Base Color"].default_value = (*look.base_colour, 1.0)
    colour = look.base_colour
    if coloured:
        tint = nodes.new("ShaderNodeVertexColor")
        tint.layer_name = COLOURS
        colour = _product(material, colour, tint.outputs["Color"])
    if look.texture is not None:
        picture = nodes.new("ShaderNodeTexImage")
        picture.image = _image(look.texture, material.name, textures)
        colour = _product(material, colour, picture.outputs["Color"])
        if look.alpha_cutoff > 0:
            _cut_holes(material, shader, picture.outputs["Alpha"], look.alpha_cutoff)
    if colour is not look.base_colour:
        links.new(colour, shader.inputs["Base Color"])


def _product(material: bpy.types.Material, one, other):
    """The product of a colour (three numbers, or an output of a node) and an output of a node."""
    node = material.node_tree.nodes.new("ShaderNodeVectorMath")
    node.operation = "MULTIPLY"
    if isinstance(one, tuple):
        node.inputs[0].default_value = one
    else:
        material.node_tree.links.new(one, node.inputs[0])
    material.node_tree.links.new(other, node.inputs[1])
    return node.outputs["Vector"]


def _image(pixels: np.ndarray, name: str, textures: dict[int, bpy.types.Image]) -> bpy.types.Image:
    """A picture inside the Blender file, from sRGB pixels whose first row is on top."""
    if id(pixels) not in textures:
        height, width = pixels.shape[:2]
        image = bpy.data.images.new(name, width, height, alpha=True)
        image.alpha_mode = "CHANNEL_PACKED"  # colours stay as they are where alpha is 0
        image.pixels.foreach_set((pixels[::-1].astype(np.float32) / 255.0).ravel())
        image.update()
        image.pack()
        textures[id(pixels)] = image
    return textures[id(pixels)]


def _cut_holes(material: bpy.types.Material, shader, alpha, cutoff: float) -> None:
    """Puts nothing at all where alpha is below the cutoff."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    below, mix = nodes.new("ShaderNodeMath"), nodes.new("ShaderNodeMixShader")
    below.operation = "LESS_THAN"
    below.inputs[1].default_value = cutoff
    links.new(alpha, below.inputs[0])
    links.new(below.outputs[0], mix.inputs["Fac"])
    links.new(shader.outputs["BSDF"], mix.inputs[1])
    links.new(nodes.new("ShaderNodeBsdfTransparent").outputs["BSDF"], mix.inputs[2])
    output = next(node for node in nodes if node.bl_idname == "ShaderNodeOutputMaterial")
    links.new(mix.outputs["Shader"], output.inputs["Surface"])
