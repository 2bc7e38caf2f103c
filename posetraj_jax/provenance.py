"""What a result was made with, for its record: versions of libraries, and the git revision."""

import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("posetraj_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
"""Recorded with every training run."""


def made_with(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The version of each package, and under `git` the revision that this file belongs to."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {**versions, "git": _git_revision()}


def _git_revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return "unknown"
    return git.stdout.strip() or "not a checkout"
