"""Pairs of a network of ours and its PyTorch original, with the same redrawn parameters."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from convert_weights import mapping, oracle
from posetraj_jax.models.clip import CLIPVision
from posetraj_jax.models.controlnet import ControlNet
from posetraj_jax.models.unet import UNet
from posetraj_jax.models.vae import VAE
from posetraj_jax.nn.build import Network, build

BLOCK_TOLERANCE = 1e-5
NETWORK_TOLERANCE = 1e-4
CLASSES = {"unet": UNet, "controlnet": ControlNet, "vae": VAE, "clip": CLIPVision}


# Two levels, one layer each: what the property tests compile and share.
SMALL = {
    "block_out_channels": (64, 96),
    "layers_per_block": 1,
    "num_attention_heads": (2, 3),
    "cross_attention_dim": 32,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
}
SMALL_SHAPE = (2, 3, 4, 8)  # clips, frames, rows and columns of the latents


class Pair(NamedTuple):
    network: Network
    params: dict[str, Any]
    module: Any

    def run(self, *args, method=None, **static):
        """Ours, compiled, at full float32 precision."""
        compiled = _compiled(self.network, method, **static)
        with jax.default_matmul_precision("highest"):
            return jax.tree.map(np.asarray, compiled(self.params, *args))


@functools.cache
def _compiled(network: Network, method: str | None, **static):
    return jax.jit(functools.partial(network.apply, method=method, **static))


def pair(component: str, config, *, seed: int) -> Pair:
    """A whole network; its torch twin comes from the oracle."""
    twin = getattr(oracle, component)(config)
    return paired(build(CLASSES[component], config), twin, component, seed)


def paired(network: Network, module, component: str, seed: int) -> Pair:
    oracle.redraw(module, seed)
    return Pair(
        network, mapping.from_torch(oracle.state(module), network.abstract(), component), module
    )


def redrawn(network: Network, seed: int) -> dict[str, Any]:
    """Parameters of ours without a twin, every leaf drawn: kernels N(0, 1 / fan_in)."""
    leaves, structure = jax.tree.flatten(network.abstract())
    rng = np.random.default_rng(seed)
    spread = [max(np.prod(leaf.shape[:-1], dtype=int), 1) ** -0.5 for leaf in leaves]
    drawn = [s * rng.normal(size=leaf.shape) for s, leaf in zip(spread, leaves, strict=True)]
    return jax.tree.unflatten(structure, [leaf.astype(np.float32) for leaf in drawn])


def relative_error(ours, theirs) -> float:
    """The largest difference in units of the largest output; shapes must be the same.

    Printed too: `pytest -s tests/models tests/nn | grep relative` shows every figure.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 1e-3, "the outputs are too small to compare"
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    print(f"relative error {error:.1e}")
    return error


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def denoiser_inputs(config, b: int, f: int, h: int, w: int) -> tuple[np.ndarray, ...]:
    """sample, c_noise, image_embed, time_ids."""
    time_ids = np.stack([[6.0, 127.0 - i, 0.02] for i in range(b)]).astype(np.float32)
    return (
        draw(1, b, f, h, w, config.in_channels),
        draw(2, b),
        draw(3, b, config.cross_attention_dim),
        time_ids,
    )
