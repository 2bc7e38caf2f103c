"""Puts a scene description on Blender's stage: models, floor, light, camera, render settings.

Runs in the render environment only (`make render-env`); the package never imports it. Only an
earlier `import bpy` makes `bmesh` and `mathutils` known to Python.
"""

import bmesh
import bpy
import numpy as np
from mathutils import Matrix

from data_prep import objects
from data_prep.scene import Camera, Floor, Light, Scene, SceneError

FLOOR_HALF_SIDE = 30.0
SMOOTH_BELOW_RAD = np.deg2rad(35.0)
SENSOR_MM = 36.0
BOUNCES = 4


def empty_stage() -> bpy.types.Scene:
    """A new Blender file without anything in it."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    return bpy.context.scene


def add_model(asset: str, size: float, name: str) -> bpy.types.Object:
    """Adds an object normalised to stand on its origin, its largest side `size` metres long.

    All modifiers are applied, so that the vertices are those that are rendered and a box around
    them is tight.

    Raises:
        SceneError: no such asset.
    """
    kind, _, model = asset.partition(":")
    if kind != "builtin" or asset not in objects.BUILTIN_ASSETS:
        raise SceneError(f"unknown asset {asset!r}, there are {', '.join(objects.BUILTIN_ASSETS)}")
    raw = _suzanne() if model == "suzanne" else _from_parts(objects.BUILDERS[model]())
    mesh = raw[0] if len(raw) == 1 else _join(raw)
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


def _from_parts(parts: list[objects.Part]) -> list[bpy.types.Mesh]:
    return [_part_mesh(part) for part in parts]


def _part_mesh(part: objects.Part) -> bpy.types.Mesh:
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


def _suzanne() -> list[bpy.types.Mesh]:
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
    return [_with_modifier(mesh, "SUBSURF", levels=2)]


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
    look = objects.MATERIALS[name]
    material = bpy.data.materials.new(name)
    shader = _surface(material)
    shader.inputs["Base Color"].default_value = (*_linear(look.colour), 1.0)
    shader.inputs["Roughness"].default_value = look.roughness
    shader.inputs["Metallic"].default_value = look.metallic
    return material


def _surface(material: bpy.types.Material) -> bpy.types.Node:
    """A fresh Principled shader wired to the material's output."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    shader = nodes.new("ShaderNodeBsdfPrincipled")
    links.new(shader.outputs["BSDF"], nodes.new("ShaderNodeOutputMaterial").inputs["Surface"])
    return shader


def add_floor(floor: Floor) -> None:
    """A large plane on z = 0 with square tiles, each slightly different, and grout between."""
    side = FLOOR_HALF_SIDE
    mesh = bpy.data.meshes.new("floor")
    mesh.from_pydata(
        [(-side, -side, 0), (side, -side, 0), (side, side, 0), (-side, side, 0)], [], [(0, 1, 2, 3)]
    )
    mesh.materials.append(_tiles(floor))
    bpy.context.scene.collection.objects.link(bpy.data.objects.new("floor", mesh))


def _tiles(floor: Floor) -> bpy.types.Material:
    material = bpy.data.materials.new("tiles")
    shader = _surface(material)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    place = nodes.new("ShaderNodeTexCoord").outputs["Object"]  # metres, as the plane is not scaled
    tiles = nodes.new("ShaderNodeTexBrick")
    tiles.offset = 0.0
    first, second = ((*colour, 1.0) for colour in floor.colours)
    for name, value in {
        "Color1": first,
        "Color2": second,
        "Mortar": (*floor.grout_colour, 1.0),
        "Scale": 1.0,
        "Mortar Size": floor.grout / 2,
        "Mortar Smooth": 0.2,
        "Brick Width": floor.tile,
        "Row Height": floor.tile,
    }.items():
        tiles.inputs[name].default_value = value
    bump = nodes.new("ShaderNodeBump")
    bump.invert = True
    bump.inputs["Strength"].default_value = 0.4
    bump.inputs["Distance"].default_value = 0.01
    links.new(place, tiles.inputs["Vector"])
    links.new(tiles.outputs["Fac"], bump.inputs["Height"])
    links.new(_clouded(nodes, links, place, tiles.outputs["Color"]), shader.inputs["Base Color"])
    links.new(bump.outputs["Normal"], shader.inputs["Normal"])
    shader.inputs["Roughness"].default_value = 0.5
    shader.inputs["Specular IOR Level"].default_value = 0.2  # more would wash the colours out
    return material


def _clouded(nodes, links, place, colour):
    """The colour darkened softly in places, as worn stone is."""
    noise, fade = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeMapRange")
    noise.inputs["Scale"].default_value, noise.inputs["Detail"].default_value = 2.5, 3.0
    for name, value in {"From Min": 0.3, "From Max": 0.7, "To Min": 0.8, "To Max": 1.1}.items():
        fade.inputs[name].default_value = value
    multiply = nodes.new("ShaderNodeVectorMath")
    multiply.operation = "SCALE"
    links.new(place, noise.inputs["Vector"])
    links.new(noise.outputs["Fac"], fade.inputs["Value"])
    links.new(colour, multiply.inputs[0])
    links.new(fade.outputs["Result"], multiply.inputs["Scale"])
    return multiply.outputs["Vector"]


