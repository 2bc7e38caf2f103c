"""Files with random damage: a model or a reason comes out, nothing else, in bounded time."""

import time
import tracemalloc

import numpy as np
import pytest
import trimesh
from made_objects import TRIANGLES, VERTICES, obj_of, png, textured_box

from data_prep.fanout.task import Rejected
from data_prep.objects.object_file import read_object

MOST_MEMORY = 400_000_000


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl"])
def test_random_damage_ends_in_a_model_or_a_reason(tmp_path, suffix):
    """200 files, each with a few bytes changed, moved or lost."""
    rng = np.random.default_rng(len(suffix) + ord(suffix[0]))
    (tmp_path / "t.png").write_bytes(png(np.full((4, 4, 3), 200)))
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd t.png\nKd 1 1 1\nNs 10\n")
    whole = whole_file(tmp_path, suffix)
    counts = {"model": 0, "reason": 0}
    tracemalloc.start()
    start = time.monotonic()
    for number in range(200):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(damaged(whole, rng))
        try:
            model = read_object(path)
            assert np.isfinite(model.vertices).all()
            assert np.isfinite(model.normals).all()
            assert np.isfinite(model.uv).all()
            counts["model"] += 1
        except Rejected as error:
            counts["reason"] += bool(str(error))
        path.unlink()
    assert time.monotonic() - start < 60
    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()
    assert sum(counts.values()) == 200
    assert min(counts.values()) > 5, counts


def whole_file(folder, suffix) -> bytes:
    if suffix == "glb":
        return textured_box().glb()
    if suffix == "obj":
        faces = "".join("f {}/1 {}/1 {}/1\n".format(*(t + 1)) for t in TRIANGLES)
        return f"mtllib a.mtl\nvt 0.5 0.5\n{obj_of(VERTICES, [])}\nusemtl m\n{faces}".encode()
    return bytes(trimesh.Trimesh(VERTICES, TRIANGLES, process=False).export(file_type=suffix))


def damaged(whole: bytes, rng) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.integers(1, 5)):
        at, kind = int(rng.integers(len(data))), rng.integers(5)
        if kind == 0:
            data[at] = int(rng.integers(256))
        elif kind == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[at : at + int(rng.integers(1, 9))] = b""
        elif kind == 3:
            data[at:at] = bytes(data[at : at + int(rng.integers(1, 30))])
        elif chr(data[at]).isdigit():
            data[at : at + 1] = rng.choice([b"-1", b"99999999999", b"1e999", b"null", b"[]"])
    return bytes(data)
