"""What strangers' files can hold: each is refused with its reason, in bounded time and memory."""

import json
import os
import pickle
import resource
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from made_objects import (
    BOX,
    SIDES,
    TRIANGLES,
    VERTICES,
    GltfBuilder,
    bomb_png,
    glb,
    obj_of,
    png,
    textured_box,
    wedge,
    y_up,
)

from data_prep.fanout.task import Rejected
from data_prep.objects.model import Model
from data_prep.objects.object_file import read_object
from data_prep.objects.rejections import NeedsConversion

MOST_SECONDS, MOST_MEMORY = 5.0, 400_000_000


def refusal(folder, name, content, kind=Rejected) -> str:
    """Why a file is refused, once time and memory are known to be bounded."""
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(kind) as caught:
            read_object(path)
        assert time.monotonic() - start < MOST_SECONDS
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    reason = str(caught.value)
    assert reason.isprintable(), "one line"
    assert str(folder) not in reason
    assert type(caught.value) is kind
    return reason


def changed(change, builder=None) -> bytes:
    builder = builder or wedge()
    change(builder.tree)
    return builder.glb()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.blend", b"BLENDER-v405", "scripts"),
        ("a.glb", b"BLENDER-v405", "it is a Blender file"),
        ("a.glb", pickle.dumps({"a": 1}), "it is a Python pickle"),
        ("a.glb", b"<!DOCTYPE html><html>", "it is a web page"),
        ("a.glb", b"\r\n <html>sign in</html>", "it is a web page"),
        ("a.glb", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("a.glb", b"something", "it starts with b'something'"),
        ("a.stl", b"<html></html>", "it is a web page"),
        ("a.obj", b"PK\x03\x04....", "it is a zip archive"),
        ("a.obj", b"L\x01\x05\x00\0\0\0\0", "no text"),
        ("a.ply", b"glTF\2\0\0\0", "it is a GLB"),
        ("a.fbx", b"glTF\2\0\0\0", "it is a GLB"),
        ("a.usdz", b"#usda 1.0", "it is a USDA"),
        ("a.gltf", b"nothing", "it is no JSON"),
        ("a.txt", b"v 0 0 0", ".txt is not one of"),
        ("a", b"v 0 0 0", "without suffix"),
        ("a.glb", b"", "an empty file"),
        ("a.obj", b"# nothing\n", "no triangles"),
        ("a.stl", bytes(84), "no triangles"),
    ],
)
def test_content_of_another_kind(tmp_path, name, content, reason):
    assert reason in refusal(tmp_path, name, content)


@pytest.mark.parametrize("suffix", ["fbx", "usd", "usda", "usdc", "usdz"])
def test_what_only_blender_reads(tmp_path, suffix):
    start = {"fbx": b"Kaydara FBX Binary  \0", "usda": b"#usda 1.0", "usdz": b"PK\x03\x04"}
    content = start.get(suffix, b"PXR-USDC")
    assert "Blender" in refusal(tmp_path, f"a.{suffix}", content, NeedsConversion)


def test_compressed_gltf(tmp_path):
    def draco(tree):
        tree["extensionsRequired"] = ["KHR_draco_mesh_compression"]

    assert "draco" in refusal(tmp_path, "a.glb", changed(draco), NeedsConversion)

    def draco_from_elsewhere(tree):
        draco(tree)
        tree["images"] = [{"uri": "../secret.png"}]

    assert "leaves its folder" in refusal(tmp_path, "c.glb", changed(draco_from_elsewhere))

    def meshopt(tree):
        tree["extensionsRequired"] = ["EXT_meshopt_compression"]

    assert "EXT_meshopt_compression" in refusal(tmp_path, "b.glb", changed(meshopt))


def test_missing_folders_and_pipes(tmp_path):
    with pytest.raises(Rejected, match="No such file"):
        read_object(tmp_path / "gone.glb")
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(Rejected, match="not a regular file"):
        read_object(tmp_path / "folder.glb")
    os.mkfifo(tmp_path / "pipe.glb")
    with pytest.raises(Rejected, match="not a regular file"):
        read_object(tmp_path / "pipe.glb")


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "a.stl").open("wb") as file:
        file.truncate(3 * 10**9)
    with pytest.raises(Rejected, match="3,000,000,000 bytes, more than 1,000,000,000"):
        read_object(tmp_path / "a.stl")


