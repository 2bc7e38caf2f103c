"""Reads lists and notes that a user gives; never more than is reasonable, and never for ever."""

import stat
from pathlib import Path

MOST_BYTES = 16_000_000


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: no file (a pipe may never end), more than MOST_BYTES, or no UTF-8.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    return content.decode("utf8")
