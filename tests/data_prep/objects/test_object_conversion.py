"""By way of Blender: conversion, and models built in it. Only where the render environment is."""

import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from made_objects import textured_box
from PIL import Image

from data_prep.engines import render_env
from data_prep.fanout.task import Rejected
from data_prep.objects.convert import convert
from data_prep.objects.model_file import save_model
from data_prep.objects.object_file import read_object
from data_prep.objects.rejections import NeedsConversion
from posetraj_jax.errors import UserError

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not render_env.DEFAULT_PYTHON.is_file(), reason="no .venv-render: run `make render-env`"
    ),
]
PYTHON = render_env.DEFAULT_PYTHON
ROOT = Path(__file__).parents[3]

EXPORT = """
import sys
import bpy
import numpy as np
out = sys.argv[1]
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.mesh.primitive_monkey_add(size=1.3, location=(0.3, -0.2, 1), rotation=(0.1, 0.2, 0.3))
monkey = bpy.context.object
bpy.ops.mesh.primitive_cube_add(size=0.6, location=(-1, 0.5, 0.4))
cube = bpy.context.object
cube.scale = (1, 2, 0.5)
def dress(thing, name, colour):
    material = bpy.data.materials.new(name)
    shader = next(n for n in material.node_tree.nodes if n.type == 'BSDF_PRINCIPLED')
    shader.inputs['Base Color'].default_value = (*colour, 1)
    thing.data.materials.append(material)
    return material, shader
dress(monkey, 'red', (0.8, 0.1, 0.2))
material, shader = dress(cube, 'picture', (1, 1, 1))
image = bpy.data.images.new('picture', 64, 64)
pixels = np.ones((64, 64, 4), np.float32)
pixels[:32, :, 0] = 0
image.pixels.foreach_set(pixels.ravel())
image.filepath_raw, image.file_format = out + '/picture.png', 'PNG'
image.save()
node = material.node_tree.nodes.new('ShaderNodeTexImage')
node.image = image
material.node_tree.links.new(node.outputs['Color'], shader.inputs['Base Color'])
bpy.ops.export_scene.gltf(filepath=out + '/plain.glb')
bpy.ops.export_scene.gltf(
    filepath=out + '/draco.glb',
    export_draco_mesh_compression_enable=True,
    export_draco_position_quantization=24,
)
bpy.ops.wm.obj_export(filepath=out + '/plain.obj', path_mode='RELATIVE')
bpy.ops.wm.ply_export(filepath=out + '/plain.ply')
bpy.ops.wm.stl_export(filepath=out + '/plain.stl')
bpy.ops.export_scene.fbx(filepath=out + '/a.fbx', path_mode='RELATIVE')
for suffix in ('usd', 'usda', 'usdc', 'usdz'):
    bpy.ops.wm.usd_export(filepath=f'{out}/a.{suffix}')
"""


