"""Models on disk, for the render environment: one .npz each, without pickle.

Equal models give equal bytes, so a digest of the file names the model. NumPy and the standard
library only: the render environment reads these files too.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np

from data_prep.objects.model import Material, Model

ARRAYS = ("vertices", "triangles", "normals", "uv", "colours", "material_of")
NUMBERS = 9
"""Of a material: base colour, metallic, roughness, emissive, alpha cutoff."""
LONG_AGO = (1980, 1, 1, 0, 0, 0)


def save_model(model: Model, path: Path) -> None:
    """Writes a model; what was there is replaced at once or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(getattr(model, name)) for name in ARRAYS}
    arrays["materials"] = np.array(
        [
            (*m.base_colour, m.metallic, m.roughness, *m.emissive, m.alpha_cutoff)
            for m in model.materials
        ],
        np.float64,
    ).reshape(-1, NUMBERS)
    # Materials may share a texture; it is stored once.
    textures: dict[int, int] = {}
    texture_of = np.full(len(model.materials), -1, np.int32)
    for i, material in enumerate(model.materials):
        if material.texture is not None:
            number = textures.setdefault(id(material.texture), len(textures))
            arrays[f"texture_{number}"] = np.ascontiguousarray(material.texture)
            texture_of[i] = number
    arrays["texture_of"] = texture_of
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        _write(arrays, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write(arrays: dict[str, np.ndarray], path: Path) -> None:
    """As np.savez_compressed, but with no clock in it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            about = zipfile.ZipInfo(f"{name}.npy", LONG_AGO)
            about.external_attr = 0o644 << 16
            archive.writestr(about, content.getbuffer(), zipfile.ZIP_DEFLATED, compresslevel=1)


def load_model(path: Path) -> Model:
    """Reads what `save_model` wrote.

    Raises:
        ValueError: the file is not such a file, or damaged.
        OSError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        textures = {
            number: arrays[f"texture_{number}"]
            for number in set(arrays["texture_of"].tolist()) - {-1}
        }
        materials = tuple(
            _material(row, textures.get(number))
            for row, number in zip(
                arrays["materials"].tolist(), arrays["texture_of"].tolist(), strict=True
            )
        )
        return Model(**{name: arrays[name] for name in ARRAYS}, materials=materials)
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no whole model file: {error}") from error


def _material(numbers: list[float], texture: np.ndarray | None) -> Material:
    red, green, blue, metallic, roughness, *emissive, cutoff = numbers
    return Material((red, green, blue), metallic, roughness, tuple(emissive), texture, cutoff)
