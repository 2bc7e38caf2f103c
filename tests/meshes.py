"""Meshes of the fake devices that tests run on."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from posetraj_jax.sharding import MeshOptions, make_mesh


def mesh_of(
    data: int = -1, fsdp: int = 1, context: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh of all devices, or of these."""
    return make_mesh(MeshOptions(data, fsdp, context), devices)


def one_device() -> Mesh:
    """The mesh of a single device."""
    return mesh_of(devices=jax.devices()[:1])
