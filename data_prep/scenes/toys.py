"""The built-in objects: toys put together from a few solid shapes in strong, distinct colours.

Each looks along -y with z up, in any unit (an engine scales the largest side to the wanted size).
All are lopsided front to back, so that the heading shows in every frame. Suzanne is Blender's own
mesh and exists in that engine only.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_prep.scenes.shapes import Mesh, box, cylinder, ellipsoid, lathe, prism, tube


class Material(NamedTuple):
    """A surface: sRGB colour in [0, 1], roughness and metalness."""

    colour: tuple[float, float, float]
    roughness: float = 0.35
    metallic: float = 0.0


class Part(NamedTuple):
    """One solid of one material; `bevel` rounds its edges, in the object's unit."""

    mesh: Mesh
    material: str
    bevel: float = 0.0


MATERIALS = {
    "red": Material((0.86, 0.07, 0.07), 0.25),
    "orange": Material((0.96, 0.42, 0.04)),
    "yellow": Material((0.98, 0.78, 0.05)),
    "green": Material((0.08, 0.58, 0.18), 0.3),
    "teal": Material((0.02, 0.56, 0.55), 0.3),
    "blue": Material((0.07, 0.25, 0.82), 0.3),
    "sky": Material((0.35, 0.68, 0.95)),
    "purple": Material((0.52, 0.16, 0.72)),
    "pink": Material((0.95, 0.42, 0.62)),
    "brown": Material((0.62, 0.38, 0.17), 0.5),
    "white": Material((0.92, 0.92, 0.92)),
    "grey": Material((0.45, 0.47, 0.50)),
    "black": Material((0.03, 0.03, 0.035), 0.5),
    "glass": Material((0.05, 0.09, 0.14), 0.08),
    "steel": Material((0.75, 0.76, 0.78), 0.25, 1.0),
    "gold": Material((0.93, 0.62, 0.08), 0.25, 0.3),
}


def _pair(mesh: Mesh, material: str, bevel: float = 0.0) -> list[Part]:
    """A part and its mirror image across x = 0."""
    return [Part(mesh, material, bevel), Part(mesh.scaled(-1, 1, 1), material, bevel)]


def _wheels(x: float, y: float, radius: float, width: float) -> list[Part]:
    tyre = cylinder(radius, width, "x").moved(x, y, radius)
    hub = cylinder(0.55 * radius, width, "x").moved(x + 0.02, y, radius)
    return _pair(tyre, "black", 0.15 * radius) + _pair(hub, "steel")


def _car() -> list[Part]:
    body = [(-1, 0.18), (-1.02, 0.4), (-0.9, 0.5), (-0.35, 0.57), (0.95, 0.6), (1, 0.5), (1, 0.18)]
    cabin = [(-0.45, 0.55), (-0.12, 0.86), (0.5, 0.88), (0.82, 0.58)]
    roof = [(-0.15, 0.84), (-0.1, 0.91), (0.48, 0.93), (0.54, 0.86)]
    return [
        Part(prism(body, 0.88), "red", 0.05),
        Part(prism(cabin, 0.74), "glass", 0.02),
        Part(prism(roof, 0.76), "red", 0.02),
        Part(box(0.8, 0.08, 0.1).moved(0, -1.02, 0.24), "steel", 0.02),
        Part(box(0.8, 0.08, 0.1).moved(0, 1.0, 0.24), "steel", 0.02),
        Part(box(0.26, 1.35, 0.02).turned("x", 3).moved(0, -0.98, 0.53).scaled(1, 0.5, 1), "white"),
        *_pair(ellipsoid(0.1, 0.05, 0.08).moved(0.3, -1.0, 0.42), "yellow"),
        *_pair(box(0.16, 0.04, 0.1).moved(0.3, 1.0, 0.48), "orange", 0.01),
        *_wheels(0.4, -0.62, 0.22, 0.16),
        *_wheels(0.4, 0.62, 0.22, 0.16),
    ]


