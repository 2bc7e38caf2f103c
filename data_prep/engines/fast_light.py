"""Light and surfaces of the fast engine: a sun, a sky, and how materials answer. Linear RGB."""

import numpy as np
from jaxtyping import Float32

from data_prep.scenes.scene import Light

Array = np.ndarray

BOUNCE = 0.25
"""Share of the light on the floor that comes back from it to surfaces that look down."""
DIELECTRIC = 0.04
"""How much a surface that is no metal reflects when looked at head-on."""
SHADOW_SKY = 0.75
"""Share of the sky that still reaches the floor in the shadow of an object."""


def sun_direction(light: Light) -> Float32[Array, "3"]:
    """Unit vector from the scene towards the sun."""
    height, turn = np.deg2rad(light.sun_elevation_deg), np.deg2rad(light.sun_azimuth_deg)
    away = np.cos(height)
    return np.array([away * np.cos(turn), away * np.sin(turn), np.sin(height)], np.float32)


def sky(light: Light, up: Float32[Array, "*n"]) -> Float32[Array, "*n 3"]:
    """Radiance of the sky towards directions whose z is `up`; below the horizon that of the
    horizon.
    """
    zenith, horizon = (np.array(c, np.float32) for c in (light.sky_zenith, light.sky_horizon))
    share = np.clip(up, 0.0, 1.0)[..., None]
    return np.float32(light.sky_strength) * (horizon + share * (zenith - horizon))


def floor_light(light: Light, shadow: Float32[Array, "h w"]) -> Float32[Array, "h w 3"]:
    """What a white floor sends back, given which share of each pixel lies in shadow."""
    sun = np.float32(light.sun_strength / np.pi) * sun_direction(light)[2] * (1.0 - shadow)
    return sun[..., None] + _sky_on(light, np.float32(1.0)) * (
        1.0 - (1.0 - SHADOW_SKY) * shadow[..., None]
    )


def _sky_on(light: Light, up: Float32[Array, "*n"]) -> Float32[Array, "*n 3"]:
    """The mean of the sky before a surface whose normal has this z, half of it for walls."""
    # Looking up, the mean by cosine of a linear fade is at two thirds of its height.
    zenith, horizon = (np.array(c, np.float32) for c in (light.sky_zenith, light.sky_horizon))
    share = np.asarray(0.5 + 0.5 * up, np.float32)[..., None]
    middle = horizon + np.float32(2 / 3) * share * (zenith - horizon)
    return np.float32(light.sky_strength) * share * middle


def shade(
    light: Light,
    floor: Float32[Array, "3"],
    normals: Float32[Array, "n 3"],
    towards_eye: Float32[Array, "n 3"],
    look: "Look",
) -> Float32[Array, "n 3"]:
    """Radiance towards the camera.

    Args:
        light: of the scene.
        floor: the floor's mean colour, which tints what looks down.
        normals: unit; turned to the camera where they look away from it.
        towards_eye: unit.
        look: the surfaces.
    """
    facing = _products(normals, towards_eye)
    normals = np.where(facing[:, None] < 0, -normals, normals)
    facing = np.abs(facing)
    sun = sun_direction(light)
    lit = np.clip(normals @ sun, 0.0, None) * np.float32(light.sun_strength / np.pi)
    up = normals[:, 2]
    from_floor = floor * floor_light(light, np.zeros((1, 1), np.float32))[0, 0] * BOUNCE
    around = _sky_on(light, up) + np.clip(0.5 - 0.5 * up, 0.0, None)[:, None] * from_floor * 2
    matt = look.colour * (1.0 - look.metallic[:, None])
    mirror = DIELECTRIC + look.metallic[:, None] * (look.colour - DIELECTRIC)
    mirror = mirror + (1.0 - mirror) * ((1.0 - facing) ** 5 * (1.0 - look.roughness))[:, None]
    bounced = 2 * facing[:, None] * normals - towards_eye
    seen = np.where(bounced[:, 2:] > 0, sky(light, bounced[:, 2]), from_floor)
    glint = _glint(normals, towards_eye, sun, look.roughness) * np.float32(light.sun_strength)
    return (
        matt * (lit[:, None] + around)
        + mirror * (seen * (1.0 - 0.5 * look.roughness)[:, None] + glint[:, None])
        + look.emissive
    )


def _glint(normals: Array, towards_eye: Array, sun: Array, roughness: Array) -> Array:
    """The sun's reflection (Blinn-Phong, normalised), spread by the roughness."""
    half = towards_eye + sun
    half /= lengths(half)
    exponent = 2.0 / np.clip(roughness, 0.15, 1.0) ** 4 - 2.0
    power = np.clip(_products(normals, half), 1e-6, 1.0) ** exponent
    return power * (exponent + 2.0) / np.float32(8 * np.pi) * (normals @ sun > 0)


def _products(one: Float32[Array, "n 3"], two: Float32[Array, "n 3"]) -> Float32[Array, "n"]:
    """Dot products; written out, as NumPy is slow to sum over an axis of three."""
    return one[:, 0] * two[:, 0] + one[:, 1] * two[:, 1] + one[:, 2] * two[:, 2]


def lengths(vectors: Float32[Array, "n 3"]) -> Float32[Array, "n 1"]:
    """Of vectors."""
    return np.sqrt(_products(vectors, vectors))[:, None]


class Look:
    """The materials of n visible samples."""

    def __init__(self, colour: Array, metallic: Array, roughness: Array, emissive: Array):
        """Colour and emission [n 3], metalness and roughness [n]."""
        self.colour, self.metallic = colour, metallic
        self.roughness, self.emissive = roughness, emissive


def to_srgb(radiance: Float32[Array, "h w 3"]) -> Array:
    """uint8 sRGB of linear RGB, clipped, by a table of 4096 steps (IEC 61966-2-1)."""
    if not _TABLE:
        light = np.linspace(0.0, 1.0, 4096)
        curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        _TABLE.append(np.rint(255 * curve).astype(np.uint8))
    return _TABLE[0][(np.clip(radiance, 0.0, 1.0) * 4095 + 0.5).astype(np.uint16)]


_TABLE: list[Array] = []
