"""The scene of a glTF file as parts: nodes placed, meshes instanced, skins posed as stored.

Axes: glTF is y up and looks along +z; (x, y, z) becomes (x, -z, y), as in Blender's importer.
Animations and morph targets are not followed. A skinned mesh stands in the pose that its nodes
have, which is what viewers and Blender show before an animation starts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from data_prep.fanout.task import Rejected
from data_prep.objects.gltf_file import Gltf
from data_prep.objects.gltf_materials import Looks
from data_prep.objects.parts import Part, compacted
from data_prep.objects.rejections import MOST_TRIANGLES, NeedsConversion, check_triangles

Array = np.ndarray

TRIANGLES, STRIP, FAN = 4, 5, 6
MOST_NODES, MOST_PARTS = 100_000, 50_000
MOST_VERTICES_READ = 30 * MOST_TRIANGLES
"""Of all primitives together: several may each use a little of one large array."""
Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
AT_ONCE = 100_000


class _Skin(NamedTuple):
    """Which joints move each vertex, and how much."""

    joints: Int64[Array, "v k"]
    weights: Float64[Array, "v k"]


class _Piece(NamedTuple):
    """A primitive in its mesh's frame."""

    part: Part
    skin: _Skin | None


def read_gltf(path: Path, data: bytes) -> list[Part]:
    """The parts of the file's default scene.

    Raises:
        Rejected: damaged, too large, or with textures that cannot be had.
        NeedsConversion: compressed as only Blender reads it.
    """
    gltf = Gltf(path, data)
    shown = [(n, gltf.entry("nodes", n)) for n in _shown(gltf) if "mesh" in gltf.entry("nodes", n)]
    _check_sizes(gltf, [node["mesh"] for _, node in shown])
    places, looks, pieces = _places(gltf), Looks(gltf), {}
    parts = []
    for number, node in shown:
        mesh = node["mesh"]
        if mesh not in pieces:
            pieces[mesh] = list(_pieces(gltf, looks, mesh))
        for piece in pieces[mesh]:
            if piece.skin is not None and "skin" in node:
                parts.append(_posed(piece, _joints(gltf, node["skin"], places)))
            else:
                parts.append(_placed(piece.part, Z_UP @ places[number]))
    return parts


def _children(gltf: Gltf, number: int) -> list[Any]:
    children = gltf.entry("nodes", number).get("children", [])
    if not isinstance(children, list):
        raise Rejected(f"broken: the children of node {number} are no list")
    return children


def _places(gltf: Gltf) -> dict[int, Float64[Array, "4 4"]]:
    """The matrix from each node's frame to the scene's."""
    count = gltf.count("nodes")
    children: set[int] = set()
    for number in range(count):
        for child in _children(gltf, number):
            gltf.entry("nodes", child)
            # A tree, as specified: otherwise a few nodes could stand for any number.
            if child in children:
                raise Rejected(f"broken: node {child} has more than one parent")
            children.add(child)
    places: dict[int, Array] = {}
    waiting = [(n, np.eye(4)) for n in range(count) if n not in children]
    while waiting:
        number, outer = waiting.pop()
        places[number] = outer @ _local(gltf.entry("nodes", number))
        waiting.extend((child, places[number]) for child in _children(gltf, number))
    if len(places) < count:
        raise Rejected("broken: nodes that are their own children")
    return places


def _shown(gltf: Gltf) -> list[int]:
    """Numbers of all nodes of the default scene; of all nodes if the file has no scene."""
    if gltf.count("nodes") > MOST_NODES:
        raise Rejected(f"{gltf.count('nodes'):,} nodes, more than {MOST_NODES:,}")
    if not gltf.count("scenes"):
        return list(range(gltf.count("nodes")))
    waiting = list(gltf.entry("scenes", gltf.tree.get("scene", 0)).get("nodes", []))
    shown: set[int] = set()
    while waiting:
        number = waiting.pop()
        gltf.entry("nodes", number)
        if number not in shown:
            shown.add(number)
            waiting.extend(_children(gltf, number))
    return sorted(shown)


def _local(node: dict[str, Any]) -> Float64[Array, "4 4"]:
    with np.errstate(all="ignore"):
        if "matrix" in node:
            local = np.array(node["matrix"], np.float64).reshape(4, 4).T
        else:
            local = np.eye(4)
            turn = _rotation(np.array(node.get("rotation", (0, 0, 0, 1)), np.float64))
            local[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), np.float64).reshape(3)
            local[:3, 3] = np.array(node.get("translation", (0, 0, 0)), np.float64).reshape(3)
    if not np.isfinite(local).all():
        raise Rejected("broken: a node is placed by numbers that are not finite")
    return local


