"""PLY, text and binary, with polygons of any size: vertices, their colours, normals and texture.

Axes as in the file. Colours count as sRGB, as in Blender's importer. Written out rather than taken
from trimesh, which (5.2.0) refuses binary files that mix triangles and quads, as Blender writes.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from data_prep.fanout.task import Rejected
from data_prep.objects.colour import linear
from data_prep.objects.own_folder import read_beside
from data_prep.objects.parts import PLAIN, Part, compacted
from data_prep.objects.polygons import triangulated
from data_prep.objects.rejections import MOST_TRIANGLES, check_triangles
from data_prep.objects.textures import Textures

Array = np.ndarray

KINDS = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
MOST_HEADER_BYTES = 100_000
MOST_VERTICES = 3 * MOST_TRIANGLES
MOST_TEXT_BYTES = 600_000_000
POLYGON = ("vertex_indices", "vertex_index")
UV_NAMES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))


class _Property(NamedTuple):
    """A column; of lists, `length` is the type of their lengths."""

    name: str
    kind: str
    length: str | None


class _Element(NamedTuple):
    """A table."""

    name: str
    rows: int
    properties: list[_Property]


class _Table(NamedTuple):
    """The content of a table: columns, and lists as their lengths and all values in a row."""

    columns: dict[str, Array]
    lists: dict[str, tuple[Int64[Array, "n"], Array]]


def read_ply(path: Path, data: bytes) -> list[Part]:
    """The one part of the file.

    Raises:
        Rejected: damaged, too large, without faces, or its texture cannot be had.
    """
    head, body = _split(data)
    order, elements, texture = _described(head)
    if order is None and len(body) > MOST_TEXT_BYTES:
        raise Rejected(f"{len(body):,} bytes of text, more than {MOST_TEXT_BYTES:,}")
    tables = _tables(order, elements, body)
    if "vertex" not in tables or "face" not in tables:
        check_triangles(0)
    return [_part(path, tables["vertex"], tables["face"], texture)]


def _split(data: bytes) -> tuple[str, memoryview]:
    end = re.search(rb"\nend_header[ \t]*\r?\n", data[:MOST_HEADER_BYTES])
    if not end:
        looked = min(len(data), MOST_HEADER_BYTES)
        raise Rejected(f"broken: no line end_header, the header's end, in {looked:,} bytes")
    return data[: end.start()].decode("latin-1"), memoryview(data)[end.end() :]


def _described(head: str) -> tuple[str | None, list[_Element], str | None]:
    """Byte order ('<', '>', None for text), tables and texture file of a header."""
    orders = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}
    order, elements, texture = "?", [], None
    for line in head.splitlines()[1:]:
        match line.split():
            case ["format", kind, _]:
                order = orders.get(kind, "?")
            case ["comment", "TextureFile", *_]:
                texture = line.split("TextureFile", 1)[1].strip()
            case ["element", name, rows]:
                elements.append(_Element(name, _natural(rows), []))
            case ["property", "list", length, kind, name] if elements and {length, kind} <= set(
                KINDS
            ):
                elements[-1].properties.append(_Property(name, KINDS[kind], KINDS[length]))
            case ["property", kind, name] if elements and kind in KINDS:
                elements[-1].properties.append(_Property(name, KINDS[kind], None))
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise Rejected(f"broken: the header has {line[:60]!r}")
    if order == "?":
        raise Rejected("broken: the header names no known format")
    return order, elements, texture


def _natural(word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", word):
        raise Rejected(f"broken: a table of {word[:40]!r} rows")
    return int(word)


def _tables(order: str | None, elements: list[_Element], body: memoryview) -> dict[str, _Table]:
    for element in elements:
        most = MOST_TRIANGLES if element.name == "face" else MOST_VERTICES
        if element.rows > most:
            raise Rejected(f"{element.rows:,} rows of {element.name[:40]}, more than {most:,}")
    if order is None:
        try:
            body = np.array(bytes(body).split(), dtype=np.float64)
        except ValueError as error:
            raise Rejected(f"broken: {str(error)[:100]}") from error
    tables, start = {}, 0
    for element in elements:
        least = element.rows * len(element.properties)
        if start + least > len(body):
            raise Rejected(f"cut off: {element.rows:,} rows of {element.name[:40]} do not fit")
        tables[element.name], start = _table(order, element, body, start)
        if "face" in tables and "vertex" in tables:
            break  # edges and whatever else are of no use
    return tables


def _table(order: str | None, element: _Element, body: Array, start: int) -> tuple[_Table, int]:
    """One table that starts at a byte (or, in text, a number), and where it ends."""
    properties = element.properties
    lists = [p for p in properties if p.length]
    if not lists:
        dtype = _row_type(order, properties)
        size = len(properties) if order is None else dtype.itemsize
        rows = body[start : start + element.rows * size]
        if len(rows) < element.rows * size:
            raise Rejected(f"cut off: {element.rows:,} rows of {element.name[:40]} do not fit")
        if order is None:
            rows = rows.reshape(-1, size)
            return _Table(
                {p.name: rows[:, i] for i, p in enumerate(properties)}, {}
            ), start + rows.size
        table = np.frombuffer(rows, dtype)
        return _Table({p.name: table[p.name] for p in properties}, {}), start + len(rows)
    return _walked(order, element, body, start)


def _row_type(order: str | None, properties: list[_Property]) -> np.dtype:
    names = [p.name for p in properties]
    if len(set(names)) < len(names):
        raise Rejected("broken: a table has two columns of one name")
    return np.dtype([(p.name, (order or "<") + p.kind) for p in properties])


def _walked(order: str | None, element: _Element, body: Array, start: int) -> tuple[_Table, int]:
    """A table with lists, row by row: only the lengths say where the next row starts."""
    places: dict[str, list[int]] = {p.name: [] for p in element.properties}
    lengths: dict[str, list[int]] = {p.name: [] for p in element.properties if p.length}
    steps = []
    for p in element.properties:
        size = 1 if order is None else np.dtype(p.kind).itemsize
        head = 1 if order is None else np.dtype(p.length or p.kind).itemsize
        steps.append((p.name, places[p.name], lengths.get(p.name), p.length, head, size))
    at, end = start, len(body)
    little = "big" if order == ">" else "little"
    for _ in range(element.rows):
        for _, found, counts, is_list, head, size in steps:
            if at + head > end:
                raise Rejected(f"cut off: {element.rows:,} rows of {element.name[:40]} do not fit")
            if counts is None:
                found.append(at)
                at += head
                continue
            if order is None:
                count = int(body[at])
            else:
                count = int.from_bytes(body[at : at + head], little, signed=is_list[0] == "i")
            at += head
            if count < 0 or at + count * size > end:
                raise Rejected(f"broken: a list of {count:,} items in {element.name[:40]}")
            found.append(at)
            counts.append(count)
            at += count * size
    return _gathered(order, element, body, places, lengths), at


def _gathered(
    order: str | None, element: _Element, body: Array, places: dict, lengths: dict
) -> _Table:
    """The values at the places that were found."""
    columns, lists = {}, {}
    for p in element.properties:
        starts = np.array(places[p.name], np.int64)
        counts = np.array(lengths.get(p.name, np.ones(len(starts))), np.int64)
        size = 1 if order is None else np.dtype(p.kind).itemsize
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(starts, counts) + size * within
        if order is None:
            values = body[at]
        else:
            content = np.frombuffer(body, np.uint8)
            values = content[at[:, None] + np.arange(size)].view(order + p.kind).ravel()
        if p.length:
            lists[p.name] = (counts, values)
        else:
            columns[p.name] = values
    return _Table(columns, lists)


def _part(path: Path, vertex: _Table, face: _Table, texture: str | None) -> Part:
    columns = vertex.columns
    missing = [name for name in "xyz" if name not in columns]
    polygon = next((name for name in POLYGON if name in face.lists), None)
    if missing or polygon is None:
        raise Rejected(f"broken: no {', '.join(missing) or 'list of vertices for the faces'}")
    places = _stacked(columns, ("x", "y", "z"))
    sizes, numbers = face.lists[polygon]
    keep = sizes >= 3
    check_triangles(int((sizes[keep] - 2).sum()))
    corner_keep = np.repeat(keep, sizes)
    numbers = numbers[corner_keep].astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= len(places):
        wrong = numbers.min() if numbers.min() < 0 else numbers.max()
        raise Rejected(f"broken: a face uses vertex {wrong:,} of {len(places):,} (from 0)")
    triangles, _ = triangulated(sizes[keep], places[numbers])
    corners = numbers[triangles]
    normals = _stacked(columns, ("nx", "ny", "nz"))
    colours = _colours(columns)
    uv = _uv(columns, face, corner_keep, sizes, numbers)
    material = PLAIN if colours is None else PLAIN._replace(base_colour=(1.0, 1.0, 1.0))
    if texture is not None:
        if uv is None:
            raise Rejected(f"names the texture {texture[:60]!r} and has no texture coordinates")
        picture = Textures(1).decode(read_beside(path, texture), repr(texture[:60]))
        material = PLAIN._replace(base_colour=(1.0, 1.0, 1.0), texture=picture)
    used, among_used = compacted(corners)
    return Part(
        places[used],
        among_used,
        material,
        None if normals is None else normals[corners].astype(np.float32),
        None if uv is None else uv[triangles].astype(np.float32),
        None if colours is None else colours[corners],
    )


def _stacked(columns: dict[str, Array], names: tuple[str, ...]) -> Float64[Array, "n w"] | None:
    if any(name not in columns for name in names):
        return None
    return np.stack([columns[name].astype(np.float64) for name in names], axis=-1)


def _colours(columns: dict[str, Array]) -> Array | None:
    """Linear RGB of each vertex: whole numbers are of 255 (text has them as floats too)."""
    values = _stacked(columns, ("red", "green", "blue"))
    if values is None:
        return None
    whole = columns["red"].dtype.kind != "f" or np.nanmax(values, initial=0.0) > 1.0
    return linear(np.nan_to_num(values) / (255.0 if whole else 1.0))


def _uv(
    columns: dict[str, Array], face: _Table, corner_keep: Array, sizes: Array, numbers: Array
) -> Float64[Array, "c 2"] | None:
    """Texture coordinates of each corner: from the faces, else from the vertices."""
    if "texcoord" in face.lists:
        counts, values = face.lists["texcoord"]
        if not np.array_equal(counts, 2 * sizes):
            raise Rejected("broken: faces whose texture coordinates are not two for each corner")
        uv = values.astype(np.float64).reshape(-1, 2)[corner_keep]
    else:
        found = (uv for names in UV_NAMES if (uv := _stacked(columns, names)) is not None)
        uv = next(found, None)
        if uv is None:
            return None
        uv = uv[numbers]
    if not math.isfinite(float(np.abs(uv).max(initial=0.0))):
        raise Rejected("broken: texture coordinates that are not finite")
    return uv * (1.0, -1.0) + (0.0, 1.0)
