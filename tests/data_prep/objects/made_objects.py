"""Object files made in code, for the tests of `data_prep.objects`."""

import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

from data_prep.objects.object_file import read_object

# A wedge whose sides and corners all differ, z up, looking along -y; triangles turn outwards.
VERTICES = np.array(
    [[0, 0, 0], [2, 0, 0], [2, 3, 0], [0, 3, 0], [0, 0, 1.5], [0.5, 3, 1.2]], dtype=np.float64
)
TRIANGLES = np.array(
    [[0, 2, 1], [0, 3, 2], [0, 1, 4], [1, 2, 5], [1, 5, 4], [2, 3, 5], [3, 0, 4], [3, 4, 5]]
)
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
PICTURE = np.array([[RED, GREEN], [BLUE, YELLOW]], np.uint8)
"""2 x 2: red top left, green top right, blue bottom left, yellow bottom right."""


def y_up(vertices):
    """What a y-up file has for places that are z up."""
    return np.asarray(vertices, np.float64)[:, [0, 2, 1]] * (1.0, 1.0, -1.0)


def stood(vertices):
    """Places as a model has them: largest side 1, centred in x and y, on z = 0."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    foot = np.array([*((low + high) / 2)[:2], low[2]])
    return (vertices - foot) / (high - low).max()


def surface(vertices, triangles):
    """Every triangle as three rounded places, the smallest first; winding is kept."""
    found = []
    for corners in np.round(np.asarray(vertices)[triangles], 4) + 0.0:
        places = [tuple(float(x) for x in corner) for corner in corners]
        first = places.index(min(places))
        found.append(tuple(places[first:] + places[:first]))
    return sorted(found)


WEDGE = surface(stood(VERTICES), TRIANGLES)


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    return file.getvalue()


def bomb_png(width: int, height: int) -> bytes:
    """The header of a picture of this size, and no pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


KINDS = {"f": 5126, "I": 5125, "H": 5123, "B": 5121, "b": 5120, "h": 5122}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class GltfBuilder:
    """Puts a glTF together; every part of `tree` can be changed before it is written."""

    def __init__(self):
        self.binary = b""
        self.tree = {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": []}],
            "accessors": [],
            "bufferViews": [],
        }

    def view(self, data: bytes) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        place = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)}
        self.tree["bufferViews"].append(place)
        self.binary += data
        return len(self.tree["bufferViews"]) - 1

    def array(self, values, kind="f", **more) -> int:
        values = np.asarray(values)
        values = values.reshape(len(values), -1)
        data = values.astype(np.dtype(kind).newbyteorder("<")).tobytes()
        self.tree["accessors"].append(
            {
                "bufferView": self.view(data),
                "componentType": KINDS[kind],
                "count": len(values),
                "type": TYPES[values.shape[1]],
                **more,
            }
        )
        return len(self.tree["accessors"]) - 1

    def primitive(self, vertices, triangles=None, mesh=0, material=None, **attributes):
        places = {"POSITION": self.array(vertices), **attributes}
        primitive = {"attributes": places}
        if triangles is not None:
            primitive["indices"] = self.array(np.ravel(triangles), "H")
        if material is not None:
            primitive["material"] = material
        self.tree["meshes"][mesh]["primitives"].append(primitive)
        return primitive

    def picture(self, data: bytes) -> int:
        """A texture with this picture inside the file."""
        self.tree.setdefault("images", []).append({"bufferView": self.view(data)})
        textures = self.tree.setdefault("textures", [])
        textures.append({"source": len(self.tree["images"]) - 1})
        return len(textures) - 1

    def glb(self) -> bytes:
        self.tree["buffers"] = [{"byteLength": len(self.binary)}]
        return glb(json.dumps(self.tree).encode(), self.binary)


def glb(text: bytes, binary: bytes = b"") -> bytes:
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    if binary:
        chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def wedge() -> GltfBuilder:
    """A GLB of the wedge."""
    builder = GltfBuilder()
    builder.primitive(y_up(VERTICES), TRIANGLES)
    return builder


# A box whose front (the side at -y, seen with x to the right and z up) carries the picture.
BOX = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float64) * (2, 1, 2)
FRONT = np.array([[0, 1, 5], [0, 5, 4]])
SIDES = np.array(
    [
        *([0, 2, 3], [0, 3, 1], [4, 5, 7], [4, 7, 6], [2, 6, 7], [2, 7, 3]),
        *([0, 4, 6], [0, 6, 2], [1, 3, 7], [1, 7, 5]),
    ]
)
FRONT_UV = {0: (0, 1), 1: (1, 1), 5: (1, 0), 4: (0, 0)}
"""Of the front's corners, v downwards."""


def textured_box(texture=None, **material) -> GltfBuilder:
    builder = GltfBuilder()
    builder.primitive(y_up(BOX), SIDES)
    uv = [FRONT_UV.get(i, (0, 0)) for i in range(8)]
    index = builder.picture(png(PICTURE) if texture is None else texture)
    pbr = {"baseColorTexture": {"index": index}, "metallicFactor": 0}
    builder.tree["materials"] = [{"pbrMetallicRoughness": pbr, **material}]
    builder.primitive(y_up(BOX), FRONT, material=0, TEXCOORD_0=builder.array(uv))
    return builder


def shown_at(model, x: float, z: float):
    """The texture's colour at a point of the front, given as shares of its width and height."""
    low, high = model.vertices.min(axis=0), model.vertices.max(axis=0)
    point = np.array([low[0] + x * (high[0] - low[0]), low[2] + z * (high[2] - low[2])])
    for triangle, uv, number in zip(model.triangles, model.uv, model.material_of, strict=True):
        texture = model.materials[number].texture
        corners = model.vertices[triangle]
        if texture is None or not np.allclose(corners[:, 1], low[1]):
            continue
        a, b, c = corners[:, [0, 2]]
        s, t = np.linalg.solve(np.stack([b - a, c - a], axis=1), point - a)
        if min(s, t, 1 - s - t) >= -1e-9:
            u, v = uv[0] + s * (uv[1] - uv[0]) + t * (uv[2] - uv[0])
            height, width = texture.shape[:2]
            row, column = int(np.floor(v * height)) % height, int(np.floor(u * width)) % width
            return tuple(int(c) for c in texture[row, column, :3])
    raise AssertionError("no textured triangle there")


def check_right_way_up(model):
    """Red, green, blue and yellow are where the picture has them, as seen from the front."""
    seen = [shown_at(model, x, z) for z in (0.8, 0.3) for x in (0.2, 0.7)]
    assert seen == [RED, GREEN, BLUE, YELLOW]


def obj_of(vertices, triangles) -> str:
    lines = ["v {} {} {}".format(*place) for place in y_up(vertices)]
    return "\n".join(lines + ["f {} {} {}".format(*(t + 1)) for t in triangles])


def read(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_object(path)