def _truck() -> list[Part]:
    cab = [(-1.2, 0.25), (-1.22, 0.62), (-1.12, 0.72), (-1.0, 1.12), (-0.45, 1.14), (-0.45, 0.25)]
    wheels = [part for y in (-0.85, 0.35, 0.8) for part in _wheels(0.4, y, 0.21, 0.16)]
    return [
        Part(prism(cab, 0.86), "green", 0.05),
        Part(box(0.74, 0.04, 0.3).turned("x", 17).moved(0, -1.065, 0.93), "glass", 0.01),
        *_pair(box(0.04, 0.3, 0.26).moved(0.42, -0.74, 0.93), "glass", 0.01),
        Part(box(0.6, 2.2, 0.14).moved(0, -0.05, 0.28), "black", 0.02),
        Part(box(0.92, 1.5, 0.95).moved(0, 0.35, 0.86), "yellow", 0.04),
        Part(box(0.94, 1.3, 0.16).moved(0, 0.35, 0.8), "blue", 0.0),
        Part(box(0.5, 0.05, 0.16).moved(0, -1.22, 0.5), "steel", 0.01),
        *_pair(ellipsoid(0.09, 0.04, 0.09).moved(0.31, -1.22, 0.45), "white"),
        *wheels,
    ]


def _plane() -> list[Part]:
    hull = [(0.0, -1.1), (0.13, -1.02), (0.2, -0.75), (0.22, -0.3), (0.15, 0.5), (0.05, 1.05)]
    wing = [(0, -0.5), (1.1, -0.3), (1.12, -0.1), (0, 0.12), (-1.12, -0.1), (-1.1, -0.3)]
    tail = [(0, 0.72), (0.45, 0.85), (0.45, 1.02), (0, 1.06), (-0.45, 1.02), (-0.45, 0.85)]
    fin = [(0.62, 0.0), (0.98, 0.42), (1.12, 0.42), (1.06, 0.0)]
    return [
        Part(lathe(hull).turned("x", -90).moved(0, 0, 0.45), "white"),
        Part(prism(wing, 0.06, "z").moved(0, 0, 0.42), "blue", 0.02),
        Part(prism(tail, 0.045, "z").moved(0, 0, 0.5), "blue", 0.015),
        Part(prism(fin, 0.05).moved(0, 0, 0.5), "red", 0.015),
        Part(ellipsoid(0.13, 0.32, 0.13).moved(0, -0.35, 0.64), "glass"),
        Part(ellipsoid(0.08, 0.12, 0.08).moved(0, -1.12, 0.45), "red"),
        Part(box(0.09, 0.03, 0.74).turned("y", 35).moved(0, -1.14, 0.45), "orange", 0.01),
        *_pair(box(0.05, 0.05, 0.3).turned("y", -20).moved(0.2, -0.42, 0.25), "steel"),
        *_pair(cylinder(0.12, 0.07, "x").moved(0.26, -0.42, 0.12), "black", 0.02),
        Part(cylinder(0.06, 0.05, "x").moved(0, 0.9, 0.06), "black", 0.01),
        Part(tube([(0.9, 0.06), (0.88, 0.4)], [0.02, 0.02]), "steel"),
    ]


def _duck() -> list[Part]:
    tail = lathe([(0.26, 0.0), (0.16, 0.22), (0.0, 0.42)]).turned("x", -62).moved(0, 0.5, 0.52)
    foot = [(0, 0.12), (0.16, -0.2), (0.05, -0.17), (0, -0.26), (-0.05, -0.17), (-0.16, -0.2)]
    return [
        Part(ellipsoid(0.46, 0.66, 0.4).moved(0, 0.05, 0.48), "yellow"),
        Part(tail, "yellow"),
        Part(ellipsoid(0.32, 0.33, 0.32).moved(0, -0.42, 0.98), "yellow"),
        Part(ellipsoid(0.2, 0.26, 0.06).moved(0, -0.74, 0.93), "orange"),
        Part(ellipsoid(0.16, 0.18, 0.05).moved(0, -0.7, 0.87), "red"),
        *_pair(ellipsoid(0.07, 0.05, 0.085).moved(0.15, -0.67, 1.1), "black"),
        *_pair(ellipsoid(0.1, 0.36, 0.22).turned("x", -12).moved(0.43, 0.12, 0.55), "orange"),
        *_pair(prism(foot, 0.06, "z").moved(0.2, -0.08, 0.03), "orange", 0.015),
        *_pair(cylinder(0.05, 0.2).moved(0.2, -0.02, 0.12), "orange"),
    ]


