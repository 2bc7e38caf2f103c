"""The looks of glTF: PBR factors and the base colour's texture; other textures count by their mean.

Holes: MASK keeps its cutoff, BLEND gets 0.5 on the texture's alpha (the factor is left out: a pane
of glass is drawn solid) unless the factor itself is next to nothing, which hides the surface.
Without a base colour, an emissive texture takes its place, as exporters of "shadeless" objects
write it. Not followed: the sampler (textures always repeat), normal, occlusion and clearcoat maps.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from data_prep.fanout.task import Rejected
from data_prep.objects.colour import linear
from data_prep.objects.gltf_file import Gltf
from data_prep.objects.model import Material
from data_prep.objects.parts import PLAIN
from data_prep.objects.textures import Textures

Array = np.ndarray

HIDDEN_BELOW = 0.02
"""Alpha factor under which a BLEND surface is not there."""
BLEND_CUTOFF = 0.5
IDENTITY = np.eye(2, 3, dtype=np.float32)


class Look(NamedTuple):
    """A material and how its texture lies on the surface."""

    material: Material
    uv_set: int = 0
    placement: Float32[Array, "2 3"] = IDENTITY
    """From (u, v, 1) of that set to coordinates in the texture."""
    visible: bool = True


class Looks:
    """The materials of a file, each made when it is first asked for.

    Args:
        gltf: the file.
    """

    def __init__(self, gltf: Gltf):
        self._gltf = gltf
        self._textures = Textures(min(gltf.count("images"), gltf.count("materials")))
        self._pictures: dict[int, Array] = {}
        self._means: dict[tuple[int, bool], Array] = {}
        self._looks: dict[Any, Look] = {}
        self._white = PLAIN._replace(base_colour=(1.0, 1.0, 1.0))

    def get(self, number: Any, coloured: bool) -> Look:
        """The look of a primitive.

        Args:
            number: of its material, or None.
            coloured: whether its vertices have colours.

        Raises:
            Rejected: no such material, or a texture that it uses cannot be had.
        """
        if number is None:
            return Look(self._white if coloured else PLAIN)
        if number not in self._looks:
            self._looks[number] = self._made(self._gltf.entry("materials", number))
        return self._looks[number]

    def _made(self, entry: dict[str, Any]) -> Look:
        extensions = entry.get("extensions", {})
        pbr = entry.get("pbrMetallicRoughness", {})
        old = extensions.get("KHR_materials_pbrSpecularGlossiness")
        factor = _numbers(pbr, "baseColorFactor", (1.0, 1.0, 1.0, 1.0))
        base, surface = pbr.get("baseColorTexture"), self._surface(pbr)
        if old is not None:
            factor = _numbers(old, "diffuseFactor", (1.0, 1.0, 1.0, 1.0))
            base = old.get("diffuseTexture")
            surface = (0.0, 1.0 - _number(old, "glossinessFactor", 1.0))
        if "KHR_materials_unlit" in extensions:
            surface = (0.0, 1.0)
        emissive = _numbers(entry, "emissiveFactor", (0.0, 0.0, 0.0))
        glow = entry.get("emissiveTexture")
        if glow is not None and base is None and max(emissive) > 0 and max(factor[:3]) < 0.01:
            base, glow, factor = glow, None, (*emissive, factor[3])
            emissive = (0.0, 0.0, 0.0)
        elif glow is not None and max(emissive) > 0:
            mean = self._mean(glow, as_light=True)
            emissive = tuple(float(e * m) for e, m in zip(emissive, mean, strict=True))
        strength = extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1)
        emissive = tuple(min(1.0, e * max(0.0, float(strength))) for e in emissive)
        texture = None if base is None else self._picture(base)
        cutoff, visible = _cutoff(entry, factor[3], texture)
        material = Material(factor[:3], *surface, emissive, texture, cutoff)
        return Look(material, *_placement(base or {}), visible)

    def _surface(self, pbr: dict[str, Any]) -> tuple[float, float]:
        """Metallic and roughness, each times the mean of its channel of the texture."""
        metallic = _number(pbr, "metallicFactor", 1.0)
        roughness = _number(pbr, "roughnessFactor", 1.0)
        if "metallicRoughnessTexture" in pbr:
            mean = self._mean(pbr["metallicRoughnessTexture"], as_light=False)
            return metallic * float(mean[2]), roughness * float(mean[1])
        return metallic, roughness

    def _picture(self, reference: dict[str, Any]) -> UInt8[Array, "h w 4"]:
        source = self._source(reference)
        if source not in self._pictures:
            self._pictures[source] = self._decoded(source)
        return self._pictures[source]

    def _mean(self, reference: dict[str, Any], *, as_light: bool) -> Float64[Array, "3"]:
        """The mean of each channel in [0, 1], of stored values or of linear light."""
        key = (self._source(reference), as_light)
        if key not in self._means:
            values = self._decoded(key[0])[..., :3] / np.float32(255.0)
            values = linear(values) if as_light else values
            self._means[key] = values.mean(axis=(0, 1), dtype=np.float64)
        return self._means[key]

    def _source(self, reference: dict[str, Any]) -> Any:
        """The number of the picture that a texture shows."""
        texture = self._gltf.entry("textures", reference.get("index"))
        webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
        source = webp.get("source", texture.get("source"))
        if source is None:
            kinds = ", ".join(str(kind)[:40] for kind in texture.get("extensions", {}))
            raise Rejected(f"texture {reference.get('index')} is of a kind not read: {kinds!r}")
        return source

    def _decoded(self, source: Any) -> UInt8[Array, "h w 4"]:
        image = self._gltf.entry("images", source)
        if "bufferView" in image:
            data = bytes(self._gltf.view(image["bufferView"]))
        else:
            data = self._gltf.linked(image.get("uri"))
        return self._textures.decode(data, repr(str(image.get("name") or source)[:60]))


def _cutoff(entry: dict[str, Any], alpha: float, texture: Array | None) -> tuple[float, bool]:
    """The texture alpha below which there are holes, and whether anything is left to be seen."""
    mode = entry.get("alphaMode", "OPAQUE")
    if mode == "BLEND":
        cutoff, visible = BLEND_CUTOFF, alpha >= HIDDEN_BELOW
    elif mode == "MASK":
        wanted = _number(entry, "alphaCutoff", 0.5, most=1e9)
        cutoff, visible = (wanted / alpha if alpha > 0 else 0.0), alpha >= wanted
    else:
        return 0.0, True
    if texture is None or not visible:
        return 0.0, visible
    most = float(texture[..., 3].max()) / 255.0
    if texture[..., 3].min() >= cutoff * 255.0:
        cutoff = 0.0
    return cutoff, most >= cutoff


def _placement(reference: dict[str, Any]) -> tuple[int, Float32[Array, "2 3"]]:
    """Which set of coordinates a texture uses, and KHR_texture_transform as a matrix."""
    transform = reference.get("extensions", {}).get("KHR_texture_transform", {})
    uv_set = transform.get("texCoord", reference.get("texCoord", 0))
    if type(uv_set) is not int or not 0 <= uv_set < 16:
        raise Rejected(f"broken: texture coordinates of set {uv_set!r:.40}")
    offset = _numbers(transform, "offset", (0.0, 0.0), -1e6, 1e6)
    scale = _numbers(transform, "scale", (1.0, 1.0), -1e6, 1e6)
    angle = _number(transform, "rotation", 0.0, -1e6, 1e6)
    cos, sin = math.cos(angle), math.sin(angle)
    rows = (
        (cos * scale[0], sin * scale[1], offset[0]),
        (-sin * scale[0], cos * scale[1], offset[1]),
    )
    return uv_set, np.array(rows, np.float32)


def _number(
    entry: dict[str, Any], key: str, otherwise: float, least: float = 0.0, most: float = 1.0
) -> float:
    return _numbers({key: [entry.get(key, otherwise)]}, key, (otherwise,), least, most)[0]


def _numbers(
    entry: dict[str, Any],
    key: str,
    otherwise: tuple[float, ...],
    least: float = 0.0,
    most: float = 1.0,
) -> tuple[float, ...]:
    """Finite numbers, clipped to what is allowed."""
    values = tuple(float(value) for value in entry.get(key, otherwise))
    if len(values) != len(otherwise) or not all(math.isfinite(value) for value in values):
        raise Rejected(f"broken: {key} is not {len(otherwise)} finite numbers")
    return tuple(min(most, max(least, value)) for value in values)
