"""Gradients of blocks whose clips are split over devices, which XLA easily gets wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from posetraj_jax import sharding
from posetraj_jax.nn.build import build
from posetraj_jax.nn.resnet import Downsample, SpatioTemporalResBlock, Upsample
from posetraj_jax.nn.transformer import SpatioTemporalTransformer
from tests.meshes import mesh_of
from tests.parity import draw, redrawn

C = 64
SIZES = {
    # clips, frames, rows; columns are as many as rows
    "frames": (4, 4, 4),
    "rows": (4, 3, 4),
    "rows, not parts of a single frame": (4, 2, 4),
    "neither, not parts of a single row": (4, 3, 2),
}


class Transformer(nnx.Module):
    def __init__(self, c, make):
        self.transformer = SpatioTemporalTransformer(c, 2, make, context_dim=8)

    def __call__(self, x, embed):
        return self.transformer(x, self.transformer.context(embed, x.shape[1]))


class Resnet(nnx.Module):
    """With the layers that change the resolution after it."""

    def __init__(self, c, make):
        self.block = SpatioTemporalResBlock(c, c, make, eps=1e-5, temb_dim=8)
        self.down, self.up = Downsample(c, make), Upsample(c, make)

    def __call__(self, x, embed):
        x = sharding.constrain(self.block(x, embed))
        if x.shape[2] % 2 == 0:
            x = sharding.constrain(self.down(x))
        return self.up(x)


@pytest.mark.parametrize("block", [Transformer, Resnet])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_gradients_are_those_of_one_device(block, size):
    clips, _, rows = size
    network = build(block, C)
    params, x, embed = redrawn(network, seed=1), draw(2, *size, rows, C), draw(3, clips, 8)
    shape = jax.eval_shape(network.apply, params, x, embed).shape
    weights = draw(4, *shape)

    def loss(params, x, embed):
        return jnp.sum(weights * network.apply(params, sharding.constrain(x), embed))

    gradients = jax.grad(loss, argnums=(0, 1))
    mesh = mesh_of(2, 1, 2, jax.devices()[:4])
    on_mesh = jax.device_put((params, x, embed), sharding.replicated(mesh))
    with jax.default_matmul_precision("highest"):
        expected = jax.tree.leaves(jax.jit(gradients)(params, x, embed))
        made = jax.tree.leaves(sharding.jit(gradients, mesh)(*on_mesh))
    largest = max(np.abs(leaf).max() for leaf in expected)
    for got, want in zip(made, expected, strict=True):
        scale = max(np.abs(want).max(), 1e-2 * largest)
        assert np.abs(got - want).max() <= 1e-4 * scale
