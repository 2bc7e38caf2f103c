"""Puts a scene description on Blender's stage: floor, light, camera and render settings.

Runs in the render environment only (`make render-env`); the package never imports it.
"""

import bpy
import numpy as np
from mathutils import Matrix

from data_prep.engines.blender_models import new_surface
from data_prep.scenes.scene import Camera, Floor, Light, Scene, SceneError

FLOOR_HALF_SIDE = 30.0
SENSOR_MM = 36.0
BOUNCES = 4
GPU_KINDS = ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")


def empty_stage() -> bpy.types.Scene:
    """A new Blender file without anything in it."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    return bpy.context.scene


def add_floor(floor: Floor, pictures: dict[str, str]) -> None:
    """A large plane on z = 0: square tiles, each slightly different, with grout between them; or a
    picture.
    """
    side = FLOOR_HALF_SIDE
    mesh = bpy.data.meshes.new("floor")
    mesh.from_pydata(
        [(-side, -side, 0), (side, -side, 0), (side, side, 0), (-side, side, 0)], [], [(0, 1, 2, 3)]
    )
    material = _laid(floor, _picture(floor.picture, pictures)) if floor.picture else _tiles(floor)
    mesh.materials.append(material)
    bpy.context.scene.collection.objects.link(bpy.data.objects.new("floor", mesh))


def _picture(name: str, pictures: dict[str, str]) -> bpy.types.Image:
    """A picture that a scene names.

    Raises:
        SceneError: the job does not bring it, or Blender cannot read it.
    """
    if name not in pictures:
        raise SceneError(f"the scene names the picture {name!r}, the job brings {list(pictures)}")
    try:
        return bpy.data.images.load(pictures[name])
    except RuntimeError as error:
        raise SceneError(f"cannot read the picture {name!r}: {error}") from error


def _laid(floor: Floor, picture: bpy.types.Image) -> bpy.types.Material:
    """A picture laid over the floor again and again."""
    material = bpy.data.materials.new("picture")
    shader = new_surface(material)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    image, scale = nodes.new("ShaderNodeTexImage"), nodes.new("ShaderNodeVectorMath")
    image.image, image.extension, scale.operation = picture, "REPEAT", "MULTIPLY"
    width, height = picture.size
    scale.inputs[1].default_value = (1 / floor.tile, width / height / floor.tile, 1.0)
    links.new(nodes.new("ShaderNodeTexCoord").outputs["Object"], scale.inputs[0])
    links.new(scale.outputs["Vector"], image.inputs["Vector"])
    links.new(image.outputs["Color"], shader.inputs["Base Color"])
    shader.inputs["Roughness"].default_value = 0.5
    shader.inputs["Specular IOR Level"].default_value = 0.2
    return material


def _tiles(floor: Floor) -> bpy.types.Material:
    material = bpy.data.materials.new("tiles")
    shader = new_surface(material)
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


def add_light(light: Light, pictures: dict[str, str]) -> None:
    """A sun with a soft edge, and a sky that fades from the horizon to the zenith or a panorama."""
    sun = bpy.data.lights.new("sun", "SUN")
    sun.energy, sun.angle = light.sun_strength, np.deg2rad(2.0)
    lamp = bpy.data.objects.new("sun", sun)
    # A lamp shines along its -z: tilt it from the zenith, then turn it to the azimuth.
    tilt, turn = np.deg2rad(90.0 - light.sun_elevation_deg), np.deg2rad(light.sun_azimuth_deg + 90)
    lamp.rotation_euler = (tilt, 0.0, turn)
    bpy.context.scene.collection.objects.link(lamp)
    world = _panorama(_picture(light.picture, pictures)) if light.picture else _sky(light)
    bpy.context.scene.world = world


def _panorama(picture: bpy.types.Image) -> bpy.types.World:
    world = bpy.data.worlds.new("panorama")
    nodes, links = world.node_tree.nodes, world.node_tree.links
    image = nodes.new("ShaderNodeTexEnvironment")
    image.image = picture
    background = next(n for n in nodes if n.bl_idname == "ShaderNodeBackground")
    links.new(image.outputs["Color"], background.inputs["Color"])
    return world


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


def set_quality(scene: Scene, threads: int, device: str) -> None:
    """Cycles with few samples and a denoiser; colours as they are (no film look)."""
    stage = bpy.context.scene
    render, cycles = stage.render, stage.cycles
    render.engine = "CYCLES"
    _choose_device(device)
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


def _choose_device(device: str) -> None:
    """The CPU, every GPU of a kind, or with 'auto' the first of these that is there.

    Raises:
        SceneError: there is no such GPU here.
    """
    kinds = GPU_KINDS if device == "auto" else () if device == "CPU" else (device,)
    has_gpu = any(_use_gpus(kind) for kind in kinds)
    if device not in ("auto", "CPU") and not has_gpu:
        raise SceneError(f"there is no {device} device that this Blender can use")
    bpy.context.scene.cycles.device = "GPU" if has_gpu else "CPU"


def _use_gpus(kind: str) -> bool:
    """Switches all GPUs of a kind on, and everything else off; False if there is none."""
    preferences = bpy.context.preferences.addons["cycles"].preferences
    try:
        preferences.compute_device_type = kind
    except TypeError:  # this build of Blender does not know it
        return False
    preferences.refresh_devices()
    for device in preferences.devices:
        device.use = device.type == kind
    return any(device.use for device in preferences.devices)


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
