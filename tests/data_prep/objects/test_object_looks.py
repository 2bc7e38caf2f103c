"""Materials, textures, holes and vertex colours of object files."""

import numpy as np
import pytest
import trimesh
from made_objects import (
    PICTURE,
    SIDES,
    TRIANGLES,
    VERTICES,
    check_right_way_up,
    png,
    read,
    shown_at,
    textured_box,
    wedge,
    y_up,
)

from data_prep.objects.object_file import read_object


def test_texture_transform_and_second_set(tmp_path):
    builder = textured_box()
    [reference] = [builder.tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]]
    # Half the width, shifted by a half: only the right column of the picture.
    transform = {"scale": [0.5, 1], "offset": [0.5, 0], "texCoord": 1}
    reference["extensions"] = {"KHR_texture_transform": transform}
    attributes = builder.tree["meshes"][0]["primitives"][1]["attributes"]
    attributes["TEXCOORD_1"] = attributes.pop("TEXCOORD_0")
    model = read(tmp_path, "a.glb", builder.glb())
    assert [shown_at(model, x, z) for z in (0.8, 0.3) for x in (0.2, 0.7)] == [
        (0, 255, 0),
        (0, 255, 0),
        (255, 255, 0),
        (255, 255, 0),
    ]
    # A quarter turn counter-clockwise of the coordinates, brought back by the offset.
    reference["extensions"]["KHR_texture_transform"] = {
        "rotation": np.pi / 2,
        "offset": [0, 1],
        "texCoord": 1,
    }
    model = read(tmp_path, "b.glb", builder.glb())
    # u' = v, v' = 1 - u: what is left on the object is the bottom of the picture.
    assert shown_at(model, 0.2, 0.8) == (0, 0, 255)
    assert shown_at(model, 0.7, 0.8) == (255, 0, 0)
    assert shown_at(model, 0.2, 0.3) == (255, 255, 0)


def test_vertex_colours(tmp_path):
    colours = np.zeros((6, 4))
    colours[:, 3], colours[4, :3] = 1, (1, 0.25, 0.5)
    builder = wedge()
    attributes = builder.tree["meshes"][0]["primitives"][0]["attributes"]
    attributes["COLOR_0"] = builder.array(colours)
    model = read(tmp_path, "a.glb", builder.glb())
    top = model.vertices[:, 2].argmax()
    np.testing.assert_allclose(model.colours[model.triangles == top], [[1, 0.25, 0.5]] * 4)
    assert model.colours[model.triangles != top].max() == 0
    assert model.materials[0].base_colour == (1, 1, 1)

    mesh = trimesh.Trimesh(VERTICES, TRIANGLES, process=False)
    mesh.visual.vertex_colors = np.array([[0, 0, 0, 255]] * 4 + [[255, 188, 0, 255]] * 2)
    mesh.export(tmp_path / "a.ply")
    model = read_object(tmp_path / "a.ply")
    top = model.vertices[:, 2].argmax()
    bright = model.colours[model.triangles == top]
    np.testing.assert_allclose(
        bright, [[1, 0.5, 0]] * 4, atol=0.005
    )  # 188 of 255 is half the light

    lines = [f"v {x} {y} {z} {int(i > 3)} 0 0.5" for i, (x, y, z) in enumerate(y_up(VERTICES))]
    lines += ["f " + " ".join(str(i + 1) for i in face) for face in TRIANGLES]
    model = read(tmp_path, "a.obj", "\n".join(lines))
    assert set(np.unique(model.colours[..., 0])) == {0, 1}


def test_materials_of_gltf(tmp_path):
    builder = textured_box()
    builder.tree["materials"] = [
        {
            "pbrMetallicRoughness": {
                "baseColorFactor": [0.2, 0.4, 0.6, 1],
                "metallicFactor": 0.3,
                "roughnessFactor": 0.7,
            },
            "emissiveFactor": [0.1, 0.2, 0.3],
        }
    ]
    front = read(tmp_path, "a.glb", builder.glb()).materials[1]
    np.testing.assert_allclose(front.base_colour, (0.2, 0.4, 0.6))
    np.testing.assert_allclose((front.metallic, front.roughness), (0.3, 0.7))
    np.testing.assert_allclose(front.emissive, (0.1, 0.2, 0.3))
    assert (front.texture, front.alpha_cutoff) == (None, 0)

    builder = textured_box()  # the old way of Sketchfab
    builder.tree["materials"][0]["extensions"] = {
        "KHR_materials_pbrSpecularGlossiness": {
            "diffuseTexture": {"index": 0},
            "diffuseFactor": [1, 0.5, 1, 1],
            "glossinessFactor": 0.25,
        }
    }
    model = read(tmp_path, "b.glb", builder.glb())
    check_right_way_up(model)
    front = model.materials[1]
    assert (front.base_colour, front.metallic, front.roughness) == ((1, 0.5, 1), 0, 0.75)

    builder = textured_box()  # metallic is blue, roughness green
    grey = builder.picture(png(np.full((4, 4, 3), (0, 51, 102))))
    pbr = builder.tree["materials"][0]["pbrMetallicRoughness"]
    pbr |= {"metallicFactor": 1, "metallicRoughnessTexture": {"index": grey}}
    front = read(tmp_path, "c.glb", builder.glb()).materials[1]
    np.testing.assert_allclose((front.metallic, front.roughness), (0.4, 0.2), atol=1e-6)


@pytest.mark.parametrize(
    ("material", "cutoff"),
    [
        ({"alphaMode": "MASK"}, 0.5),
        ({"alphaMode": "MASK", "alphaCutoff": 0.2}, 0.2),
        ({"alphaMode": "BLEND"}, 0.5),
        ({}, 0.0),
    ],
)
def test_holes(tmp_path, material, cutoff):
    pixels = np.concatenate([PICTURE, np.array([[[255], [255]], [[255], [0]]], np.uint8)], axis=-1)
    model = read(tmp_path, "a.glb", textured_box(png(pixels), **material).glb())
    assert model.materials[1].alpha_cutoff == cutoff
    assert model.materials[1].texture[1, 1, 3] == 0


def test_what_cannot_be_seen_is_left_out(tmp_path):
    builder = textured_box(alphaMode="BLEND")
    pbr = builder.tree["materials"][0]["pbrMetallicRoughness"]
    pbr["baseColorFactor"] = [1, 1, 1, 0]
    model = read(tmp_path, "a.glb", builder.glb())
    assert len(model.triangles) == len(SIDES)


def test_large_textures_are_scaled_down(tmp_path):
    wide = np.zeros((16, 4096, 3), np.uint8)
    wide[:, 2048:] = 255
    model = read(tmp_path, "a.glb", textured_box(png(wide)).glb())
    texture = model.materials[1].texture
    assert texture.shape == (8, 2048, 4)
    assert texture[:, :1023, :3].max() == 0
    assert texture[:, 1025:, :3].min() == 255
