"""Reads JSON that somebody else wrote: never more than is reasonable, one clear error."""

import json
import stat
from pathlib import Path
from typing import Any

from posetraj_jax.errors import UserError

MOST_BYTES = 16_000_000
"""The index of a sharded checkpoint has some hundred kilobytes, a config a few."""
NAMES = {
    dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number",
    float: "a number", type(None): "null",
}  # fmt: skip


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: A file.
        fix: What to do about a file that cannot be read.

    Raises:
        UserError: No such file, unreasonably large, not JSON, or not an object.
    """
    return _read(path, fix, "object", dict)


def read_object_or_list(path: Path, fix: str) -> dict[str, Any] | list[Any]:
    """The object or the list in a JSON file, without a key that comes twice in one object.

    Raises:
        UserError: as `read_object`, or a key comes twice.
    """
    return _read(path, fix, "object or a list", dict | list, _require_single)


def name_of(value: Any) -> str:
    """What a value is called in JSON, or its type if JSON has none like it."""
    return NAMES.get(type(value), type(value).__name__)


def _require_single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:20]!r} comes twice in one object")
    return content


def _read(path: Path, fix: str, kind: str, types: Any, hook: Any = None) -> Any:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
            raise ValueError("not a file")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        content = json.loads(content.decode(), object_pairs_hook=hook)
        if not isinstance(content, types):
            raise ValueError(f"it holds {name_of(content)}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {path}",
            expected=f"a JSON {kind} of at most {MOST_BYTES:,} bytes",
            got=f"{type(error).__name__}: {error}",
            fix=fix,
        ) from error
    return content
