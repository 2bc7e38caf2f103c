"""Which objects are no use for clips, and why: every rejection is one line that has its numbers."""

import numpy as np

from data_prep.fanout.task import Rejected
from data_prep.objects.colour import linear
from data_prep.objects.model import Material, Model, area, sides

MOST_TRIANGLES = 2_000_000
FLAT = 0.1
"""The official rule: height / width below this, the width being along x."""
THIN = 0.01
"""A sheet, however it stands: smallest side / largest side below this."""
BLACK = 0.01
"""Nothing brighter than this (linear) anywhere: no shading would show the object's turns."""


class NeedsConversion(Rejected):
    """The file is of a kind that only Blender reads: convert it, then read what comes out."""


def check_triangles(number: int) -> None:
    """Refuses too large a number of triangles before anything is made of them.

    Raises:
        Rejected: none, or more than MOST_TRIANGLES.
    """
    if number > MOST_TRIANGLES:
        raise Rejected(f"{number:,} triangles, more than {MOST_TRIANGLES:,}")
    if number < 1:
        raise Rejected("empty: no triangles")


def check(model: Model) -> None:
    """Refuses a normalised model that would make poor clips.

    Raises:
        Rejected: empty, flat, thin as a sheet, or black all over.

    Source: the official renderer rejects height / width < 0.1; the paper's other filters (texture
        quality, scenes, humans) were made by people or networks that are not to be had here.
    """
    check_triangles(len(model.triangles))
    if not area(model) > 0:
        raise Rejected(f"empty: {len(model.triangles):,} triangles without any area")
    x, y, z = sides(model)
    measured = f"{x:.3g} x {y:.3g} x {z:.3g} of its largest side"
    if z < FLAT * x:
        raise Rejected(f"flat: {measured}, height / width {z / x:.3g} is below {FLAT}")
    if min(x, y, z) < THIN * max(x, y, z):
        raise Rejected(f"thin as a sheet: {measured}, smallest / largest is below {THIN}")
    brightest = max(
        _brightest(material, model.colours[model.material_of == number])
        for number, material in enumerate(model.materials)
    )
    if brightest < BLACK:
        raise Rejected(f"black all over: the brightest colour is {brightest:.2g}, below {BLACK}")


def _brightest(material: Material, colours: np.ndarray) -> float:
    """An upper bound, linear, of what a material shows under white light."""
    if not colours.size:
        return 0.0
    shown = np.array(material.base_colour) * colours.reshape(-1, 3).max(axis=0)
    if material.texture is not None:
        shown = shown * linear(material.texture[..., :3].reshape(-1, 3).max(axis=0) / 255.0)
    return float(max(shown.max(), max(material.emissive)))
