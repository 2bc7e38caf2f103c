"""STL, binary and text: triangles and nothing else, in the axes that they have."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from data_prep.fanout.task import Rejected
from data_prep.objects.parts import PLAIN, Part
from data_prep.objects.rejections import MOST_TRIANGLES, check_triangles

Array = np.ndarray

HEADER = 84
TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
MOST_TEXT_BYTES = 300 * MOST_TRIANGLES
NUMBER = rb"[-+0-9.eEnNaAiIfF]{1,40}"
VERTEX = re.compile(
    rb"\bvertex[ \t]+(" + NUMBER + rb")[ \t]+(" + NUMBER + rb")[ \t]+(" + NUMBER + rb")",
    re.IGNORECASE,
)


def read_stl(path: Path, data: bytes) -> list[Part]:
    """The one part of the file. Normals are left out: they are per triangle and often wrong.

    Raises:
        Rejected: neither kind of STL, cut off, or too large.
    """
    number = _num_triangles(data)
    if is_binary(data):
        check_triangles(number)
        corners = np.frombuffer(data, TRIANGLE, offset=HEADER)["corners"].astype(np.float64)
    elif data[:512].lstrip()[:5].lower() == b"solid" and b"\0" not in data[:512]:
        corners = _from_text(data)
    else:
        raise Rejected(_neither(data))
    return [Part(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3), PLAIN)]


def _neither(data: bytes) -> str:
    if len(data) < HEADER:
        return (
            f"broken: {len(data)} bytes, neither STL as text nor a binary one's {HEADER} at least"
        )
    number = _num_triangles(data)
    return (
        f"broken: cut off or no STL: as binary it would have {number:,} triangles in "
        f"{HEADER + number * TRIANGLE.itemsize:,} bytes, the file has {len(data):,}"
    )


def is_binary(data: bytes) -> bool:
    """Whether the number of triangles that a binary STL has at its start fits its size."""
    return len(data) >= HEADER and len(data) == HEADER + _num_triangles(data) * TRIANGLE.itemsize


def _num_triangles(data: bytes) -> int:
    return int.from_bytes(data[80:HEADER], "little")


def _from_text(data: bytes) -> Float64[Array, "t 3 3"]:
    if len(data) > MOST_TEXT_BYTES:
        raise Rejected(f"{len(data):,} bytes of text, more than {MOST_TEXT_BYTES:,}")
    number = len(re.findall(rb"\bvertex\b", data, re.IGNORECASE))
    if not re.search(rb"endsolid", data[-4096:], re.IGNORECASE):
        raise Rejected(f"cut off: no endsolid after {number:,} corners")
    check_triangles(number // 3)
    try:
        values = [float(word) for match in VERTEX.finditer(data) for word in match.groups()]
    except ValueError as error:
        raise Rejected(f"broken: {error}") from error
    if number % 3 or len(values) != 3 * number:
        raise Rejected(f"broken: {number:,} corners, of which {len(values) // 3:,} can be read")
    return np.array(values).reshape(-1, 3, 3)
