"""Every format gives the same object: places, winding, axes, colours, textures, materials."""

import base64
import json
import struct

import numpy as np
import pytest
import trimesh
from made_objects import (
    BOX,
    FRONT,
    FRONT_UV,
    PICTURE,
    SIDES,
    TRIANGLES,
    VERTICES,
    WEDGE,
    GltfBuilder,
    check_right_way_up,
    png,
    read,
    stood,
    surface,
    textured_box,
    wedge,
    y_up,
)

from data_prep.objects.model import area, sides
from data_prep.objects.object_file import read_object


def surface_of(model):
    return surface(model.vertices, model.triangles)


def check_model(model):
    assert model.vertices.dtype == np.float64
    assert np.array_equal(model.vertices, model.vertices.astype(np.float32))
    number = len(model.triangles)
    for name, kind, shape in (
        ("triangles", np.int32, (number, 3)),
        ("normals", np.float32, (number, 3, 3)),
        ("uv", np.float32, (number, 3, 2)),
        ("colours", np.float32, (number, 3, 3)),
        ("material_of", np.int32, (number,)),
    ):
        array = getattr(model, name)
        assert array.dtype == kind, name
        assert array.shape == shape, name
        assert np.isfinite(array).all(), name
    np.testing.assert_allclose(np.linalg.norm(model.normals, axis=-1), 1, atol=1e-5)
    assert max(sides(model)) == pytest.approx(1)
    assert model.vertices[:, 2].min() == 0
    assert area(model) > 0


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl"])
def test_what_trimesh_writes_reads_the_same(tmp_path, suffix):
    places = y_up(VERTICES) if suffix in ("glb", "obj") else VERTICES
    mesh = trimesh.Trimesh(places, TRIANGLES, process=False)
    mesh.export(tmp_path / f"a.{suffix}")
    model = read_object(tmp_path / f"a.{suffix}")
    check_model(model)
    assert surface_of(model) == WEDGE
    np.testing.assert_allclose(sides(model), np.array([2, 3, 1.5]) / 3, atol=1e-6)


def test_text_forms_of_ply_and_stl(tmp_path):
    mesh = trimesh.Trimesh(VERTICES, TRIANGLES, process=False)
    mesh.export(tmp_path / "a.ply", encoding="ascii")
    (tmp_path / "a.stl").write_text(mesh.export(file_type="stl_ascii"))
    assert surface_of(read_object(tmp_path / "a.ply")) == WEDGE
    assert surface_of(read_object(tmp_path / "a.stl")) == WEDGE


def test_gltf_with_files_beside_it_and_inside(tmp_path):
    builder = textured_box()
    view = builder.tree["bufferViews"][builder.tree["images"][0].pop("bufferView")]
    picture = builder.binary[view["byteOffset"] :][: view["byteLength"]]
    (tmp_path / "tex turé.png").write_bytes(picture)
    (tmp_path / "data.bin").write_bytes(builder.binary)
    builder.tree["images"][0]["uri"] = "tex%20tur%C3%A9.png"
    builder.tree["buffers"] = [{"uri": "data.bin", "byteLength": len(builder.binary)}]
    beside = read(tmp_path, "a.gltf", json.dumps(builder.tree))
    check_right_way_up(beside)
    code = base64.b64encode(builder.binary).decode()
    builder.tree["buffers"][0]["uri"] = f"data:application/octet-stream;base64,{code}"
    code = base64.b64encode(picture).decode()
    builder.tree["images"][0]["uri"] = f"data:image/png;base64,{code}"
    (tmp_path / "data.bin").unlink()
    inside = read(tmp_path, "b.gltf", json.dumps(builder.tree))
    check_right_way_up(inside)
    assert surface_of(inside) == surface_of(beside)


def test_texture_of_a_glb_is_the_right_way_up(tmp_path):
    model = read(tmp_path, "a.glb", textured_box().glb())
    check_model(model)
    check_right_way_up(model)


def test_nodes_are_placed_and_meshes_repeated(tmp_path):
    builder = wedge()
    turn = [0, np.sin(np.pi / 4), 0, np.cos(np.pi / 4)]  # a quarter about y, which is up
    builder.tree["nodes"] = [
        {"children": [1, 2], "scale": [2, 2, 2], "translation": [1, 0, 0]},
        {"mesh": 0, "translation": [0, 5, 0]},
        {"mesh": 0, "rotation": turn, "matrix": None},
    ]
    del builder.tree["nodes"][2]["matrix"]
    model = read(tmp_path, "a.glb", builder.glb())
    first = VERTICES * 2 + [1, 0, 10]
    second = VERTICES @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]) * 2 + [1, 0, 0]
    both = np.concatenate([first, second])
    expected = surface(stood(both), np.concatenate([TRIANGLES, TRIANGLES + 6]))
    assert surface_of(model) == expected
    assert len(model.materials) == 1


