"""Pages that were made before, by the digest of everything that they depend on."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "libtpu")


def folder() -> Path:
    """Where pages are kept: `posetraj_jax/plans` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "posetraj_jax" / "plans"


def versions() -> dict[str, str]:
    """The libraries that decide what is compiled; "none" for one that is not installed."""
    return {name: _version(name) for name in LIBRARIES}


def fingerprint(asked: Mapping[str, Any]) -> str:
    """The digest of what was asked for, of every source file of the package, and of libraries.

    Args:
      asked: anything that JSON can hold: the config, the topology, how to compile.
    """
    digest = hashlib.sha256(json.dumps([asked, versions()], sort_keys=True).encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


def load(digest: str) -> dict[str, Any] | None:
    """The page of this fingerprint; None if there is none that can be read."""
    try:
        page = json.loads((folder() / f"{digest}.json").read_text())
    except (OSError, ValueError):
        return None
    return page if isinstance(page, dict) and page.get("fingerprint") == digest else None


def save(digest: str, page: Mapping[str, Any]) -> None:
    """Keeps a page; a cache that cannot be written keeps none."""
    path = folder() / f"{digest}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(page))
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"
