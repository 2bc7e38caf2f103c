"""The container of glTF 2.0: its JSON, its buffers, and the arrays that accessors cut from them.

Written out rather than taken from trimesh, which (5.2.0) turns sparse and compressed accessors
into zeros, leaves normalised integers as they are, and drops textures that do not open, all
without an error. Every number in the JSON is checked against the bytes that are there before
anything is made of it.

Source: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

import base64
import binascii
import json
import struct
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from data_prep.fanout.task import Rejected
from data_prep.objects.own_folder import MOST_BYTES, read_beside
from data_prep.objects.rejections import MOST_TRIANGLES, NeedsConversion

Array = np.ndarray

MAGIC, JSON_CHUNK, BINARY_CHUNK = b"glTF", 0x4E4F534A, 0x004E4942
LIKELY_VERSION = 9
"""Beyond, what stands in the place of the version is no version."""
MOST_MARKS = 4_000_000
"""Brackets and commas of the JSON: each can take a hundred bytes of memory once it is parsed."""
MOST_VALUES = 3 * MOST_TRIANGLES
"""Items of one accessor."""
TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
UNDERSTOOD = (
    *("KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp"),
    *("KHR_lights_punctual", "KHR_animation_pointer", "KHR_xmp", "KHR_xmp_json_ld"),
)
"""Extensions that a file may require; besides all KHR_materials_*, which change looks only."""
DRACO, INSTANCING = "KHR_draco_mesh_compression", "EXT_mesh_gpu_instancing"


class Gltf:
    """A file's JSON, with access to what it refers to by number.

    Args:
        path: of the file; other files are read from its folder only.
        data: its bytes.

    Raises:
        Rejected: not such a file, damaged, or of another version; also by all methods.
        NeedsConversion: it uses an extension that only Blender knows.
    """

    def __init__(self, path: Path, data: bytes):
        self._path, self._inner = path, memoryview(b"")
        text: Any = data
        if data[:4] == MAGIC:
            text, self._inner = _chunks(data)
        self.tree = _parsed(text)
        self._buffers: dict[int, memoryview] = {}
        self._check_version()
        self._check_extensions()

    def _check_version(self) -> None:
        asset = self.tree.get("asset")
        if not isinstance(asset, dict) or "version" not in asset:
            raise Rejected("broken: no glTF, or one that does not say its version (asset.version)")
        version = str(asset["version"])
        if not version.startswith("2."):
            raise Rejected(f"glTF of version {version[:20]}, only 2 can be read")

    def _check_extensions(self) -> None:
        used = [str(name) for name in self.tree.get("extensionsUsed", [])]
        required = [str(name) for name in self.tree.get("extensionsRequired", [])]
        # What is used and not required can be left out; without its instances, though, an object
        # would be another.
        for name in [DRACO] * (DRACO in required) + [INSTANCING] * (INSTANCING in used + required):
            self._check_links()
            raise NeedsConversion(f"uses {name}, which only Blender reads")
        for name in required:
            if name not in UNDERSTOOD and not name.startswith("KHR_materials_"):
                raise Rejected(f"needs the extension {name[:60]!r}, which is not known here")

    def _check_links(self) -> None:
        """Refuses links that leave the folder: Blender's importer would follow them."""
        for kind in ("buffers", "images"):
            for number in range(self.count(kind)):
                if "uri" in (entry := self.entry(kind, number)):
                    self.linked(entry["uri"])

    def count(self, kind: str) -> int:
        """How many entries there are of a kind, such as 'nodes'."""
        entries = self.tree.get(kind, [])
        if not isinstance(entries, list):
            raise Rejected(f"broken: {kind} is no list")
        return len(entries)

    def entry(self, kind: str, number: Any) -> dict[str, Any]:
        """An entry by its number."""
        if type(number) is not int or not 0 <= number < self.count(kind):
            count = self.count(kind)
            raise Rejected(f"broken: it refers to {kind} {number!r:.40}, and has {count} (from 0)")
        entry = self.tree[kind][number]
        if not isinstance(entry, dict):
            raise Rejected(f"broken: {kind} {number} is no object")
        return entry

    def linked(self, uri: Any) -> bytes:
        """The bytes behind a URI: inside the JSON, or a file of the same folder."""
        if not isinstance(uri, str):
            raise Rejected("broken: a URI that is no text")
        if not uri.startswith("data:"):
            return read_beside(self._path, urllib.parse.unquote(uri))
        about, comma, content = uri.partition(",")
        if not comma or not about.endswith(";base64"):
            raise Rejected("broken: a data URI that is not base64")
        try:
            return base64.b64decode(content)
        except (binascii.Error, ValueError) as error:
            raise Rejected(f"broken: a data URI that is not base64: {error}") from error

    def view(self, number: Any) -> memoryview:
        """The bytes of a buffer view."""
        view = self.entry("bufferViews", number)
        start, length = _natural(view, "byteOffset", 0), _natural(view, "byteLength")
        buffer = self._buffer(view.get("buffer"))
        if start + length > len(buffer):
            raise Rejected(
                f"broken: bufferView {number} ends at byte {start + length:,} of {len(buffer):,}"
            )
        return buffer[start : start + length]

    def _buffer(self, number: Any) -> memoryview:
        buffer = self.entry("buffers", number)
        if number not in self._buffers:
            if "uri" not in buffer and not self._inner:
                raise Rejected(f"broken: buffer {number} has neither a uri nor a binary chunk")
            self._buffers[number] = (
                memoryview(self.linked(buffer["uri"])) if "uri" in buffer else self._inner
            )
            held = sum(len(content) for content in self._buffers.values())
            if held > MOST_BYTES:
                raise Rejected(f"buffers of {held:,} bytes, more than {MOST_BYTES:,}")
        return self._buffers[number][: _natural(buffer, "byteLength")]

    def length(self, number: Any) -> int:
        """The items of an accessor, as it declares them."""
        length = _natural(self.entry("accessors", number), "count")
        if length > MOST_VALUES:
            raise Rejected(f"accessor {number} has {length:,} items, more than {MOST_VALUES:,}")
        return length

    def numbers(self, number: Any, kind: str) -> Num[Array, "n w"]:
        """The content of an accessor: integers as they are, or as floats if they are normalised.

        Args:
            kind: types that it may have, such as 'VEC3 VEC4'.
        """
        accessor, length = self.entry("accessors", number), self.length(number)
        if accessor.get("type") not in kind.split() or accessor.get("componentType") not in TYPES:
            raise Rejected(f"broken: accessor {number} is not of type {kind}")
        dtype, width = np.dtype(TYPES[accessor["componentType"]]), WIDTHS[accessor["type"]]
        if "bufferView" in accessor:
            values = self._cut(accessor, length, dtype, width)
        else:
            values = np.zeros((length, width), dtype)
        if "sparse" in accessor:
            values = self._with_exceptions(values, accessor["sparse"])
        if accessor.get("normalized") and dtype.kind != "f":
            values = np.maximum(values / np.float32(np.iinfo(dtype).max), -1.0)
        return values

    def _cut(self, place: dict, length: int, dtype: np.dtype, width: int) -> Num[Array, "n w"]:
        view = self.view(place["bufferView"])
        row = dtype.itemsize * width
        step = _natural(self.entry("bufferViews", place["bufferView"]), "byteStride", row)
        start = _natural(place, "byteOffset", 0)
        end = start + max(0, length - 1) * step + (row if length else 0)
        if step < row or end > len(view):
            raise Rejected(
                f"broken: {length:,} items of {row} bytes, {step} apart, do not fit into "
                f"bufferView {place['bufferView']} of {len(view):,} bytes"
            )
        shape, steps = (length, width), (step, dtype.itemsize)
        return np.ndarray(shape, dtype, view, start, steps) if length else np.zeros(shape, dtype)

    def _with_exceptions(self, values: Num[Array, "n w"], sparse: dict) -> Num[Array, "n w"]:
        """Values of which some are given one by one."""
        length = _natural(sparse, "count")
        if length > len(values):
            raise Rejected(f"broken: {length:,} sparse items for {len(values):,}")
        where = sparse["indices"]
        kind = np.dtype(TYPES[where["componentType"]])
        at = self._cut(where, length, kind, 1)[:, 0]
        if length and (kind.kind != "u" or at.max() >= len(values)):
            raise Rejected("broken: a sparse item out of range")
        values = values.copy()
        values[at] = self._cut(sparse["values"], length, values.dtype, values.shape[1])
        return values


