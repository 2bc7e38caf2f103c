"""What is said of broken files: what is wrong with them, not what our code did with them."""

import json

from made_objects import glb, wedge
from test_object_refusals import changed, refusal


def test_what_starts_as_a_glb_and_is_none(tmp_path):
    text = refusal(tmp_path, "a.glb", "glTF, or so this text says")
    assert "no GLB that can be read, truncated or of another format: b', or'" in text
    whole = wedge().glb()
    assert "version 1, only 2" in refusal(tmp_path, "a.glb", whole[:4] + b"\1" + whole[5:])


def test_references_and_fields_that_are_not_there(tmp_path):
    def says(change) -> str:
        return refusal(tmp_path, "a.glb", changed(change))

    assert "refers to meshes 7, and has 1 (from 0)" in says(lambda t: t["nodes"][0].update(mesh=7))
    assert "has no POSITION" in says(
        lambda t: t["meshes"][0]["primitives"][0]["attributes"].clear()
    )
    assert "no list of primitives" in says(lambda t: t["meshes"][0].clear())
    assert "does not say its version" in says(lambda t: t["asset"].clear())
    assert "does not say its version" in says(lambda t: t.update(asset=[]))
    tree = json.dumps(wedge().tree | {"buffers": [{"byteLength": 120}]}).encode()
    assert "neither a uri nor a binary chunk" in refusal(tmp_path, "b.glb", glb(tree))


def test_files_that_are_too_short_or_of_another_kind(tmp_path):
    ply = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
    ply += "property float z\nelement face 1\nproperty list uchar int vertex_indices\n"
    faces = "end_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -2\n"
    assert "vertex -2 of 3" in refusal(tmp_path, "a.ply", ply + faces)
    assert "no line end_header" in refusal(tmp_path, "b.ply", ply)
    assert "too few numbers: 'v 0 0'" in refusal(tmp_path, "a.obj", "v 0 0\n")
    assert "10 bytes, neither STL" in refusal(tmp_path, "a.stl", b"0123456789")
    cut = "solid a\nfacet\nouter loop\nvertex 0 0 0\nvertex 1 0 0\n"
    assert "no endsolid after 2 corners" in refusal(tmp_path, "b.stl", cut)
