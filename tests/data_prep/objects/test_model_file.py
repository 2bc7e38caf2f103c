"""Models on disk: nothing is lost, equal models are equal bytes, and nothing is unpickled."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from made_objects import textured_box

from data_prep.objects.model_file import load_model, save_model
from data_prep.objects.object_file import read_object


@pytest.fixture
def model(tmp_path):
    (tmp_path / "a.glb").write_bytes(textured_box(alphaMode="MASK", emissiveFactor=[1, 0, 0]).glb())
    return read_object(tmp_path / "a.glb")


def check_equal(one, other):
    for name in ("vertices", "triangles", "normals", "uv", "colours", "material_of"):
        assert getattr(one, name).dtype == getattr(other, name).dtype
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for left, right in zip(one.materials, other.materials, strict=True):
        assert left._replace(texture=None) == right._replace(texture=None)
        np.testing.assert_array_equal(left.texture, right.texture)


def test_round_trip_with_the_same_bytes(tmp_path, model, monkeypatch):
    save_model(model, tmp_path / "a.npz")
    check_equal(model, load_model(tmp_path / "a.npz"))
    monkeypatch.setattr(time, "time", lambda: 2e9)
    save_model(load_model(tmp_path / "a.npz"), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.glb", "a.npz", "b.npz"]


def test_shared_textures_are_stored_once(tmp_path, model):
    twice = model._replace(materials=(model.materials[1],) * 2)
    save_model(twice, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as content:
        assert content["texture_of"].tolist() == [0, 0]
        assert "texture_1" not in content
    loaded = load_model(tmp_path / "a.npz")
    assert loaded.materials[0].texture is loaded.materials[1].texture


def test_damaged_files_are_named(tmp_path, model):
    save_model(model, tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    for content in (whole[:1000], b"", b"something else"):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"b\.npz"):
            load_model(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", vertices=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        load_model(tmp_path / "c.npz")


def test_needs_nothing_but_numpy(tmp_path, model):
    """The render environment has neither jaxtyping nor Pillow nor trimesh."""
    save_model(model, tmp_path / "a.npz")
    code = (
        "import sys\n"
        "for name in ('jaxtyping', 'PIL', 'trimesh', 'cv2', 'jax', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from data_prep.objects.model_file import load_model\n"
        "print(len(load_model(Path(sys.argv[1])).triangles))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(model.triangles)
