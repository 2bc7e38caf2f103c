"""The material library of an OBJ file: colours, roughness and the texture of each material.

As in Blender's importer a texture (map_Kd) replaces the colour Kd, Ns becomes roughness, and the
PBR extension (Pr, Pm, Ke) counts. A mask (map_d) makes holes where it is below one half. Not
followed: how a texture is shifted or scaled (-o, -s), bump and specular maps.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.fanout.task import Rejected
from data_prep.objects.model import Material
from data_prep.objects.own_folder import read_beside
from data_prep.objects.parts import GREY
from data_prep.objects.textures import Textures

Array = np.ndarray

HIDDEN_BELOW = 0.02
MASK_CUTOFF = 0.5
MOST_MATERIALS = 10_000
NUMBERS_AFTER = {"-o": 3, "-s": 3, "-t": 3, "-mm": 2, "-bm": 1, "-boost": 1, "-texres": 1}
WORDS_AFTER = ("-blendu", "-blendv", "-cc", "-clamp", "-imfchan", "-type")


Entry = dict[str, list[str]]
"""The lines of one material by keyword, in lower case: the words, then all of them as written."""


def read_materials(
    path: Path, libraries: list[bytes], used: set[str]
) -> dict[str, tuple[Material, bool]]:
    """Materials by name, each with whether it can be seen.

    Args:
        path: of the object, beside which textures are.
        libraries: contents of the library files; of equal names the first holds.
        used: names of the materials to make.

    Raises:
        Rejected: numbers or textures that cannot be read.
    """
    entries: dict[str, Entry] = {}
    for library in libraries:
        for name, entry in _entries(library).items():
            entries.setdefault(name, entry)
    entries = {name: entry for name, entry in entries.items() if name in used}
    if len(entries) > MOST_MATERIALS:
        raise Rejected(f"{len(entries):,} materials, more than {MOST_MATERIALS:,}")
    names = {_file_name(e[key]) for e in entries.values() for key in _maps(e)}
    pictures, textures = {}, Textures(len(names))
    for name in sorted(names):
        pictures[name] = textures.decode(read_beside(path, name), repr(name[:60]))
    return {name: _material(name, entry, pictures) for name, entry in entries.items()}


def _maps(entry: Entry) -> list[str]:
    return [key for key in ("map_kd", "map_d") if key in entry]


def _entries(library: bytes) -> dict[str, Entry]:
    try:
        text = library.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = library.decode("latin-1")
    entries: dict[str, Entry] = {}
    current = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        if words[0].lower() == "newmtl":
            # Names may have spaces, of which OBJ reading keeps one each.
            current = entries.setdefault(" ".join(words[1:]), {})
        else:
            rest = line.strip()[len(words[0]) :].strip()
            current[words[0].lower()] = [*words[1:], rest]
    return entries


def _file_name(words: list[str]) -> str:
    """The name after a map's options; `words` ends with the whole rest of the line."""
    *words, rest = words
    while words and words[0].startswith("-"):
        option = words.pop(0).lower()
        if option not in NUMBERS_AFTER and option not in WORDS_AFTER:
            break
        most = NUMBERS_AFTER.get(option, 1)
        for _ in range(most):
            if len(words) > 1 and (option in WORDS_AFTER or _is_number(words[0])):
                words.pop(0)
        rest = " ".join(words)
    return rest


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _material(name: str, entry: Entry, pictures: dict[str, Array]) -> tuple[Material, bool]:
    base = _colour(name, entry, "kd", GREY)
    texture = None
    if "map_kd" in entry:
        base, texture = (1.0, 1.0, 1.0), pictures[_file_name(entry["map_kd"])]
    shininess = _value(name, entry, "ns", 250.0, 1000.0)  # Blender's 0.5
    roughness = _value(name, entry, "pr", 1.0 - math.sqrt(shininess / 1000.0))
    metallic = _value(name, entry, "pm", 0.0)
    emissive = _colour(name, entry, "ke", (0.0, 0.0, 0.0))
    visible = _value(name, entry, "d", 1.0 - _value(name, entry, "tr", 0.0)) >= HIDDEN_BELOW
    cutoff = 0.0
    if "map_d" in entry and visible:
        texture = _masked(texture, pictures[_file_name(entry["map_d"])])
        if texture[..., 3].min() < MASK_CUTOFF * 255:
            cutoff, visible = MASK_CUTOFF, bool(texture[..., 3].max() >= MASK_CUTOFF * 255)
    return Material(base, metallic, roughness, emissive, texture, cutoff), visible


def _masked(texture: Array | None, mask: Array) -> Array:
    """The texture with another alpha: the mask's own, or its brightness if it has none."""
    alpha = mask[..., 3] if mask[..., 3].min() < 255 else mask[..., :3].max(axis=-1)
    if texture is None:
        texture = np.full((*alpha.shape, 4), 255, np.uint8)
    height, width = texture.shape[:2]
    texture = texture.copy()
    texture[..., 3] = np.asarray(Image.fromarray(alpha).resize((width, height)))
    return texture


def _value(name: str, entry: Entry, key: str, otherwise: float, most: float = 1.0) -> float:
    words = entry.get(key, [str(otherwise)])
    try:
        value = float(words[0])
    except ValueError as error:
        raise Rejected(f"material {name[:60]!r}: {key} is {words[0][:40]!r}") from error
    if not math.isfinite(value):
        raise Rejected(f"material {name[:60]!r}: {key} is not finite")
    return min(most, max(0.0, value))


def _colour(
    name: str, entry: Entry, key: str, otherwise: tuple[float, float, float]
) -> tuple[float, float, float]:
    if key not in entry:
        return otherwise
    words = entry[key][:-1]
    # One number stands for all three; other colour systems ("spectral", "xyz") are not used.
    words = words * 3 if len(words) == 1 else words
    if len(words) < 3 or not all(_is_number(word) for word in words[:3]):
        raise Rejected(f"material {name[:60]!r}: {key} is not three numbers")
    red, green, blue = (_value(name, {key: [word]}, key, 0.0) for word in words[:3])
    return red, green, blue
