"""Finds a user's object files: in a folder, or named in a list.

A list is text with one `uid path` or `path` on each line ('#' starts a comment), or a JSON object
{uid: path} as `objaverse.load_objects` returns. Relative paths count from the list's folder.
"""

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from data_prep.objects.object_file import SUPPORTED
from posetraj_jax.errors import UserError

REFUSED = (
    ".blend",
    ".zip",
    ".3ds",
    ".dae",
    ".abc",
    ".x3d",
    ".3mf",
    ".off",
    ".step",
    ".max",
    ".c4d",
)
"""Listed although nothing reads them, so that the report says why they are missing."""
MOST_LIST_BYTES = 200_000_000
"""The paths of all of Objaverse take about half."""
MOST_UID = 100
LEGAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ObjectEntry(NamedTuple):
    """An object file that a user gave; it may turn out to be missing or unreadable."""

    uid: str
    """Unique, at most MOST_UID letters, digits, '.', '_' and '-'; may be part of a clip's name."""
    path: Path
    name: str
    """As the user knows it: the path within the folder, or what the list says."""


def find_objects(source: Path) -> list[ObjectEntry]:
    """All objects of a folder (with folders in it, sorted by path) or of a list (in its order).

    Files with a dot in front are skipped, and what is no object (pictures, .mtl, .bin, text).

    Raises:
        UserError: there is no such folder or list, the list cannot be read, or nothing is in it.
    """
    if source.is_dir():
        found = [(None, path, path.relative_to(source).as_posix()) for path in _files(source)]
        wanted = f"files that end in {' '.join(SUPPORTED)}"
    else:
        _require_list(source)
        found = _listed(source)
        wanted = "lines `uid path` or `path`, or a JSON object {uid: path}, with paths that end in "
        wanted += " ".join(SUPPORTED)
    # Any text can be read as a list of paths.
    if not any(path.suffix.lower() in (*SUPPORTED, *REFUSED) for _, path, _ in found):
        raise UserError(
            f"No objects are found: {source}",
            expected=wanted,
            got=f"{len(found)} others, first {found[0][2]!r:.80}" if found else "none",
            fix="give another place",
        )
    return _with_uids(found)


def _files(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(
            f"A folder of objects cannot be read: {error.filename}",
            expected="folders that you may list",
            got=str(error.strerror),
            fix="change its permissions, or move it out of the objects' folder",
        ) from error

    paths = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths.extend(
            Path(place, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in (*SUPPORTED, *REFUSED)
        )
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def _require_list(source: Path) -> None:
    """Refuses what is no list by its looks; an object's text would pass for one."""
    suffix = source.suffix.lower()
    got = "a pipe or a device"
    if not source.exists():
        got = "a link to nothing" if source.is_symlink() else "no such file or folder"
    elif source.is_file():
        if suffix not in (*SUPPORTED, *REFUSED):
            return
        got = f"a single {suffix} file"
        got += "" if suffix in SUPPORTED else ", of a kind that is not read either"
    raise UserError(
        f"No objects are found: {source}",
        expected=f"a folder with files that end in {' '.join(SUPPORTED)}, or a list of such files",
        got=got,
        fix="give the folder that has the objects, or a list with their paths",
    )


def _listed(source: Path) -> list[tuple[str | None, Path, str]]:
    """Given uid, path and name of each object of a list."""
    try:
        with source.open("rb") as file:
            content = file.read(MOST_LIST_BYTES + 1)
        if len(content) > MOST_LIST_BYTES:
            raise ValueError(f"more than {MOST_LIST_BYTES:,} bytes")
        if b"\0" in content:
            raise ValueError("it is no text")
        text = content.decode("utf-8-sig")
        pairs = _json_pairs(text) if text.lstrip().startswith("{") else _line_pairs(source, text)
        for words in pairs:
            os.fsencode("".join(filter(None, words)))  # no file can have another name
        return [(uid, source.parent / os.path.expanduser(path), path) for uid, path in pairs]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"A list of objects cannot be read: {source}",
            expected="a folder, or UTF-8 text with one `uid path` or `path` on each line, or a "
            f"JSON object {{uid: path}}, of at most {MOST_LIST_BYTES:,} bytes",
            got=f"{type(error).__name__}: {str(error)[:200]}".removeprefix("ValueError: "),
            fix="mend the list, or give the folder that has the objects",
        ) from error


def _json_pairs(text: str) -> list[tuple[str | None, str]]:
    content = json.loads(text)
    wrong = [uid for uid, path in content.items() if not isinstance(path, str) or not path]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(content)} values are no path, first {wrong[0]!r:.80}"
        )
    return list(content.items())


def _line_pairs(source: Path, text: str) -> list[tuple[str | None, str]]:
    pairs: list[tuple[str | None, str]] = []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        uid, _, rest = line.partition("\t") if "\t" in line else line.partition(" ")
        # A path may have spaces: the whole line counts if it is a file, or if the rest is no path.
        is_path = not rest.strip() or (source.parent / os.path.expanduser(line)).is_file()
        pairs.append((None, line) if is_path else (uid, rest.strip()))
    return pairs


def _with_uids(found: list[tuple[str | None, Path, str]]) -> list[ObjectEntry]:
    """Entries with unique uids: the given one or the stem, marked with a digest where needed."""
    wished = [uid if uid is not None else path.stem for uid, path, _ in found]
    # Some file systems do not tell upper from lower case.
    often = Counter(wish.lower() for wish in wished)
    entries, taken = [], Counter()
    for wish, (_, path, name) in zip(wished, found, strict=True):
        if often[wish.lower()] == 1 and LEGAL.fullmatch(wish) and len(wish) <= MOST_UID:
            uid = wish
        else:
            uid = _marked(wish, name)
        taken[uid.lower()] += 1
        if taken[uid.lower()] > 1:  # the same line twice, or a digest that somebody wrote by hand
            uid = _marked(wish, f"{name}\n{taken[uid.lower()]}")
        entries.append(ObjectEntry(uid, path, name))
    return entries


def _marked(wish: str, name: str) -> str:
    """What is legal of a wish, and eight digits that tell its file from others."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", wish).strip("-._") or "object"
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{slug[: MOST_UID - 9]}-{digest}"