def test_a_matrix_that_mirrors_keeps_the_outside_outside(tmp_path):
    builder = wedge()
    mirror = np.diag([-1.0, 1, 1, 1])
    builder.tree["nodes"][0]["matrix"] = mirror.T.ravel().tolist()
    model = read(tmp_path, "a.glb", builder.glb())
    mirrored = stood(VERTICES * [-1, 1, 1])
    assert surface_of(model) == surface(mirrored, TRIANGLES[:, ::-1])
    assert volume(model) > 0


def volume(model):
    a, b, c = (model.vertices[model.triangles[:, i]] for i in range(3))
    return (np.cross(a, b) * c).sum() / 6


def test_a_skinned_mesh_stands_in_its_stored_pose(tmp_path):
    """As viewers show it: the joints' places count, the mesh's own node does not."""
    builder = wedge()
    attributes = builder.tree["meshes"][0]["primitives"][0]["attributes"]
    attributes["JOINTS_0"] = builder.array(np.zeros((6, 4)), "B")
    attributes["WEIGHTS_0"] = builder.array(np.tile([1.0, 0, 0, 0], (6, 1)))
    inverse = np.eye(4)
    inverse[:3, 3] = [0, -1, 0]
    bind = builder.array([inverse.T.ravel()])
    builder.tree["nodes"] = [
        {"mesh": 0, "skin": 0, "translation": [100, 0, 0], "scale": [1, 9, 1]},
        {"translation": [0, 1, 0], "scale": [2, 1, 1]},
    ]
    builder.tree["scenes"] = [{"nodes": [0, 1]}]
    builder.tree["skins"] = [{"joints": [1], "inverseBindMatrices": bind}]
    model = read(tmp_path, "a.glb", builder.glb())
    assert surface_of(model) == surface(stood(VERTICES * [2, 1, 1]), TRIANGLES)


@pytest.mark.parametrize("mode", [5, 6])
def test_strips_and_fans(tmp_path, mode):
    builder = wedge()
    path = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.5], [1, 1, 2], [0, 2, 1]], np.float64)
    primitive = builder.primitive(y_up(path))
    primitive["mode"] = mode
    builder.tree["meshes"][0]["primitives"] = [primitive]
    model = read(tmp_path, "a.glb", builder.glb())
    strip, fan = [[0, 1, 2], [1, 3, 2], [2, 3, 4]], [[1, 2, 0], [2, 3, 0], [3, 4, 0]]
    assert surface_of(model) == surface(stood(path), np.array(strip if mode == 5 else fan))


def test_whole_numbers_and_sparse_accessors(tmp_path):
    """What trimesh reads as raw numbers, and as zeros."""
    builder = wedge()
    small = builder.array(np.round(y_up(VERTICES) / 3 * 127), "b", normalized=True)
    primitive = builder.tree["meshes"][0]["primitives"][0]
    primitive["attributes"]["POSITION"] = small
    builder.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    model = read(tmp_path, "a.glb", builder.glb())
    np.testing.assert_allclose(sides(model), np.array([2, 3, 1.5]) / 3, atol=0.01)

    builder = wedge()
    accessor = builder.tree["accessors"][0]
    builder.tree["accessors"].append(
        {k: v for k, v in accessor.items() if k != "bufferView"}
        | {
            "sparse": {
                "count": 6,
                "indices": {"bufferView": builder.view(bytes(range(6))), "componentType": 5121},
                "values": {"bufferView": accessor["bufferView"]},
            }
        }
    )
    attributes = builder.tree["meshes"][0]["primitives"][0]["attributes"]
    attributes["POSITION"] = len(builder.tree["accessors"]) - 1
    assert surface_of(read(tmp_path, "b.glb", builder.glb())) == WEDGE


def test_obj_with_materials_and_holes_in_its_numbering(tmp_path):
    """Two libraries, relative numbers between vertices, faces without texture, polygons."""
    (tmp_path / "a tex.png").write_bytes(png(PICTURE))
    (tmp_path / "one.mtl").write_text(
        "newmtl my front\nKd 0 0 0\nmap_Kd -s 1 1 1 -clamp off a tex.png\nKe 0 0 0\nNs 0\n"
    )
    (tmp_path / "two.mtl").write_text("newmtl rest\nKd 0.25 0.5 0.75\nPr 0.9\nPm 0.5\n")
    lines = ["mtllib one.mtl", "mtllib two.mtl"]
    lines += ["v {} {} {}".format(*place) for place in y_up(BOX)[[0, 1, 5, 4]]]
    lines += ["vt {} {}".format(*np.array(FRONT_UV[i]) * (1, -1) + (0, 1)) for i in (0, 1, 5, 4)]
    lines += ["usemtl my front", "f -4/-4 -3/-3 -2/-2 -1/-1"]
    lines += ["v {} {} {}".format(*place) for place in y_up(BOX)]
    quads = [[0, 2, 3, 1], [4, 5, 7, 6], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]]
    lines += ["usemtl rest", *("f " + " ".join(str(i + 5) for i in quad) for quad in quads)]
    model = read(tmp_path, "a.obj", "\n".join(lines))
    check_model(model)
    check_right_way_up(model)
    assert surface_of(model) != []
    assert volume(model) == pytest.approx(0.5)
    rest = model.materials[1]
    assert (rest.base_colour, rest.roughness, rest.metallic) == ((0.25, 0.5, 0.75), 0.9, 0.5)
    assert model.materials[0].base_colour == (1, 1, 1)