def _teapot() -> list[Part]:
    body = [
        (0.0, 0.0), (0.36, 0.0), (0.42, 0.05), (0.56, 0.22), (0.6, 0.4), (0.55, 0.58),
        (0.42, 0.74), (0.3, 0.8), (0.0, 0.8),
    ]  # fmt: skip
    lid = [(0.0, 0.78), (0.33, 0.78), (0.33, 0.83), (0.2, 0.92), (0.07, 0.95), (0.0, 0.95)]
    spout = [(-0.45, 0.3), (-0.66, 0.36), (-0.8, 0.52), (-0.88, 0.7), (-1.0, 0.8)]
    bend = np.linspace(-0.55 * np.pi, 0.55 * np.pi, 13)
    handle = [(0.55 + 0.32 * float(np.cos(a)), 0.43 + 0.25 * float(np.sin(a))) for a in bend]
    return [
        Part(lathe(body), "teal"),
        Part(lathe([(0.585, 0.3), (0.612, 0.33), (0.612, 0.42), (0.59, 0.45)]), "white"),
        Part(lathe(lid), "gold"),
        Part(ellipsoid(0.09, 0.09, 0.09).moved(0, 0, 1.0), "red"),
        Part(tube(spout, [0.18, 0.14, 0.1, 0.08, 0.09]), "teal"),
        Part(tube([(-0.98, 0.785), (-1.003, 0.803)], [0.066, 0.066]), "black"),
        Part(tube(handle, [0.055] * 13), "orange"),
    ]


def _chair() -> list[Part]:
    legs = [
        part
        for y, top in ((-0.38, 0.62), (0.38, 0.62))
        for part in _pair(box(0.1, 0.1, top).moved(0.36, y, top / 2), "brown", 0.015)
    ]
    back = [(0.36, 0.6), (0.52, 1.4), (0.43, 1.4), (0.28, 0.6)]
    return [
        *legs,
        Part(box(0.88, 0.9, 0.09).moved(0, 0, 0.64), "brown", 0.02),
        Part(box(0.8, 0.78, 0.12).moved(0, -0.04, 0.74), "blue", 0.05),
        *_pair(prism(back, 0.09).moved(0.38, 0, 0), "brown", 0.015),
        Part(box(0.7, 0.06, 0.2).turned("x", -11).moved(0, 0.45, 1.26), "orange", 0.02),
        Part(box(0.7, 0.06, 0.2).turned("x", -11).moved(0, 0.395, 0.98), "orange", 0.02),
        *_pair(box(0.06, 0.78, 0.06).moved(0.36, 0, 0.26), "brown", 0.01),
    ]


def _robot() -> list[Part]:
    bulb = ellipsoid(0.07, 0.07, 0.07).moved(0, 0.05, 1.62)
    return [
        Part(box(0.7, 0.48, 0.62).moved(0, 0, 0.62), "sky", 0.06),
        Part(box(0.44, 0.04, 0.3).moved(0, -0.25, 0.64), "white", 0.01),
        *_pair(cylinder(0.06, 0.05, "y").moved(0.11, -0.27, 0.68), "red"),
        Part(box(0.56, 0.46, 0.42).moved(0, 0, 1.2), "orange", 0.06),
        Part(cylinder(0.12, 0.14).moved(0, 0, 0.97), "grey"),
        *_pair(cylinder(0.11, 0.06, "y").moved(0.14, -0.24, 1.26), "white"),
        *_pair(ellipsoid(0.055, 0.04, 0.055).moved(0.14, -0.28, 1.26), "black"),
        Part(box(0.3, 0.04, 0.05).moved(0, -0.24, 1.08), "black", 0.01),
        Part(tube([(0.05, 1.38), (0.05, 1.6)], [0.02, 0.02]), "steel"),
        Part(bulb, "red"),
        *_pair(box(0.14, 0.56, 0.14).turned("x", 12).moved(0.44, -0.2, 0.68), "grey", 0.03),
        *_pair(ellipsoid(0.11, 0.11, 0.11).moved(0.44, -0.5, 0.62), "red"),
        *_pair(box(0.2, 0.22, 0.3).moved(0.18, 0.02, 0.2), "grey", 0.03),
        *_pair(box(0.26, 0.46, 0.12).moved(0.18, -0.06, 0.06), "purple", 0.03),
        Part(box(0.5, 0.16, 0.46).moved(0, 0.3, 0.64), "green", 0.04),
    ]


BUILDERS: dict[str, Callable[[], list[Part]]] = {
    "car": _car,
    "duck": _duck,
    "plane": _plane,
    "chair": _chair,
    "teapot": _teapot,
    "truck": _truck,
    "robot": _robot,
}
BLENDER_ONLY = ("suzanne",)
BUILTIN = "builtin:"
"""How the names of these assets begin."""
BUILTIN_ASSETS = tuple(f"{BUILTIN}{name}" for name in (*BUILDERS, *BLENDER_ONLY))
