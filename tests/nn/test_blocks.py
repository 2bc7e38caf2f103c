"""Every block against its PyTorch original, with all parameters redrawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.resnet import SpatioTemporalResBlock as TorchResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.upsampling import Upsample2D

from convert_weights import oracle
from posetraj_jax.nn.attention import spread_over_positions
from posetraj_jax.nn.build import build
from posetraj_jax.nn.embeddings import EmbeddingMLP, sinusoid
from posetraj_jax.nn.layers import OVER_CLIP, OVER_FRAME, GroupNorm
from posetraj_jax.nn.resnet import Downsample, SpatioTemporalResBlock, Upsample
from posetraj_jax.nn.transformer import SpatioTemporalTransformer
from tests.parity import BLOCK_TOLERANCE, Pair, draw, paired, relative_error

B, F, H, W, C = 3, 4, 6, 10, 64


def block(make_ours, module, seed=0) -> Pair:
    return paired(build(lambda _, make: make_ours(make), None), module, "unet", seed)


def first(x):
    """Channels first, frames folded into the batch."""
    tensor = torch.from_numpy(x).movedim(-1, -3)
    return tensor.flatten(0, 1) if tensor.ndim == 5 else tensor


def last(tensor):
    return tensor.detach().movedim(-3, -1).unflatten(0, (B, F)).numpy()


def per_frame(x):
    return torch.from_numpy(x).repeat_interleave(F, dim=0)


def test_sinusoids_are_cosines_then_sines():
    values = np.array([-1.7, 0.0, 0.02, 6.0, 127.0], np.float32)
    expected = get_timestep_embedding(torch.from_numpy(values), 48, True, 0).numpy()
    np.testing.assert_allclose(sinusoid(jnp.asarray(values), 48), expected, atol=BLOCK_TOLERANCE)


def test_embedding_mlp():
    ours = block(lambda make: EmbeddingMLP(40, 96, 24, make), TimestepEmbedding(40, 96, out_dim=24))
    x = draw(0, 5, 40)
    with torch.no_grad():
        assert relative_error(ours.run(x), ours.module(torch.from_numpy(x))) <= BLOCK_TOLERANCE


@pytest.mark.parametrize("mean", [0.0, 0.5])
@pytest.mark.parametrize("axes", [OVER_FRAME, OVER_CLIP])
def test_group_norm_is_accurate_also_far_from_zero_mean(axes, mean):
    ours = block(lambda make: GroupNorm(C, make, 1e-5, axes), torch.nn.GroupNorm(32, C, eps=1e-5))
    x = (draw(1, B, F, H, W, C) * 0.01 + mean).astype(np.float32)
    # In float64: far from zero, PyTorch's float32 variance E[x²]-E[x]² is not exact enough.
    exact, tensor = ours.module.double(), torch.from_numpy(x).double().movedim(-1, 1)
    if axes == OVER_FRAME:
        tensor = torch.from_numpy(x).double().flatten(0, 1).movedim(-1, 1)
    with torch.no_grad():
        expected = exact(tensor).movedim(1, -1).reshape(x.shape).numpy()
    assert relative_error(ours.run(x), expected) <= BLOCK_TOLERANCE


@pytest.mark.parametrize("c_out", [C, 96])
def test_residual_block_with_time_embedding(c_out):
    ours = block(
        lambda make: SpatioTemporalResBlock(C, c_out, make, eps=1e-6, temb_dim=40),
        TorchResBlock(C, c_out, temb_channels=40, eps=1e-6),
    )
    x, temb = 0.01 * draw(2, B, F, H, W, C), draw(3, B, 40)
    expected = ours.module(first(x), per_frame(temb), torch.zeros(B, F))
    assert relative_error(ours.run(x, temb), last(expected)) <= BLOCK_TOLERANCE


def test_residual_block_of_the_vae_decoder():
    torch_block = TorchResBlock(
        C,
        96,
        temb_channels=None,
        eps=1e-6,
        temporal_eps=1e-5,
        merge_factor=0.0,
        merge_strategy="learned",
        switch_spatial_to_temporal_mix=True,
    )
    ours = block(lambda make: SpatioTemporalResBlock(C, 96, make, eps=1e-6), torch_block, seed=1)
    # Far from even weights, so that swapped roles would show.
    assert abs(float(ours.params["time_mixer"]["mix_factor"][0])) > 0.3
    x = 0.01 * draw(4, B, F, H, W, C)
    expected = ours.module(first(x), image_only_indicator=torch.zeros(B, F))
    assert relative_error(ours.run(x), last(expected)) <= BLOCK_TOLERANCE


@pytest.mark.parametrize("order", ["batch_major", "interleaved"])
def test_transformer_with_one_token_of_context(order):
    d, heads = 96, 3
    module = TransformerSpatioTemporalModel(
        heads, d // heads, in_channels=d, num_layers=2, cross_attention_dim=40
    )
    if order == "interleaved":
        oracle.interleave_temporal_context(module)
    ours = block(
        lambda make: SpatioTemporalTransformer(
            d, heads, make, context_dim=40, depth=2, order=order
        ),
        module,
    )
    # An even number of positions gives all clips the same pattern; 15 shifts it from clip to clip.
    x, context = draw(5, B, F, 3, 5, d), draw(6, B, 40)
    frames_context = per_frame(context)[:, None]
    expected = module(first(x), frames_context, torch.zeros(B, F), return_dict=False)[0]
    told = ours.run(context, num_frames=F, method="context")
    result = ours.run(x, told)
    assert relative_error(result, last(expected)) <= BLOCK_TOLERANCE
    if order == "interleaved":
        fixed = build(
            lambda _, make: SpatioTemporalTransformer(d, heads, make, context_dim=40, depth=2),
            None,
        )
        with jax.default_matmul_precision("highest"):
            other = jax.jit(fixed.apply)(ours.params, x, told)
        assert relative_error(result, other) > 100 * BLOCK_TOLERANCE


def test_interleaving_gives_row_r_the_context_of_clip_r_mod_b():
    vectors = jnp.arange(3.0)[:, None]
    rows = np.asarray(spread_over_positions(vectors, 4, "interleaved"))[:, 0, :, 0]
    np.testing.assert_array_equal(rows, [[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2]])
    fixed = np.asarray(spread_over_positions(vectors, 4, "batch_major"))[:, 0, :, 0]
    np.testing.assert_array_equal(fixed, [[0], [1], [2]])


@pytest.mark.parametrize(("padding", "torch_padding"), [((1, 1), 1), ((0, 1), 0)])
def test_downsampling(padding, torch_padding):
    module = Downsample2D(C, use_conv=True, out_channels=C, padding=torch_padding, name="op")
    ours = block(lambda make: Downsample(C, make, padding), module)
    x = draw(7, B, F, H, W, C)
    assert relative_error(ours.run(x), last(module(first(x)))) <= BLOCK_TOLERANCE


def test_upsampling():
    module = Upsample2D(C, use_conv=True, out_channels=C)
    ours = block(lambda make: Upsample(C, make), module)
    x = draw(8, B, F, H, W, C)
    assert relative_error(ours.run(x), last(module(first(x)))) <= BLOCK_TOLERANCE