def test_damaged_containers(tmp_path):
    whole = wedge().glb()
    for cut in (4, 12, 19, 40, len(whole) - 1):
        reason = refusal(tmp_path, "a.glb", whole[:cut])
        assert "cut off" in reason or "too short" in reason
    chunk = whole[:12] + struct.pack("<I", 2**32 - 1) + whole[16:]
    assert "4,294,967,295" in refusal(tmp_path, "a.glb", chunk)
    assert "no JSON" in refusal(tmp_path, "a.glb", glb(b"{"))
    assert "not an object" in refusal(tmp_path, "a.glb", glb(b"[]"))
    assert "version" in refusal(tmp_path, "a.glb", glb(b'{"asset": {"version": "1.0"}}'))
    assert "no triangles" in refusal(tmp_path, "a.glb", glb(b'{"asset": {"version": "2.0"}}'))


def test_json_bombs(tmp_path):
    deep = b'{"asset":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    assert "nested" in refusal(tmp_path, "a.glb", glb(deep))
    many = b'{"asset":[' + b"[]," * 5_000_000 + b"[]]}"
    assert "brackets and commas" in refusal(tmp_path, "b.glb", glb(many))
    long = b'{"asset": {"version": ' + b"9" * 1_000_000 + b"}}"
    assert "no JSON" in refusal(tmp_path, "c.glb", glb(long))


def test_numbers_that_promise_too_much(tmp_path):
    def count(tree):
        tree["accessors"][0]["count"] = 10**9

    assert "1,000,000,000 items" in refusal(tmp_path, "a.glb", changed(count))

    def huge(tree):
        tree["accessors"][1]["count"] = 6_000_000

    assert "do not fit" in refusal(tmp_path, "b.glb", changed(huge))

    def view(tree):
        tree["bufferViews"][0]["byteOffset"] = 10**6

    assert "bufferView 0 ends at byte" in refusal(tmp_path, "c.glb", changed(view))

    def negative(tree):
        tree["bufferViews"][0]["byteOffset"] = -4

    assert "byteOffset is -4" in refusal(tmp_path, "d.glb", changed(negative))

    def stride(tree):
        tree["bufferViews"][0]["byteStride"] = 0

    assert "do not fit" in refusal(tmp_path, "e.glb", changed(stride))
    head = b"solid".ljust(80) + struct.pack("<I", 10**9)
    assert "1,000,000,000 triangles" in refusal(tmp_path, "a.stl", head + bytes(1000))
    with (tmp_path / "big.stl").open("wb") as file:
        file.write(bytes(80) + struct.pack("<I", 2_000_001))
        file.truncate(84 + 50 * 2_000_001)
    with pytest.raises(Rejected, match="2,000,001 triangles, more than 2,000,000"):
        read_object(tmp_path / "big.stl")
    ply = "ply\nformat {} 1.0\nelement vertex {}\nproperty float x\nproperty float y\n"
    ply += "property float z\nelement face {}\nproperty list {} int vertex_indices\nend_header\n"
    for form in ("ascii", "binary_little_endian"):
        text = ply.format(form, 10**9, 1, "uchar")
        assert "1,000,000,000 rows of vertex" in refusal(tmp_path, "a.ply", text)
        text = ply.format(form, 3, 10**9, "uchar")
        assert "1,000,000,000 rows of face" in refusal(tmp_path, "b.ply", text)
        assert "cut off" in refusal(tmp_path, "c.ply", ply.format(form, 3, 1, "uchar"))
    long_list = ply.format("binary_little_endian", 0, 1, "uint").encode()
    reason = refusal(tmp_path, "d.ply", long_list + b"\xff\xff\xff\xff....")
    assert "a list of 4,294,967,295 items" in reason
    assert "header" in refusal(tmp_path, "e.ply", "ply\nformat ascii 1.0\n" + "x" * 10**6)