def test_a_hollow_polygon_is_cut_along_its_inside(tmp_path):
    """An L of six corners, drawn out: a fan would cover what is not there."""
    outline = np.array([[0, 0], [3, 0], [3, 1], [1, 1], [1, 2], [0, 2]], np.float64)
    outline = np.roll(outline, 2, axis=0)  # starts where the inner corner is in the way
    low, high = (np.insert(outline, 2, z, axis=1) for z in (0.0, 1.0))
    places = np.concatenate([low, high])
    faces = [[*range(6)][::-1], [*range(6, 12)]]
    faces += [[i, (i + 1) % 6, (i + 1) % 6 + 6, i + 6] for i in range(6)]
    lines = ["v {} {} {}".format(*place) for place in y_up(places)]
    lines += ["f " + " ".join(str(i + 1) for i in face) for face in faces]
    model = read(tmp_path, "a.obj", "\n".join(lines))
    assert volume(model) == pytest.approx(4 / 27)
    assert area(model) == pytest.approx((2 * 4 + 10) / 9)


def test_binary_ply_of_triangles_and_quads_as_blender_writes(tmp_path):
    quads = [[0, 1, 5, 4], [0, 2, 3, 1], [4, 5, 7, 6], [2, 6, 7, 3], [0, 4, 6, 2]]
    triangles = [[1, 3, 7], [1, 7, 5]]
    for order, mark in (("little", "<"), ("big", ">")):
        head = (
            f"ply\nformat binary_{order}_endian 1.0\ncomment made by hand\nelement vertex 8\n"
            "property float x\nproperty float y\nproperty float z\nproperty uchar red\n"
            "property uchar green\nproperty uchar blue\nelement face 7\n"
            "property list uchar uint vertex_indices\nproperty uchar flags\nend_header\n"
        )
        body = b"".join(struct.pack(mark + "3f3B", *place, 255, 0, 0) for place in BOX)
        for face in quads + triangles:
            body += struct.pack(f"{mark}B{len(face)}IB", len(face), *face, 7)
        model = read(tmp_path, f"{order}.ply", head.encode() + body)
        assert volume(model) == pytest.approx(0.5)
        assert model.colours.reshape(-1, 3).max(axis=0).tolist() == [1, 0, 0]


def test_ply_with_texture(tmp_path):
    (tmp_path / "t.png").write_bytes(png(PICTURE))
    uv = [np.array(FRONT_UV.get(i, (0, 0))) * (1, -1) + (0, 1) for i in range(8)]
    faces = np.concatenate([FRONT, SIDES])
    lines = ["ply", "format ascii 1.0", "comment TextureFile t.png", "element vertex 8"]
    lines += [f"property float {name}" for name in "xyzst"]
    lines += ["element face 12", "property list uchar int vertex_indices", "end_header"]
    lines += [" ".join(map(str, (*place, *st))) for place, st in zip(BOX, uv, strict=True)]
    lines += ["3 " + " ".join(map(str, face)) for face in faces]
    check_right_way_up(read(tmp_path, "a.ply", "\n".join(lines) + "\n"))


def test_normals_of_the_file_are_kept_and_broken_ones_mended(tmp_path):
    normals = np.tile([0.0, 0.0, 5.0], (6, 1))
    normals[0], normals[1] = 0, np.nan
    builder = GltfBuilder()
    builder.primitive(y_up(VERTICES), TRIANGLES, NORMAL=builder.array(y_up(normals)))
    model = read(tmp_path, "a.glb", builder.glb())
    check_model(model)
    whole = [not {0, 1} & set(face) for face in TRIANGLES]
    np.testing.assert_allclose(model.normals[whole], np.tile([0, 0, 1.0], (2, 3, 1)), atol=1e-6)


def test_missing_normals_are_smooth_below_35_degrees(tmp_path):
    ball = trimesh.creation.icosphere(3)
    ball.export(tmp_path / "ball.stl")
    model = read_object(tmp_path / "ball.stl")
    centre = np.array([0, 0, 0.5])
    outwards = model.vertices[model.triangles] - centre
    outwards /= np.linalg.norm(outwards, axis=-1, keepdims=True)
    assert (model.normals * outwards).sum(axis=-1).min() > 0.999
    trimesh.creation.box((1, 2, 3)).export(tmp_path / "box.stl")
    box = read_object(tmp_path / "box.stl")
    np.testing.assert_allclose(np.abs(box.normals).max(axis=-1), 1, atol=1e-6)
    # Where more triangles meet than are compared one by one.
    trimesh.creation.cone(1, 2, sections=400).export(tmp_path / "cone.stl")
    check_model(read_object(tmp_path / "cone.stl"))


def test_paths_with_spaces_and_other_alphabets(tmp_path):
    folder = tmp_path / "mes objets – 物体"
    folder.mkdir()
    assert surface_of(read(folder, "œuf n° 1.GLB", wedge().glb())) == WEDGE
