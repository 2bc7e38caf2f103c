"""Reads an object that somebody else made: one normalised model, or the reason why not.

Nothing in a file is executed, every size is checked before memory is taken for it, and files that
it names are read from its own folder only. What is left (time, and memory of the order of some
gigabytes for the largest allowed) is for the process around this to bound.

Formats: .glb and .gltf (2.0), .obj with .mtl, .ply, .stl; y up becomes z up where the format says
so. Blender converts .fbx, .usd, .usda, .usdc, .usdz and Draco-compressed glTF (`convert`).
"""

import struct
from collections.abc import Callable
from pathlib import Path

from data_prep.fanout.task import Rejected
from data_prep.objects.gltf_scene import read_gltf
from data_prep.objects.model import Model
from data_prep.objects.obj_file import read_obj
from data_prep.objects.own_folder import read_file
from data_prep.objects.parts import Part, merged
from data_prep.objects.ply_file import read_ply
from data_prep.objects.rejections import NeedsConversion, check
from data_prep.objects.stl_file import is_binary, read_stl

READERS: dict[str, Callable[[Path, bytes], list[Part]]] = {
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".ply": read_ply,
    ".stl": read_stl,
}
CONVERTED = (".fbx", ".usd", ".usda", ".usdc", ".usdz")
SUPPORTED = (*READERS, *CONVERTED)

STARTS = {
    ".glb": (b"glTF",),
    ".ply": (b"ply\n", b"ply\r\n", b"ply "),
    ".fbx": (b"Kaydara FBX Binary", b"; FBX"),
    ".usd": (b"PXR-USDC", b"#usda"),
    ".usda": (b"#usda",),
    ".usdc": (b"PXR-USDC",),
    ".usdz": (b"PK\x03\x04",),
}
"""How files of a suffix start; the others have no such mark."""
STRANGERS = {
    b"BLENDER": "a Blender file, which may carry scripts",
    b"(\xb5/\xfd": "compressed with zstd (as Blender files are)",
    b"\x1f\x8b": "compressed with gzip",
    b"PK\x03\x04": "a zip archive",
    b"Rar!": "a rar archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"%PDF": "a PDF",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"glTF": "a GLB",
    b"Kaydara FBX Binary": "an FBX",
    b"PXR-USDC": "a USDC",
    b"#usda": "a USDA",
    b"version https://git-lfs": "a Git LFS pointer: the object itself was not downloaded",
}
UNREADABLE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
    *(RecursionError, MemoryError, ZeroDivisionError, struct.error, OSError),
)
"""What damage that no check foresaw can end with."""


def read_object(path: Path) -> Model:
    """Reads an object file.

    Returns:
        The model, normalised: largest side 1, standing on z = 0, looking along -y.

    Raises:
        NeedsConversion: only Blender reads this; `convert` it and read the result.
        Rejected: with the reason and its numbers.
    """
    suffix = path.suffix.lower()
    if suffix == ".blend":
        raise Rejected("a .blend may carry scripts: export it from Blender as .glb")
    if suffix not in SUPPORTED:
        raise Rejected(f"{suffix or 'a name without suffix'} is not one of {' '.join(SUPPORTED)}")
    data = read_file(path)
    check_content(suffix, data)
    if suffix in CONVERTED:
        raise NeedsConversion(f"{suffix} is read by way of Blender only")
    try:
        model = merged(READERS[suffix](path, data))
        check(model)
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise Rejected(f"broken {suffix} file ({reason})") from error
    return model


def check_content(suffix: str, data: bytes) -> None:
    """Refuses content that is not of the kind that the suffix says.

    Raises:
        Rejected: naming what it is instead, where that can be told.
    """
    if not data:
        raise Rejected("an empty file")
    marks = STARTS.get(suffix)
    if marks and data.startswith(marks):
        return
    found = next((what for start, what in STRANGERS.items() if data.startswith(start)), None)
    if data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05":
        found = "a Python pickle, which is a program (it was not run)"
    start = data[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        found = "a web page or XML"
    if found and not (suffix == ".stl" and is_binary(data)):  # a header may say anything
        raise Rejected(f"named {suffix}, but it is {found}")
    if marks:
        raise Rejected(f"named {suffix}, but it starts with {data[:12]!r}")
    if suffix == ".gltf" and not start.startswith(b"{"):
        raise Rejected(f"named .gltf, but it is no JSON object: it starts with {data[:12]!r}")
    if suffix == ".obj" and b"\0" in data[:4096]:
        raise Rejected("named .obj, but it is no text (perhaps a compiler's object file)")
