"""Floors and light of scenes, drawn from a random generator. Colours are linear RGB."""

import colorsys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data_prep.scenes.scene import Colour, Floor, Light

LIGHTS = ("day", "random", "overhead")
FLOOR_KINDS = ("named", "random")

# Two shades of the tiles and the grout.
FLOORS = {
    "sand": ((0.66, 0.48, 0.28), (0.40, 0.28, 0.16), (0.16, 0.12, 0.09)),
    "slate": ((0.10, 0.16, 0.24), (0.04, 0.07, 0.11), (0.28, 0.30, 0.32)),
    "mint": ((0.50, 0.66, 0.50), (0.26, 0.44, 0.32), (0.12, 0.18, 0.15)),
    "terracotta": ((0.50, 0.17, 0.08), (0.28, 0.08, 0.04), (0.46, 0.38, 0.30)),
    "stone": ((0.46, 0.46, 0.46), (0.24, 0.25, 0.26), (0.09, 0.09, 0.10)),
}


def tiled_floor(name: str) -> Floor:
    """One of FLOORS."""
    first, second, grout = FLOORS[name]
    return Floor(tile=0.5, grout=0.02, colours=(first, second), grout_colour=grout)


def make_floor(kind: str, pictures: Sequence[str], rng: np.random.Generator) -> tuple[Floor, str]:
    """A floor and its name.

    Args:
        kind: 'named' is one of FLOORS, 'random' any two shades of a colour, in tiles of any size.
        pictures: names of pictures; if there are any, one of them lies on the floor.
        rng: of the choice.
    """
    if pictures:
        name = str(rng.choice(list(pictures)))
        plain = (0.5, 0.5, 0.5)
        return Floor(2.0, 0.0, (plain, plain), plain, picture=name), name
    if kind == "named":
        name = str(rng.choice(list(FLOORS)))
        return tiled_floor(name), name
    hue, saturation = rng.uniform(0.0, 1.0), rng.uniform(0.0, 0.6)
    light, dark = rng.uniform(0.35, 0.7), rng.uniform(0.12, 0.3)
    tile = float(rng.uniform(0.25, 1.0))
    return (
        Floor(
            tile=tile,
            grout=float(tile * rng.uniform(0.02, 0.08)),
            colours=(_colour(hue, saturation, light), _colour(hue, saturation, dark)),
            grout_colour=_colour(hue, 0.3 * saturation, float(rng.choice([0.06, 0.4]))),
        ),
        "random",
    )


def _colour(hue: float, saturation: float, value: float) -> Colour:
    return tuple(float(c) for c in colorsys.hsv_to_rgb(hue, saturation, value))


def make_light(kind: str, pictures: Sequence[str], rng: np.random.Generator) -> Light:
    """A sun and a sky.

    Args:
        kind: 'day' is `daylight`; 'random' any height, side and strength of the sun; 'overhead' the
            official sun, straight above.
        pictures: names of panoramas; if there are any, one of them is the sky.
        rng: of the choice.
    """
    if kind == "day":
        light = daylight(rng)
    elif kind == "random":
        light = _sun(
            elevation=float(rng.uniform(20.0, 80.0)),
            azimuth=float(rng.uniform(-180.0, 180.0)),
            strength=float(rng.uniform(1.5, 4.0)),
            sky_strength=float(rng.uniform(0.3, 0.8)),
        )
    else:
        light = _sun(elevation=90.0, azimuth=0.0, strength=3.0, sky_strength=0.5)
    return replace(light, picture=str(rng.choice(list(pictures)))) if pictures else light


def daylight(rng: np.random.Generator) -> Light:
    """A sun at the side of or behind a camera that looks along +y, high: shadows are short."""
    return _sun(
        elevation=float(rng.uniform(38.0, 58.0)),
        azimuth=float(rng.choice([-1.0, 1.0]) * rng.uniform(15.0, 60.0) - 90.0),
        strength=3.2,
        sky_strength=0.5,
    )


def _sun(*, elevation: float, azimuth: float, strength: float, sky_strength: float) -> Light:
    return Light(
        sun_elevation_deg=elevation,
        sun_azimuth_deg=azimuth,
        sun_strength=strength,
        sky_zenith=(0.30, 0.50, 0.95),
        sky_horizon=(0.95, 0.95, 0.92),
        sky_strength=sky_strength,
    )