def _natural(entry: dict[str, Any], key: str, otherwise: int | None = None) -> int:
    value = entry.get(key, otherwise)
    if type(value) is not int or not 0 <= value < 2**40:
        raise Rejected(f"broken: {key} is {value!r:.40}")
    return value


def _chunks(data: bytes) -> tuple[memoryview, memoryview]:
    """JSON and binary chunk of a GLB."""
    if len(data) < 20:
        raise Rejected(f"broken: {len(data)} bytes, too short for a GLB")
    version, length = struct.unpack("<II", data[4:12])
    if not 1 <= version <= LIKELY_VERSION:
        raise Rejected(
            "broken: no GLB that can be read, truncated or of another format: "
            f"{data[4:8]!r} stands where the version should be"
        )
    if version != 2:
        raise Rejected(f"glTF of version {version}, only 2 can be read")
    if length > len(data):
        raise Rejected(f"cut off: {len(data):,} of {length:,} bytes")
    found: dict[int, memoryview] = {}
    start = 12
    while start + 8 <= length:
        size, kind = struct.unpack("<II", data[start : start + 8])
        if start + 8 + size > length:
            raise Rejected(f"broken: a chunk of {size:,} bytes goes beyond the file's {length:,}")
        found.setdefault(kind, memoryview(data)[start + 8 : start + 8 + size])
        start += 8 + size
    if JSON_CHUNK not in found:
        raise Rejected("broken: a GLB without a JSON chunk")
    return found[JSON_CHUNK], found.get(BINARY_CHUNK, memoryview(b""))


def _parsed(text: Any) -> dict[str, Any]:
    content = bytes(text)
    marks = sum(content.count(mark) for mark in (b",", b"[", b"{"))
    if marks > MOST_MARKS:
        raise Rejected(f"JSON of {marks:,} brackets and commas, more than {MOST_MARKS:,}")
    try:
        tree = json.loads(content.decode("utf-8-sig"))
    except RecursionError as error:
        raise Rejected("broken: JSON that is nested too deeply") from error
    except ValueError as error:
        raise Rejected(f"broken: no JSON: {str(error)[:100]}") from error
    if not isinstance(tree, dict):
        raise Rejected(f"broken: the JSON is a {type(tree).__name__}, not an object")
    return tree
