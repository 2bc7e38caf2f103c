"""Files that an object's file names: only those of its own folder, and of reasonable size."""

import re
import stat
from pathlib import Path, PurePosixPath

from data_prep.fanout.task import Rejected

MOST_BYTES = 1_000_000_000
"""Of one file."""


def read_file(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        Rejected: there is none, it cannot be read, or it is larger than MOST_BYTES.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe or a device may never end
            raise Rejected("not a regular file")
        if about.st_size > MOST_BYTES:
            raise Rejected(f"{about.st_size:,} bytes, more than {MOST_BYTES:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Rejected(f"cannot be read: {reason}") from error


def read_beside(path: Path, reference: str) -> bytes:
    """The content of a file that the object at `path` names, relative to its folder.

    Backslashes count as slashes, since many files were written on Windows.

    Raises:
        Rejected: the name is a URL, an absolute path, leaves the folder (also through a symbolic
            link), or `read_file` refuses the file.
    """
    name = reference.strip().replace("\\", "/")
    shown = repr(reference[:120])
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", name):
        raise Rejected(f"refers to {shown}, and nothing is fetched from elsewhere")
    if not name or "\0" in name:
        raise Rejected(f"refers to a file by no name: {shown}")
    if name.startswith(("/", "~")) or re.match(r"[A-Za-z]:", name):
        raise Rejected(f"refers to {shown}, an absolute path: only its own folder is read")
    if ".." in PurePosixPath(name).parts:
        raise Rejected(f"refers to {shown}, which leaves its folder")
    try:
        folder = path.parent.resolve()
        target = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise Rejected(f"refers to {shown}, which is no usable name") from error
    if not target.is_relative_to(folder):
        raise Rejected(f"refers to {shown}, a link that leaves its folder")
    try:
        return read_file(target)
    except Rejected as error:
        raise Rejected(f"refers to {shown}: {error}") from error
