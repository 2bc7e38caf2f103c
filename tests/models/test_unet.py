"""The whole UNet against diffusers' and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert_weights import oracle
from posetraj_jax.models.controlnet import official_residual_multiplicity
from posetraj_jax.models.stages import DownStage, Residuals
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.nn.build import build
from tests import parity
from tests.parity import NETWORK_TOLERANCE, denoiser_inputs, draw, pair, relative_error

ODD = UNetConfig(
    block_out_channels=(64, 96),
    layers_per_block=2,
    num_attention_heads=(2, 3),
    cross_attention_dim=40,
    addition_time_embed_dim=10,
    projection_class_embeddings_input_dim=30,
    temporal_context="interleaved",
)
# (configuration, clips, frames, rows, columns of the latents)
CASES = {"tiny": (UNetConfig.tiny(), 1, 5, 8, 16), "odd": (ODD, 3, 2, 6, 2)}
SMALL = UNetConfig(**parity.SMALL)


def random_residuals(config, b, f, h, w) -> Residuals:
    """One per skip, at the skip's resolution, as large as the skips are."""
    skips = []
    for k, c in enumerate(config.skip_channels):
        halvings = k // (config.layers_per_block + 1)
        skips.append(0.3 * draw(20 + k, b, f, h >> halvings, w >> halvings, c))
    deepest = config.num_levels - 1
    mid = 0.3 * draw(50, b, f, h >> deepest, w >> deepest, config.block_out_channels[-1])
    return Residuals(tuple(skips), mid)


@pytest.mark.parametrize("name", CASES)
def test_unet_with_residuals_equals_pytorch(name):
    config, *shape = CASES[name]
    ours, inputs = pair("unet", config, seed=1), denoiser_inputs(config, *shape)
    residuals = random_residuals(config, *shape)
    multiplicity = official_residual_multiplicity(config.num_levels, config.layers_per_block)
    official = residuals._replace(
        skips=tuple(m * skip for m, skip in zip(multiplicity, residuals.skips, strict=True))
    )
    once, several = ours.run(*inputs, residuals), ours.run(*inputs, official)
    expected = oracle.run_unet(ours.module, *inputs, residuals=residuals)
    assert relative_error(once, expected) <= NETWORK_TOLERANCE
    cumulative = oracle.run_unet(ours.module, *inputs, residuals=residuals, cumulative=True)
    assert relative_error(several, cumulative) <= NETWORK_TOLERANCE
    assert relative_error(once, several) > 0.01
    assert relative_error(once, oracle.run_unet(ours.module, *inputs)) > 0.01


def test_unet_without_residuals_equals_pytorch_and_clips_do_not_mix():
    ours, inputs = pair("unet", SMALL, seed=2), denoiser_inputs(SMALL, *parity.SMALL_SHAPE)
    together = ours.run(*inputs)
    assert relative_error(together, oracle.run_unet(ours.module, *inputs)) <= NETWORK_TOLERANCE
    alone = [ours.run(*(x[i : i + 1] for x in inputs)) for i in range(2)]
    assert relative_error(np.concatenate(alone), together) <= 1e-5


def test_every_input_reaches_the_output():
    ours, inputs = pair("unet", SMALL, seed=2), denoiser_inputs(SMALL, *parity.SMALL_SHAPE)
    together = ours.run(*inputs)
    for i in range(len(inputs)):
        changed = [x + 1.0 if i == k else x for k, x in enumerate(inputs)]
        assert relative_error(ours.run(*changed), together) > 1e-3


def test_rematerialisation_changes_neither_outputs_nor_gradients():
    """On one stage with a residual block and a transformer; every stage wraps them alike."""
    params = pair("unet", SMALL, seed=3).params["down_blocks"]["0"]
    x, temb, context = draw(0, 1, 2, 4, 4, 64), draw(1, 1, 256), draw(2, 1, 32)

    def value_and_grad(remat):
        network = build(lambda config, make: DownStage(0, config, make), SMALL, remat=(remat,))

        def loss(params, x, temb, context):
            contexts = network.apply(params, context, 2, method="contexts")
            return jnp.mean(jnp.square(network.apply(params, x, temb, contexts)[0]))

        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params, x, temb, context))

    plain = value_and_grad("none")
    for remat in ("blocks", "dots"):
        for got, want in zip(value_and_grad(remat), plain, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(("remat", "wrapped"), [("none", 0), ("blocks", 12), ("dots", 12)])
def test_every_residual_block_and_transformer_is_rematerialised(remat, wrapped):
    # 2 + 1 on the way down, 2 + 1 in the middle, 4 + 2 on the way up.
    network = build(UNet, SMALL, remat=(remat,))
    inputs = map(jnp.asarray, denoiser_inputs(SMALL, 1, 2, 4, 4))
    equations = jax.make_jaxpr(network.apply)(network.abstract(), *inputs).eqns
    assert sum("remat" in str(equation.primitive) for equation in equations) == wrapped


def test_activations_are_in_the_compute_type():
    network = build(UNet, SMALL, dtype=jnp.bfloat16)
    inputs = denoiser_inputs(SMALL, 1, 2, 4, 4)
    out = jax.eval_shape(network.apply, network.abstract(), *inputs)
    assert out.dtype == jnp.bfloat16