def _rotation(quaternion: Float64[Array, "4"]) -> Float64[Array, "3 3"]:
    length = np.linalg.norm(quaternion)
    x, y, z, w = quaternion / length if length > 0 else (0.0, 0.0, 0.0, 1.0)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _primitives(gltf: Gltf, mesh: Any) -> list[dict[str, Any]]:
    """The primitives of a mesh that have triangles; points and lines are no surface."""
    primitives = gltf.entry("meshes", mesh).get("primitives")
    if not isinstance(primitives, list):
        raise Rejected(f"broken: mesh {mesh} has no list of primitives")
    for number, primitive in enumerate(primitives):
        if "POSITION" not in primitive.get("attributes", {}):
            raise Rejected(f"broken: primitive {number} of mesh {mesh} has no POSITION")
    return [p for p in primitives if p.get("mode", TRIANGLES) in (TRIANGLES, STRIP, FAN)]


def _num_triangles(gltf: Gltf, primitive: dict[str, Any]) -> int:
    corners = gltf.length(primitive.get("indices", primitive["attributes"]["POSITION"]))
    return corners // 3 if primitive.get("mode", TRIANGLES) == TRIANGLES else max(0, corners - 2)


def _check_sizes(gltf: Gltf, meshes: list[Any]) -> None:
    """Adds up what the file declares, with every instance, before any array is made."""
    sizes: dict[Any, tuple[int, int, int]] = {}
    for mesh in meshes:
        if mesh not in sizes:
            primitives = _primitives(gltf, mesh)
            triangles = sum(_num_triangles(gltf, p) for p in primitives)
            vertices = sum(gltf.length(p["attributes"]["POSITION"]) for p in primitives)
            sizes[mesh] = (triangles, vertices, len(primitives))
    check_triangles(sum(sizes[mesh][0] for mesh in meshes))
    for name, number, most in (
        ("vertices", sum(size[1] for size in sizes.values()), MOST_VERTICES_READ),
        ("parts", sum(sizes[mesh][2] for mesh in meshes), MOST_PARTS),
    ):
        if number > most:
            raise Rejected(f"{number:,} {name}, more than {most:,}")


def _pieces(gltf: Gltf, looks: Looks, mesh: Any) -> Iterator[_Piece]:
    for primitive in _primitives(gltf, mesh):
        attributes = primitive["attributes"]
        if "KHR_draco_mesh_compression" in primitive.get("extensions", {}) and (
            "bufferView" not in gltf.entry("accessors", attributes["POSITION"])
        ):
            raise NeedsConversion("uses KHR_draco_mesh_compression, which only Blender reads")
        positions = gltf.numbers(attributes["POSITION"], "VEC3")
        corners = _corners(gltf, primitive, len(positions))
        used, triangles = compacted(corners)
        look = looks.get(primitive.get("material"), "COLOR_0" in attributes)
        uv = _attribute(gltf, attributes, f"TEXCOORD_{look.uv_set}", "VEC2", len(positions))
        if uv is not None:
            uv = uv[used] @ look.placement[:, :2].T + look.placement[:, 2]
        elif look.material.texture is not None:
            raise Rejected(f"a textured surface of mesh {mesh} has no texture coordinates")
        normals = _attribute(gltf, attributes, "NORMAL", "VEC3", len(positions))
        colours = _attribute(gltf, attributes, "COLOR_0", "VEC3 VEC4", len(positions))
        part = Part(
            positions[used].astype(np.float64),
            triangles,
            look.material,
            None if normals is None else normals[used][triangles],
            None if uv is None else uv[triangles],
            None if colours is None else colours[used, :3][triangles],
            look.visible,
        )
        yield _Piece(part, _skin(gltf, attributes, len(positions), used))


def _corners(gltf: Gltf, primitive: dict[str, Any], num_vertices: int) -> Int64[Array, "t 3"]:
    """Vertex numbers of each triangle."""
    if "indices" in primitive:
        corners = gltf.numbers(primitive["indices"], "SCALAR")[:, 0]
        if corners.dtype.kind != "u":
            raise Rejected("broken: indices that are no natural numbers")
        corners = corners.astype(np.int64)
    else:
        corners = np.arange(num_vertices)
    if len(corners) and corners.max() >= num_vertices:
        raise Rejected(
            f"broken: a triangle uses vertex {corners.max():,} of {num_vertices:,} (from 0)"
        )
    mode = primitive.get("mode", TRIANGLES)
    if mode == TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    first = np.arange(max(0, len(corners) - 2))
    if mode == FAN:
        return corners[np.stack([first + 1, first + 2, np.zeros_like(first)], axis=1)]
    odd = first % 2
    return corners[np.stack([first, first + 1 + odd, first + 2 - odd], axis=1)]