def add_light(light: Light) -> None:
    """A sun with a soft edge and a sky that fades from the horizon to the zenith."""
    sun = bpy.data.lights.new("sun", "SUN")
    sun.energy, sun.angle = light.sun_strength, np.deg2rad(2.0)
    lamp = bpy.data.objects.new("sun", sun)
    # A lamp shines along its -z: tilt it from the zenith, then turn it to the azimuth.
    tilt, turn = np.deg2rad(90.0 - light.sun_elevation_deg), np.deg2rad(light.sun_azimuth_deg + 90)
    lamp.rotation_euler = (tilt, 0.0, turn)
    bpy.context.scene.collection.objects.link(lamp)
    bpy.context.scene.world = _sky(light)


def _sky(light: Light) -> bpy.types.World:
    world = bpy.data.worlds.new("sky")
    nodes, links = world.node_tree.nodes, world.node_tree.links
    height = nodes.new("ShaderNodeSeparateXYZ")
    fade = nodes.new("ShaderNodeValToRGB")
    for element, colour in zip(
        fade.color_ramp.elements, (light.sky_horizon, light.sky_zenith), strict=True
    ):
        element.color = (*colour, 1.0)
    background = next(n for n in nodes if n.bl_idname == "ShaderNodeBackground")
    background.inputs["Strength"].default_value = light.sky_strength
    links.new(nodes.new("ShaderNodeTexCoord").outputs["Generated"], height.inputs["Vector"])
    links.new(height.outputs["Z"], fade.inputs["Fac"])
    links.new(fade.outputs["Color"], background.inputs["Color"])
    return world


def set_camera(camera: Camera, width: int, height: int) -> None:
    """Places the one camera and sets lens and pixel shape so that it projects exactly like `k`."""
    stage = bpy.context.scene
    if stage.camera is None:
        stage.camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
        stage.collection.objects.link(stage.camera)
    (fx, _, cx), (_, fy, cy), _ = camera.k
    lens, render = stage.camera.data, stage.render
    lens.sensor_fit, lens.sensor_width, lens.clip_start = "HORIZONTAL", SENSOR_MM, 0.1
    lens.lens = fx / width * SENSOR_MM
    # Blender takes pixel shapes of 1 and above only.
    render.pixel_aspect_x, render.pixel_aspect_y = max(1.0, fy / fx), max(1.0, fx / fy)
    lens.shift_x = (width / 2 - cx) / width
    lens.shift_y = (cy - height / 2) / width * fx / fy
    rt = np.array(camera.rt)
    pose = np.eye(4)
    # Blender's camera looks along -z with y up: flip OpenCV's y and z.
    pose[:3, :3] = rt[:, :3].T * np.array([1.0, -1.0, -1.0])
    pose[:3, 3] = -rt[:, :3].T @ rt[:, 3]
    stage.camera.matrix_world = Matrix(pose.tolist())


def set_quality(scene: Scene, threads: int) -> None:
    """Cycles on the CPU with few samples and a denoiser; colours as they are (no film look)."""
    stage = bpy.context.scene
    render, cycles = stage.render, stage.cycles
    render.engine, cycles.device = "CYCLES", "CPU"
    render.resolution_x, render.resolution_y = scene.width, scene.height
    render.resolution_percentage = 100
    render.threads_mode, render.threads = "FIXED", threads
    render.use_persistent_data, render.film_transparent = True, False
    cycles.samples, cycles.use_adaptive_sampling, cycles.seed = scene.samples, False, scene.seed
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.max_bounces = BOUNCES
    stage.view_settings.view_transform = "Standard"
    image = render.image_settings
    image.file_format, image.color_mode, image.color_depth = "PNG", "RGB", "8"
    image.compression = 30


def switch_to_masks() -> None:
    """From now on renders show each object's `pass_index` as the grey level of its pixels, exactly.

    One ray goes through the centre of every pixel: no filter, no lighting, no denoising.
    """
    stage = bpy.context.scene
    material = bpy.data.materials.new("index")
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    emission, level = nodes.new("ShaderNodeEmission"), nodes.new("ShaderNodeMath")
    level.operation = "DIVIDE"
    level.inputs[1].default_value = 255.0
    links.new(nodes.new("ShaderNodeObjectInfo").outputs["Object Index"], level.inputs[0])
    links.new(level.outputs[0], emission.inputs["Strength"])
    output = nodes.new("ShaderNodeOutputMaterial")
    links.new(emission.outputs["Emission"], output.inputs["Surface"])
    emission.inputs["Color"].default_value = (1.0, 1.0, 1.0, 1.0)
    bpy.context.view_layer.material_override = material
    stage.world = None
    stage.cycles.samples, stage.cycles.use_denoising = 1, False
    stage.cycles.pixel_filter_type, stage.cycles.filter_width = "BLACKMAN_HARRIS", 0.01
    stage.cycles.max_bounces = 0
    stage.view_settings.view_transform = "Raw"
    stage.render.image_settings.color_mode = "BW"
    stage.render.dither_intensity = 0.0
