"""Wavefront OBJ: polygons with materials; y up, which becomes z up as in Blender's importer.

Written out rather than taken from trimesh, which (5.2.0) drops the texture coordinates of a whole
material when one face has none, counts relative vertex numbers from the end of the file, reads one
material library only, and passes over textures that do not open.
"""

import io
from array import array
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from data_prep.fanout.task import Rejected
from data_prep.objects.colour import linear
from data_prep.objects.mtl_file import read_materials
from data_prep.objects.own_folder import read_beside
from data_prep.objects.parts import PLAIN, Part, compacted
from data_prep.objects.polygons import triangulated
from data_prep.objects.rejections import MOST_TRIANGLES, check_triangles

Array = np.ndarray

MOST_TEXT_BYTES = 600_000_000
MOST_LINE_BYTES = 1_000_000
MOST_CORNERS = 10_000
"""Of one polygon."""
MOST_VERTICES = 3 * MOST_TRIANGLES
Z_UP = (1.0, -1.0, 1.0)
"""Signs of x, z, y in the places of x, y, z."""
MOST_LIBRARIES, MOST_LIBRARY_BYTES = 20, 10_000_000


def read_obj(path: Path, data: bytes) -> list[Part]:
    """The parts of the file, one for each material.

    Raises:
        Rejected: damaged, too large, or a material library or texture cannot be had.
    """
    if len(data) > MOST_TEXT_BYTES:
        raise Rejected(f"{len(data):,} bytes of text, more than {MOST_TEXT_BYTES:,}")
    lines = _Lines()
    for number, line in enumerate(io.BytesIO(data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" "))):
        if len(line) > MOST_LINE_BYTES:
            raise Rejected(f"line {number + 1} has {len(line):,} bytes")
        try:
            lines.take(line.split())
        except IndexError as error:
            said = as_text(line.strip())[:60]
            raise Rejected(f"broken: line {number + 1}, too few numbers: {said!r}") from error
        except (ValueError, OverflowError) as error:
            raise Rejected(f"broken: line {number + 1}: {str(error)[:100]}") from error
    if not lines.sizes:
        check_triangles(0)
    return _parts(path, lines)