def test_a_few_bytes_that_repeat_a_mesh_for_ever(tmp_path):
    builder = wedge()
    del builder.tree["scenes"]
    for number, reason in ((100_001, "100,001 nodes"), (60_000, "60,000 parts")):
        builder.tree["nodes"] = [{"mesh": 0}] * number
        assert reason in refusal(tmp_path, "a.glb", builder.glb())
    ball = GltfBuilder()
    ball.primitive(y_up(VERTICES), np.tile(TRIANGLES, (2000, 1)))
    ball.tree["nodes"] = [{"mesh": 0}] * 1000
    del ball.tree["scenes"]
    assert "16,000,000 triangles" in refusal(tmp_path, "b.glb", ball.glb())
    # Twenty levels of two children each that are the same node: a million paths.
    tree = wedge()
    tree.tree["nodes"] = [{"children": [i + 1, i + 1]} for i in range(40)] + [{"mesh": 0}]
    assert "more than one parent" in refusal(tmp_path, "c.glb", tree.glb())


def test_nodes_in_a_circle(tmp_path):
    def circle(tree):
        tree["nodes"] = [{"children": [1]}, {"children": [0], "mesh": 0}]

    assert "own children" in refusal(tmp_path, "a.glb", changed(circle))

    def two_parents(tree):
        tree["nodes"] = [{"children": [2]}, {"children": [2]}, {"mesh": 0}]

    assert "more than one parent" in refusal(tmp_path, "b.glb", changed(two_parents))
    deep = wedge()
    deep.tree["nodes"] = [{"children": [i + 1]} for i in range(50_000)] + [{"mesh": 0}]
    (tmp_path / "deep.glb").write_bytes(deep.glb())
    assert isinstance(read_object(tmp_path / "deep.glb"), Model)  # only long


def test_texture_bombs(tmp_path):
    bomb = bomb_png(30_000, 30_000)
    assert len(bomb) < 100
    reason = refusal(tmp_path, "a.glb", textured_box(bomb).glb())
    assert "texture" in reason
    assert "900000000 pixels" in reason
    assert "64,000,000" in reason
    reason = refusal(tmp_path, "b.glb", textured_box(bomb_png(8001, 8001)).glb())
    assert "8001x8001, more than 64,000,000 pixels" in reason


def test_a_small_picture_that_unpacks_to_gigabytes(tmp_path):
    """All the pixels are there: 2 GB of zeros compress well."""
    packer, packed = zlib.compressobj(1), []
    for _ in range(23_000):
        packed.append(packer.compress(bytes(1 + 4 * 23_000)))
    packed.append(packer.flush())

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 23_000, 23_000, 8, 6, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"".join(packed))
    assert len(data) < 20_000_000
    builder = textured_box(data + chunk(b"IEND", b""))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "pixels" in refusal(tmp_path, "a.glb", builder.glb())
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 300_000  # kilobytes


