"""Clips → the features whose distance FID or FVD is, over all devices."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, UInt8

from posetraj_jax import json_file, sharding, weights
from posetraj_jax.errors import UserError
from posetraj_jax.evaluation.networks import NETWORKS, i3d, inception
from posetraj_jax.nn.build import Network, build

HOW_TO_CONVERT = "python -m convert_weights.features_to_flax STATE_DICT FOLDER"
AT_ONCE = {"inception": 8, "i3d": 1}
"""Pictures, or clips, that one device gives features at a time."""
SIDES = {"inception": inception.SIDE, "i3d": i3d.SIDE}


class Extractor(NamedTuple):
    """A feature network with its weights, whole on every device."""

    name: str
    """One of `NETWORKS`."""
    network: Network
    params: Any
    mesh: Mesh

    def __call__(self, clips_uint8: UInt8[np.ndarray, "b f h w 3"]) -> Float32[np.ndarray, "b k d"]:
        """Features of clips: a row for each frame of "inception", one for all of "i3d".

        Frames are stretched to the network's square between their nearest pixels; nothing is
        blurred first.

        Raises:
            ValueError: Too few frames for the network.

        Source: pytorch-fid, which reads pictures of 8 bits. Differs: for FVD, TensorFlow's code
            took other nearest pixels, half a pixel off, and pictures of 256 colours.
        """
        b, f, *picture = clips_uint8.shape
        units = clips_uint8
        if self.name == "inception":
            units = clips_uint8.reshape(b * f, *picture)
        at_once = AT_ONCE[self.name] * sharding.batch_shards(self.mesh)
        extract = _extract(self.network, SIDES[self.name], self.mesh)
        rows = []
        for start in range(0, len(units), at_once):
            some = units[start : start + at_once]
            padded = np.concatenate([some, np.repeat(some[-1:], at_once - len(some), axis=0)])
            made = extract(self.params, sharding.put_batch(padded, self.mesh))
            rows.append(np.asarray(made)[: len(some)])
        return np.concatenate(rows).reshape(b, len(units) // b, -1)


@functools.lru_cache(maxsize=2)
def _extract(network: Network, side: int, mesh: Mesh) -> Any:
    def extract(params: Any, pictures: UInt8[Array, "n *f h w 3"]) -> Float[Array, "n d"]:
        *axes, _, _, _ = pictures.shape
        pixels = pictures.astype(jnp.float32) / 127.5 - 1.0
        square = jax.image.resize(pixels, (*axes, side, side, 3), "bilinear", antialias=False)
        with jax.default_matmul_precision("highest"):
            return network.apply(params, square)

    return sharding.jit(extract, mesh, out_shardings=sharding.replicated(mesh))


def load_extractor(folder: Path, name: str, mesh: Mesh) -> Extractor:
    """A network that `features_to_flax` converted, whole on every device.

    Args:
        name: which one it must be: one of `NETWORKS`.

    Raises:
        UserError: No such folder, another network, or leaves missing or of another shape.
    """
    path, fix = folder / weights.CONFIG, f"convert it: {HOW_TO_CONVERT}"
    network = build(NETWORKS[name], None)
    class_name = json_file.read_object(path, fix).get("_class_name")
    if class_name != NETWORKS[name].__name__:
        raise UserError(
            f"{folder} is another network",
            expected=f'"_class_name": "{NETWORKS[name].__name__}" in {weights.CONFIG}',
            got=f"{class_name!r:.60}",
            fix=fix,
        )
    replicated = sharding.replicated(mesh)
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=replicated),
        network.abstract(),
    )
    return Extractor(name, network, weights.load(folder, target), mesh)