class _Lines:
    """What the lines of a file say, in flat arrays."""

    def __init__(self):
        self.places, self.colours = array("d"), array("f")
        self.uv, self.normals = array("d"), array("d")
        self.corners = [array("q") for _ in range(3)]
        """Numbers into places, uv and normals of each corner of each polygon; -1 for none."""
        self.sizes, self.material_of = array("q"), array("q")
        self.names: dict[str, int] = {"": 0}
        self.libraries: list[str] = []
        self._material, self._triangles = 0, 0
        self._takers = {
            **{b"v": self._take_place, b"vt": self._take_uv, b"vn": self._take_normal},
            **{b"f": self._take_polygon, b"usemtl": self._take_name},
            b"mtllib": self._take_library,
        }

    def take(self, words: list[bytes]) -> None:
        """Follows one line; lines, curves, groups and comments are passed over."""
        if words and (taker := self._takers.get(words[0])):
            taker(words[1:])

    def _take_place(self, words: list[bytes]) -> None:
        self.places.extend((float(words[0]), float(words[1]), float(words[2])))
        if len(words) >= 6:
            before = len(self.places) - 3 - len(self.colours)
            self.colours.extend([1.0] * before)
            self.colours.extend([float(word) for word in words[3:6]])
        if len(self.places) > 3 * MOST_VERTICES:
            raise ValueError(f"more than {MOST_VERTICES:,} vertices")

    def _take_uv(self, words: list[bytes]) -> None:
        self.uv.extend((float(words[0]), float(words[1]) if len(words) > 1 else 0.0))

    def _take_normal(self, words: list[bytes]) -> None:
        self.normals.extend((float(words[0]), float(words[1]), float(words[2])))

    def _take_polygon(self, words: list[bytes]) -> None:
        if len(words) < 3:
            return
        if len(words) > MOST_CORNERS:
            raise ValueError(f"a polygon of {len(words):,} corners, more than {MOST_CORNERS:,}")
        self._triangles += len(words) - 2
        check_triangles(self._triangles)
        counts = (len(self.places) // 3, len(self.uv) // 2, len(self.normals) // 3)
        for word in words:
            numbers = word.split(b"/")
            for kind in range(3):
                number = int(numbers[kind]) if kind < len(numbers) and numbers[kind] else 0
                # 1 is the first; -1 the latest so far; 0 stands for none.
                number = number - 1 if number >= 0 else counts[kind] + number
                if number < (0 if kind == 0 else -1):
                    raise ValueError(f"no such corner: {as_text(word[:40])!r}")
                self.corners[kind].append(number)
        self.sizes.append(len(words))
        self.material_of.append(self._material)

    def _take_name(self, words: list[bytes]) -> None:
        name = as_text(b" ".join(words))
        self._material = self.names.setdefault(name, len(self.names))

    def _take_library(self, words: list[bytes]) -> None:
        self.libraries.append(as_text(b" ".join(words)))


def as_text(name: bytes) -> str:
    """A name as text, whatever its encoding."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _parts(path: Path, lines: _Lines) -> list[Part]:
    places = _rows(lines.places, 3)[:, [0, 2, 1]] * Z_UP
    normals = _rows(lines.normals, 3)[:, [0, 2, 1]] * Z_UP
    uv = _rows(lines.uv, 2) * (1.0, -1.0) + (0.0, 1.0)
    place_of, uv_of, normal_of = (np.array(numbers) for numbers in lines.corners)
    for name, numbers, rows in (
        ("v", place_of, places),
        ("vt", uv_of, uv),
        ("vn", normal_of, normals),
    ):
        if numbers.max() >= len(rows):
            raise Rejected(f"broken: a face uses {name} {numbers.max() + 1:,} of {len(rows):,}")
    triangles, polygons = triangulated(np.array(lines.sizes), places[place_of])
    colours = None
    if lines.colours:
        lines.colours.extend([1.0] * (len(lines.places) - len(lines.colours)))
        colours = linear(_rows(lines.colours, 3))
    materials = _materials(path, lines, coloured=colours is not None)
    material_of = np.array(lines.material_of)[polygons]
    parts = []
    for number in np.unique(material_of):
        corners = triangles[material_of == number]
        material, visible = materials[number]
        if material.texture is not None and (uv_of[corners] < 0).any():
            raise Rejected(
                f"{(uv_of[corners] < 0).any(axis=1).sum():,} textured triangles have no vt"
            )
        used, among_used = compacted(place_of[corners])
        parts.append(
            Part(
                places[used],
                among_used,
                material,
                _picked(normals, normal_of[corners]),
                _picked(uv, uv_of[corners]),
                None if colours is None else colours[place_of[corners]],
                visible,
            )
        )
    return parts


def _rows(values: array, width: int) -> Float64[Array, "n width"]:
    return np.array(values).reshape(-1, width)


def _picked(values: Float64[Array, "n w"], numbers: Int64[Array, "t 3"]) -> Array | None:
    """The value of each corner, zeros where it has none."""
    if not len(values):
        return None
    return np.where(numbers[..., None] >= 0, values[numbers], 0.0).astype(np.float32)


def _materials(path: Path, lines: _Lines, coloured: bool) -> list:
    """Material and whether it can be seen, for each name in use; PLAIN where nothing defines it."""
    libraries = list(dict.fromkeys(lines.libraries))
    if len(libraries) > MOST_LIBRARIES:
        raise Rejected(f"{len(libraries)} material libraries, more than {MOST_LIBRARIES}")
    texts = []
    for library in libraries:
        texts.append(read_beside(path, library))
        if len(texts[-1]) > MOST_LIBRARY_BYTES:
            raise Rejected(f"material library {library[:60]!r} has {len(texts[-1]):,} bytes")
    used = {name for name, number in lines.names.items() if number in set(lines.material_of)}
    known = read_materials(path, texts, used)
    plain = PLAIN._replace(base_colour=(1.0, 1.0, 1.0)) if coloured else PLAIN
    return [known.get(name, (plain, True)) for name in lines.names]