def test_textures_that_cannot_be_had_are_named(tmp_path):
    whole = png(np.random.default_rng(0).integers(0, 255, (64, 64, 3)))
    assert "no whole picture" in refusal(tmp_path, "a.glb", textured_box(whole[:2000]).glb())
    assert "no whole picture" in refusal(
        tmp_path, "b.glb", textured_box(b"%!PS-Adobe-3.0 EPSF").glb()
    )
    mtl = "newmtl m\nmap_Kd {}\n"
    obj = "mtllib a.mtl\nusemtl m\n" + "".join("v {} {} {}\n".format(*v) for v in VERTICES)
    obj += "vt 0 0\n" + "".join("f {}/1 {}/1 {}/1\n".format(*(t + 1)) for t in TRIANGLES)
    (tmp_path / "a.mtl").write_text(mtl.format("gone.png"))
    assert "refers to 'gone.png'" in refusal(tmp_path, "a.obj", obj)
    (tmp_path / "a.mtl").unlink()
    assert "refers to 'a.mtl'" in refusal(tmp_path, "a.obj", obj)
    (tmp_path / "a.mtl").write_text("newmtl m\nKd 0.5 much 0.5\n")
    assert "material 'm': kd" in refusal(tmp_path, "a.obj", obj)
    (tmp_path / "t.png").write_bytes(whole)
    (tmp_path / "a.mtl").write_text(mtl.format("t.png"))
    assert "8 textured triangles have no vt" in refusal(tmp_path, "a.obj", obj.replace("/1", ""))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.png", "leaves its folder"),
        ("a/../../secret.png", "leaves its folder"),
        ("..\\secret.png", "leaves its folder"),
        ("/etc/passwd", "absolute"),
        ("~/secret.png", "absolute"),
        ("C:\\secret.png", "absolute"),
        ("link.png", "a link that leaves its folder"),
        ("linked/secret.png", "a link that leaves its folder"),
        ("http://example.com/a.png", "nothing is fetched"),
        ("file:///etc/passwd", "nothing is fetched"),
        ("sub", "not a regular file"),
        ("gone.png", "No such file"),
    ],
)
def test_only_its_own_folder_is_read(tmp_path, name, reason):
    (tmp_path / "secret.png").write_bytes(png(np.zeros((2, 2, 3))))
    folder = tmp_path / "objects"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    builder = textured_box()
    builder.tree["images"] = [{"uri": name}]
    assert reason in refusal(tmp_path, "objects/a.glb", builder.glb())
    builder = wedge()
    builder.tree["buffers"] = [{"uri": name, "byteLength": 10}]
    assert reason in refusal(tmp_path, "objects/a.gltf", json.dumps(builder.tree))
    (folder / "a.mtl").write_text(f"newmtl m\nmap_Kd {name}\n")
    obj = "usemtl m\nv 0 0 0\nv 1 0 0\nv 0 1 1\nvt 0 0\nf 1/1 2/1 3/1\n"
    assert reason in refusal(tmp_path, "objects/a.obj", "mtllib a.mtl\n" + obj)
    assert reason in refusal(tmp_path, "objects/b.obj", f"mtllib {name}\n" + obj)


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        ((1, 1, 0), "flat: 1 x 0.5 x 0 of"),
        ((1, 1, 0.09), "height / width 0.09 is below 0.1"),
        ((1, 0, 1), "thin as a sheet: 1 x 0 x 1 of"),
        ((0, 1, 1), "thin as a sheet"),
        ((0, 0, 1), "without any area"),
        ((1e-3, 1, 1), "thin as a sheet"),
        ((np.nan, 1, 1), "not finite"),
        ((np.inf, 1, 1), "not finite"),
        ((1e200, 1, 1), "beyond 1e+12"),
    ],
)
def test_poor_shapes(tmp_path, scale, reason):
    with np.errstate(all="ignore"):
        places = BOX * np.array(scale)
    places = np.where(np.isnan(places), np.nan, places)
    triangles = np.concatenate([SIDES, [[0, 1, 5], [0, 5, 4]]])
    assert reason in refusal(tmp_path, "a.obj", obj_of(places, triangles))


def test_black_and_invisible_objects(tmp_path):
    def paint(tree, **material):
        tree["materials"] = [material]
        tree["meshes"][0]["primitives"][0]["material"] = 0

    black = changed(lambda t: paint(t, pbrMetallicRoughness={"baseColorFactor": [0, 0, 0, 1]}))
    assert "black all over" in refusal(tmp_path, "a.glb", black)
    clear = {"baseColorFactor": [1, 1, 1, 0]}
    glass = changed(lambda t: paint(t, pbrMetallicRoughness=clear, alphaMode="BLEND"))
    assert "invisible" in refusal(tmp_path, "b.glb", glass)


def test_vertices_that_are_not_there(tmp_path):
    assert "uses v 9 of 3" in refusal(tmp_path, "a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n")
    assert "line 2" in refusal(tmp_path, "b.obj", "v 0 0 0\nf -1 -2 -3\n")
    assert "line 1" in refusal(tmp_path, "c.obj", "v 0 zero 0\n")
    assert "vertex 9 of 6" in refusal(tmp_path, "a.glb", with_indices(np.full(3, 9)))


def with_indices(numbers) -> bytes:
    builder = GltfBuilder()
    builder.primitive(y_up(VERTICES), numbers)
    return builder.glb()


def test_long_lines_and_large_polygons(tmp_path):
    assert "has 4,000,002 bytes" in refusal(tmp_path, "a.obj", "f" + " 1" * 2_000_000 + "\n")
    assert "400,000 corners" in refusal(tmp_path, "b.obj", "f" + " 1" * 400_000 + "\n")
