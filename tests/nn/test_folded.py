"""Convolutions of folded images against the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from posetraj_jax.models.controlnet import ControlNetConfig, MapEmbedding
from posetraj_jax.nn.folded import convolve_folded, convolve_folding
from posetraj_jax.nn.layers import Make
from tests import parity


def run(form: str, x, kernel, bias, *, folded: bool):
    """In one form or plainly, the result as if nothing were folded."""
    strides = 2 if form == "halves" else 1
    conv = Make(jax.random.key(0), jnp.float32).conv(x.shape[-1], len(bias), strides=strides)
    conv.kernel[...], conv.bias[...] = kernel, bias
    if not folded:
        return conv(x)
    if form == "folds":
        return unfold(convolve_folding(x, conv))
    made = convolve_folded(fold(x), conv)
    return made if form == "halves" else unfold(made)


def fold(x):
    """Every 2 x 2 pixels as one, row by row."""
    corners = [x[..., row::2, column::2, :] for row in (0, 1) for column in (0, 1)]
    return jnp.concatenate(corners, axis=-1)


def unfold(x):
    *batch, h, w, c = x.shape
    x = x.reshape(*batch, h, w, 2, 2, c // 4)
    return jnp.moveaxis(x, -3, -4).reshape(*batch, 2 * h, 2 * w, c // 4)


@pytest.mark.parametrize("form", ["folds", "keeps", "halves"])
@pytest.mark.parametrize("size", [(2, 2), (6, 8)])
def test_values_and_all_gradients_are_those_of_the_plain_convolution(form, size):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (2, 3, *size, 5))
    kernel, bias = jax.random.normal(keys[1], (3, 3, 5, 7)), jax.random.normal(keys[2], (7,))

    def both(folded):
        made, back = jax.vjp(lambda *args: run(form, *args, folded=folded), x, kernel, bias)
        return made, *back(jax.random.normal(keys[3], made.shape))

    with jax.default_matmul_precision("highest"):
        for got, wanted in zip(both(folded=True), both(folded=False), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_maps_are_embedded_alike_in_both_forms():
    config = ControlNetConfig.tiny(camera=True)
    maps = jax.random.normal(jax.random.key(1), (1, 2, 32, 64, 3))
    camera = jax.random.normal(jax.random.key(2), (1, 2, 12))
    embedded = []
    for kernels in ("xla", "splash"):
        module = MapEmbedding(config, Make(jax.random.key(0), jnp.float32, attention=kernels))
        assert module.folds == (kernels == "splash")
        graph, state = nnx.split(module)
        state = jax.tree.map(lambda leaf: 0.3 * parity.draw(leaf.size, *leaf.shape), state)
        embedded.append(nnx.merge(graph, state)(maps, camera))
    np.testing.assert_allclose(*embedded, atol=1e-5 * np.abs(embedded[0]).max())