def _attribute(
    gltf: Gltf, attributes: dict[str, Any], name: str, kind: str, length: int
) -> Float32[Array, "v w"] | None:
    if name not in attributes:
        return None
    if gltf.length(attributes[name]) != length:
        raise Rejected(
            f"broken: {name} for {gltf.length(attributes[name]):,} of {length:,} vertices"
        )
    return gltf.numbers(attributes[name], kind).astype(np.float32)


def _skin(
    gltf: Gltf, attributes: dict[str, Any], length: int, used: Int64[Array, "u"]
) -> _Skin | None:
    joints, weights = [], []
    for group in range(2):
        if f"JOINTS_{group}" in attributes:
            name = f"WEIGHTS_{group}"
            joints.append(_attribute(gltf, attributes, f"JOINTS_{group}", "VEC4", length)[used])
            weights.append(_attribute(gltf, attributes, name, "VEC4", length)[used])
    if not joints:
        return None
    weight = np.concatenate(weights, axis=1).astype(np.float64)
    return _Skin(np.concatenate(joints, axis=1).astype(np.int64), weight)


def _joints(
    gltf: Gltf, number: Any, places: dict[int, Float64[Array, "4 4"]]
) -> Float64[Array, "j 4 4"]:
    """The matrix of each joint from the mesh's frame at binding to the scene, z up."""
    skin = gltf.entry("skins", number)
    joints = [Z_UP @ places[joint] for joint in skin["joints"]]
    if "inverseBindMatrices" not in skin:
        return np.array(joints)
    inverse = gltf.numbers(skin["inverseBindMatrices"], "MAT4").astype(np.float64)
    if len(inverse) < len(joints):
        raise Rejected(f"broken: {len(inverse)} bind matrices for {len(joints)} joints")
    return np.array(joints) @ inverse[: len(joints)].reshape(-1, 4, 4).swapaxes(1, 2)


def _placed(part: Part, matrix: Float64[Array, "4 4"]) -> Part:
    """A part moved to its place; a mirroring place turns its triangles round, as specified."""
    with np.errstate(all="ignore"):
        vertices = part.vertices @ matrix[:3, :3].T + matrix[:3, 3]
        # The cofactors: the inverse's transpose without a division, so flat scales do not fail.
        a, b, c = matrix[:3, :3]
        across = np.array([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
        mirrored = np.dot(a, across[0]) < 0
        across *= -1.0 if mirrored else 1.0
        normals = None if part.normals is None else _unit(part.normals @ across.T)
    placed = part._replace(vertices=vertices, normals=normals)
    return _turned_round(placed) if mirrored else placed


def _turned_round(part: Part) -> Part:
    def swapped(values: Array | None) -> Array | None:
        return None if values is None else values[:, [0, 2, 1]]

    corners = {name: swapped(getattr(part, name)) for name in ("normals", "uv", "colours")}
    return part._replace(triangles=swapped(part.triangles), **corners)


def _posed(piece: _Piece, joints: Float64[Array, "j 4 4"]) -> Part:
    """A skinned part in the pose of its joints; where its own node stands does not matter."""
    skin, vertices = piece.skin, piece.part.vertices
    if len(skin.joints) and skin.joints.max() >= len(joints):
        raise Rejected(f"broken: joint {skin.joints.max()} of {len(joints)}")
    posed, turns = np.empty_like(vertices), np.empty((len(vertices), 3, 3), np.float32)
    for first in range(0, len(vertices), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        total = skin.weights[some].sum(axis=1, keepdims=True)
        weights = skin.weights[some] / np.where(total > 0, total, 1.0)
        matrices = np.einsum("vk,vkij->vij", weights, joints[skin.joints[some]])
        turns[some] = matrices[:, :3, :3]
        turned = np.einsum("vij,vj->vi", matrices[:, :3, :3], vertices[some])
        posed[some] = turned + matrices[:, :3, 3]
    normals = piece.part.normals
    if normals is not None:
        normals = _unit(np.einsum("tcij,tcj->tci", turns[piece.part.triangles], normals))
    return piece.part._replace(vertices=posed, normals=normals)


def _unit(vectors: Array) -> Float32[Array, "t 3 3"]:
    """Unit vectors, or zeros for what has no direction."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return np.where(lengths > 0, vectors / np.where(lengths > 0, lengths, 1.0), 0).astype(
        np.float32
    )
