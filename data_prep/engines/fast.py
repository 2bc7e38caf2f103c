"""The fast engine: clips in NumPy, without Blender, at about a tenth of a second a frame.

A z-buffer with four samples a pixel on objects, a floor antialiased by formula, one sun with a
shadow on the floor, a sky. What it leaves out of Cycles: shadows on objects, light between them,
and refraction.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from data_prep.engines import annotations, fast_floor, fast_light, raster
from data_prep.engines.annotations import Surface
from data_prep.engines.fast_floor import FloorPicture, smaller_and_smaller
from data_prep.engines.fast_sky import SkyPicture
from data_prep.engines.rendered_clip import Frame
from data_prep.objects.model import Model
from data_prep.scenes import geometry
from data_prep.scenes.scene import Light, Scene
from posetraj_jax.data.transforms import decode_rgb

Array = np.ndarray

ENGINE = "fast-1"
SAMPLES = 2
"""Along each side of a pixel."""
SHADOW_BLUR_PX = 1.2


class _Things(NamedTuple):
    """All triangles of a scene, one object after the other, in the frame of their object."""

    corners: Array
    """[t 3 3] float64, metres."""
    normals: Array
    uv: Array
    colours: Array
    owner: Array
    """[t] number of the object."""
    material: Array
    """[t] number in `materials`."""
    materials: tuple
    textures: tuple
    """Of each material: linear RGB [h w 3] float32, and alpha [h w], or None."""


class _Surroundings(NamedTuple):
    """What pictures replace, and the light that follows."""

    floor: FloorPicture | None
    sky: SkyPicture | None
    light: Light


class _Behind(NamedTuple):
    """What a camera sees where no object is, without shadows. Linear RGB."""

    floor: Float32[Array, "h w 3"]
    """Its colours, not lit."""
    sky: Float32[Array, "h w 3"]
    is_floor: Bool[Array, "h w"]
    floor_mean: Float32[Array, "3"]


def surfaces(scene: Scene, models: Sequence[Model]) -> list[Surface]:
    """The objects of a scene at their sizes, for `annotations`."""
    return [
        Surface(model.vertices * thing.size, model.triangles)
        for thing, model in zip(scene.objects, models, strict=True)
    ]


def render(
    scene: Scene, models: Sequence[Model], pictures: Mapping[str, Path] = MappingProxyType({})
) -> Iterator[Frame]:
    """Renders the frames of a scene one by one.

    Args:
        scene: what to render.
        models: of the scene's objects, in their order, normalised.
        pictures: files of the pictures that the scene names.

    Raises:
        UserError: a picture that cannot be read.
    """
    things, shapes = _gathered(scene, models), surfaces(scene, models)
    surroundings = _surroundings(scene, pictures)
    scene = replace(scene, light=surroundings.light)
    behind: tuple[bytes, _Behind | None] = b"", None
    for number, camera in enumerate(scene.cameras):
        k, rt = np.array(camera.k), np.array(camera.rt)
        if behind[0] != k.tobytes() + rt.tobytes():  # a camera at rest sees the same floor
            behind = k.tobytes() + rt.tobytes(), _background(scene, surroundings, k, rt)
        poses = np.array([thing.poses[number] for thing in scene.objects])
        depth, mask = annotations.depth_and_mask(scene, shapes, number)
        yield Frame(_picture(scene, things, poses, (k, rt), behind[1]), mask, depth)


def _surroundings(scene: Scene, pictures: Mapping[str, Path]) -> _Surroundings:
    floor = sky = None
    if scene.floor.picture:
        path = pictures[scene.floor.picture]
        floor = FloorPicture(decode_rgb(path.read_bytes(), str(path)), scene.floor.tile)
    if scene.light.picture:
        sky = SkyPicture.read(pictures[scene.light.picture])
    return _Surroundings(floor, sky, sky.light(scene.light) if sky else scene.light)


def _gathered(scene: Scene, models: Sequence[Model]) -> _Things:
    materials = [material for model in models for material in model.materials]
    first = np.cumsum([0, *(len(model.materials) for model in models)])
    joined = [np.concatenate([getattr(model, n) for model in models]) for n in
              ("normals", "uv", "colours")]  # fmt: skip
    return _Things(
        np.concatenate(
            [
                (model.vertices * thing.size)[model.triangles]
                for model, thing in zip(models, scene.objects, strict=True)
            ]
        ),
        *joined,
        np.repeat(np.arange(len(models)), [len(model.triangles) for model in models]),
        np.concatenate([m.material_of + f for m, f in zip(models, first, strict=False)]),
        tuple(materials),
        tuple(_texture(material.texture) for material in materials),
    )


def _texture(picture: UInt8[Array, "h w 4"] | None) -> tuple[list[Array], Array] | None:
    """A texture in linear light, in several sizes, and its alpha."""
    if picture is None:
        return None
    return smaller_and_smaller(picture[..., :3]), picture[..., 3].astype(np.float32) / 255


def _background(scene: Scene, around: _Surroundings, k: Array, rt: Array) -> _Behind:
    size = scene.width, scene.height
    x, y, across = fast_floor.floor_points(k, rt, *size)
    if around.floor is None:
        colours = fast_floor.tiles(scene.floor, x, y, across)
    else:
        colours = around.floor.colours(x, y, across)
    is_floor = annotations.floor_inverse_depth(k, rt, *size) > 0
    rows, columns = np.mgrid[: scene.height, : scene.width] + 0.5
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(k).T @ rt[:, :3]
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    if around.sky is None:
        sky = fast_light.sky(scene.light, rays[..., 2].astype(np.float32))
    else:
        sky = around.sky.seen(rays)
    mean = colours[is_floor].mean(axis=0) if is_floor.any() else np.full(3, 0.5, np.float32)
    return _Behind(colours, sky, is_floor, mean)


def _picture(
    scene: Scene, things: _Things, poses: Array, camera: tuple[Array, Array], behind: _Behind
) -> UInt8[Array, "h w 3"]:
    k, rt = camera
    world = np.einsum("tij,tcj->tci", poses[things.owner, :3, :3], things.corners)
    world += poses[things.owner, None, :3, 3]
    shadow = _shadow(scene, things, world, (k, rt))
    lit = behind.floor * fast_light.floor_light(scene.light, shadow)
    backdrop = np.where(behind.is_floor[..., None], lit, behind.sky)
    seen = raster.project(world, k, rt)
    hits = raster.nearest(seen, scene.width, scene.height, SAMPLES, _holes(things, seen))
    rows, columns = np.nonzero(hits.triangle >= 0)
    number = hits.triangle[rows, columns]
    shares = raster.perspective_shares(
        seen, number, (columns + 0.5) / SAMPLES, (rows + 0.5) / SAMPLES
    )
    shares, index = shares.astype(np.float32), seen.index[number]
    turned = np.einsum(
        "nij,nj->ni",
        poses[things.owner[index], :3, :3].astype(np.float32),
        _mixed(shares, things.normals[index]),
    )
    turned /= np.maximum(fast_light.lengths(turned), 1e-6)
    place = _mixed(shares, world[index].astype(np.float32))
    towards_eye = geometry.camera_centre(rt).astype(np.float32) - place
    towards_eye /= fast_light.lengths(towards_eye)
    look = _look(things, index, shares, hits.inverse_depth[rows, columns], k)
    light = fast_light.shade(scene.light, behind.floor_mean, turned, towards_eye, look)
    return fast_light.to_srgb(_composed(backdrop, rows, columns, light))


def _composed(behind: Array, rows: Array, columns: Array, light: Array) -> Float32[Array, "h w 3"]:
    """Each pixel the mean of its samples: of objects where they are, else what is behind."""
    height, width = behind.shape[:2]
    pixel = rows // SAMPLES * width + columns // SAMPLES
    count = np.bincount(pixel, minlength=height * width).astype(np.float32)
    share = 1.0 - count / SAMPLES**2
    clipped = np.minimum(light, 1.0)  # else a glint would spread over its neighbours
    sums = [np.bincount(pixel, clipped[:, i], minlength=height * width) for i in range(3)]
    summed = np.stack(sums, axis=-1).astype(np.float32) / SAMPLES**2
    return (behind.reshape(-1, 3) * share[:, None] + summed).reshape(height, width, 3)


def _shadow(
    scene: Scene, things: _Things, world: Array, camera: tuple[Array, Array]
) -> Float32[Array, "h w"]:
    """The share of each pixel of the floor that the sun does not reach."""
    sun = fast_light.sun_direction(scene.light).astype(np.float64)
    fallen = world - world[..., 2:] * (sun / sun[2])
    seen = raster.project(fallen, *camera)
    holes = _holes(things, seen)
    dark = raster.covered(seen, scene.width, scene.height, SAMPLES, holes).astype(np.float32)
    small = dark.reshape(scene.height, SAMPLES, scene.width, SAMPLES).mean(axis=(1, 3))
    return cv2.GaussianBlur(small, (0, 0), SHADOW_BLUR_PX)


def _mixed(shares: Float32[Array, "n 3"], values: Float32[Array, "n 3 d"]) -> Array:
    # Written out, as NumPy is slow to sum over an axis of three.
    return (
        sum(shares[:, i, None] * values[:, i] for i in range(1, 3)) + shares[:, :1] * values[:, 0]
    )


def _holes(things: _Things, seen: raster.Projected) -> raster.Holes | None:
    """Says where textures are cut out; None if no material is."""
    cut = np.array([m.alpha_cutoff if m.texture is not None else 0.0 for m in things.materials])
    if not cut.any():
        return None

    def holes(number: Array, x: Array, y: Array) -> Array:
        index = seen.index[number]
        material = things.material[index]
        result = np.zeros(len(number), bool)
        for which in np.flatnonzero(cut):
            chosen = np.flatnonzero(material == which)
            shares = raster.perspective_shares(seen, number[chosen], x[chosen], y[chosen])
            uv = _mixed(shares, things.uv[index[chosen]])
            result[chosen] = _looked_up(things.textures[which][1], uv) < cut[which]
        return result

    return holes


def _looked_up(texture: Array, uv: Array) -> Array:
    """The nearest texels [n ...] of a picture [h w ...] that repeats."""
    height, width = texture.shape[:2]
    column = np.floor(np.mod(uv[:, 0], 1.0) * width).astype(np.int64)
    row = np.floor(np.mod(uv[:, 1], 1.0) * height).astype(np.int64)
    return texture[np.minimum(row, height - 1), np.minimum(column, width - 1)]


def _look(
    things: _Things, index: Array, shares: Array, inverse_depth: Array, k: Array
) -> fast_light.Look:
    """Materials of visible samples of triangles `index` [n]."""
    material = things.material[index]
    base, emissive = (
        np.array([getattr(m, name) for m in things.materials], np.float32)[material]
        for name in ("base_colour", "emissive")
    )
    metallic, roughness = (
        np.array([getattr(m, name) for m in things.materials], np.float32)[material]
        for name in ("metallic", "roughness")
    )
    colour = base * _mixed(shares, things.colours[index])
    for which, texture in enumerate(things.textures):
        chosen = np.flatnonzero(material == which)
        if texture is not None and len(chosen):
            uv = _mixed(shares[chosen], things.uv[index[chosen]])
            level = _level(things, which, float(inverse_depth[chosen].mean()), k, texture[0])
            colour[chosen] *= _looked_up(level, uv)
    return fast_light.Look(colour, metallic, roughness, emissive)


def _level(
    things: _Things, which: int, inverse_depth: float, k: Array, levels: list[Array]
) -> Array:
    """The size of a texture whose texels are about as large as samples on the screen."""
    mine = things.material == which
    corners, uv = things.corners[mine], things.uv[mine].astype(np.float64)
    metres = np.linalg.norm(np.cross(*_two_edges(corners)), axis=1).sum()
    one, two = _two_edges(uv)
    texels = np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).sum()
    texels *= levels[0].shape[0] * levels[0].shape[1]
    samples = metres * k[0, 0] * k[1, 1] * (inverse_depth * SAMPLES) ** 2
    ratio = 0.5 * np.log2(max(texels, 1e-9) / max(samples, 1e-9))
    return levels[int(np.clip(np.floor(ratio + 0.5), 0, len(levels) - 1))]


def _two_edges(corners: Array) -> tuple[Array, Array]:
    return corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