def in_blender(code: str, *arguments) -> str:
    command = [str(PYTHON), "-P", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    in_blender(EXPORT, folder)
    return folder


def check_same(model, other):
    assert len(model.triangles) == len(other.triangles)
    for one, two in ((model, other), (other, model)):
        distances = np.linalg.norm(one.vertices[:, None] - two.vertices[None], axis=-1).min(axis=1)
        assert distances.max() < 1e-5


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl"])
def test_the_same_object_without_conversion(exported, suffix):
    model = read_object(exported / f"plain.{suffix}")
    check_same(model, read_object(exported / "plain.glb"))
    if suffix == "obj":
        textured = [m for m in model.materials if m.texture is not None]
        assert len(textured) == 1


@pytest.mark.parametrize("name", ["a.fbx", "a.usd", "a.usda", "a.usdc", "a.usdz", "draco.glb"])
def test_converted_files_are_the_same_object(exported, tmp_path, name):
    with pytest.raises(NeedsConversion):
        read_object(exported / name)
    convert(PYTHON, exported / name, tmp_path / "converted.glb", 120)
    model = read_object(tmp_path / "converted.glb")
    check_same(model, read_object(exported / "plain.glb"))
    [texture] = [m.texture for m in model.materials if m.texture is not None]
    assert texture[0, 0, :3].tolist() == [255, 255, 255]  # the upper half is white
    assert texture[-1, 0, :3].tolist() == [0, 255, 255]
    colours = [m.base_colour for m in model.materials if m.texture is None]
    np.testing.assert_allclose(colours, [(0.8, 0.1, 0.2)], atol=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["converted.glb"]


@pytest.mark.parametrize("name", ["a.fbx", "a.usda"])
def test_a_missing_texture_is_a_reason(exported, tmp_path, name):
    (tmp_path / name).write_bytes((exported / name).read_bytes())
    with pytest.raises(Rejected, match=r"texture '.*picture"):
        convert(PYTHON, tmp_path / name, tmp_path / "b.glb", 120)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_texture_outside_the_folder_is_a_reason(exported, tmp_path):
    folder = tmp_path / "objects"
    folder.mkdir()
    text = (exported / "a.usda").read_text()
    found = [line for line in text.splitlines() if "picture.png@" in line]
    assert found
    reference = found[0].split("@")[1]
    (tmp_path / "picture.png").write_bytes(next(exported.rglob("picture.png")).read_bytes())
    (folder / "a.usda").write_text(text.replace(reference, "../picture.png"))
    with pytest.raises(Rejected, match="outside the object's own folder"):
        convert(PYTHON, folder / "a.usda", folder / "b.glb", 120)


def test_a_usd_that_refers_to_others_outside_is_a_reason(exported, tmp_path):
    folder = tmp_path / "objects"
    folder.mkdir()
    text = "#usda 1.0\n(\n    subLayers = [@{}@]\n)\n"
    for reference, reason in (
        (exported / "a.usda", "outside its own folder"),
        ("../gone.usda", "a part of it is missing"),
    ):
        (folder / "a.usda").write_text(text.format(reference))
        with pytest.raises(Rejected, match=reason):
            convert(PYTHON, folder / "a.usda", folder / "b.glb", 120)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.fbx", b"Kaydara FBX Binary  \0" + b"x" * 100), ("a.usdc", b"PXR-USDC" + b"\1" * 200)],
)
def test_damaged_files_end_in_a_reason(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Rejected, match="Blender cannot convert it"):
        convert(PYTHON, tmp_path / name, tmp_path / "b.glb", 120)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_conversion_that_takes_too_long_is_ended(exported, tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError, match=r"at most 0\.2 s of Blender's time"):
        convert(PYTHON, exported / "a.fbx", tmp_path / "b.glb", 0.2)
    assert time.monotonic() - start < 5
    assert list(tmp_path.iterdir()) == []


RENDER = """
import sys
from pathlib import Path
import bpy
sys.path.append('.')
import numpy as np
from data_prep.engines import blender_stage as stage
from data_prep.engines.blender_import import add_object
from data_prep.engines.blender_models import mesh_vertices
from data_prep.objects.model_file import load_model
from data_prep.scenes.scene import Camera
model_file, picture = sys.argv[1:]
stage.empty_stage()
settings = bpy.context.scene.render
settings.engine, settings.threads_mode, settings.threads = 'CYCLES', 'FIXED', 1
settings.resolution_x = settings.resolution_y = 160
bpy.context.scene.cycles.samples, bpy.context.scene.cycles.use_denoising = 16, False
bpy.context.scene.view_settings.view_transform = 'Standard'
world = bpy.data.worlds.new('even')
background = next(n for n in world.node_tree.nodes if n.type == 'BACKGROUND')
background.inputs['Color'].default_value = (1, 1, 1, 1)
bpy.context.scene.world = world
thing = add_object(Path(model_file), 2.0, 'thing')
model = load_model(Path(model_file))
assert np.array_equal(mesh_vertices(thing.data), (2.0 * model.vertices).astype(np.float32))
normals = np.array([loop.vector for loop in thing.data.corner_normals])
assert np.abs(normals - model.normals.reshape(-1, 3)).max() < 1e-4
# Straight from the front: x to the right, z up.
k = ((160.0, 0, 80), (0, 160.0, 80), (0, 0, 1))
rt = ((1.0, 0, 0, 0), (0, 0, -1.0, 1.0), (0, 1.0, 0, 4.0))
stage.set_camera(Camera(k, rt), 160, 160)
bpy.context.scene.render.filepath = picture
bpy.ops.render.render(write_still=True)
"""


def pictured(model, folder):
    save_model(model, folder / "model.npz")
    in_blender(RENDER, folder / "model.npz", folder / "picture.png")
    return cv2.imread(str(folder / "picture.png"))[..., ::-1].astype(int)


def test_a_textured_model_in_blender(tmp_path):
    """Right way up, in its own colours, with holes where alpha is low."""
    large = np.kron([[0, 1], [2, 3]], np.ones((32, 32), int))
    pixels = np.array([(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (9, 9, 9, 0)])[large]
    texture = tmp_path / "t.png"
    Image.fromarray(pixels.astype(np.uint8)).save(texture)
    builder = textured_box(texture.read_bytes(), alphaMode="MASK")
    [attributes] = [builder.tree["meshes"][0]["primitives"][0]["attributes"]]
    attributes["COLOR_0"] = builder.array(np.tile([1.0, 0.0, 1.0], (8, 1)))
    (tmp_path / "a.glb").write_bytes(builder.glb())
    shown = pictured(read_object(tmp_path / "a.glb"), tmp_path)
    # The front spans 160 * 2 / 3.5 pixels about the middle: columns and rows 34 to 126.
    for (row, column), strong in {(55, 55): [0], (55, 105): [1], (105, 55): [2]}.items():
        colour = shown[row, column]
        others = [channel for channel in range(3) if channel not in strong]
        assert colour[strong].min() > 150, (row, column, colour)
        assert colour[others].max() < 110, (row, column, colour)
    inside = shown[105, 105]  # through the hole: the back side, in the colour of its vertices
    assert inside[[0, 2]].min() > inside[1] + 60, inside
    assert shown[10, 10].min() > 200


def test_a_smooth_model_in_blender(tmp_path):
    ball = trimesh.creation.icosphere(2)
    ball.export(tmp_path / "a.stl")
    shown = pictured(read_object(tmp_path / "a.stl"), tmp_path)
    # Under an even sky every part of a ball that is convex and grey is lit alike.
    assert np.ptp(shown[60:100, 60:100]) < 40
