"""Stages of the UNet against diffusers' blocks, and the configuration they share."""

import functools

import numpy as np
import pytest
import torch

from convert_weights import oracle
from posetraj_jax.models.stages import DownStage, MidStage, UpStage
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.nn.build import build
from tests.parity import BLOCK_TOLERANCE, Pair, draw, pair, relative_error

CONFIG = UNetConfig(
    block_out_channels=(64, 96),
    layers_per_block=2,
    num_attention_heads=(1, 3),
    cross_attention_dim=40,
    addition_time_embed_dim=10,
    projection_class_embeddings_input_dim=30,
)
B, F, H, W = 2, 3, 4, 6
TEMB, CONTEXT = draw(1, B, CONFIG.time_embed_dim), draw(2, B, 40)


@functools.cache
def whole():
    return pair("unet", CONFIG, seed=0)


def stage(module_cls, *path, level=None, skips=None) -> Pair:
    params, module = whole().params, whole().module
    for name in path:
        params, module = (
            params[name],
            module[int(name)] if name.isdigit() else getattr(module, name),
        )
    extra = tuple(x for x in (level, skips) if x is not None)
    network = build(lambda config, make: module_cls(*extra, config, make), CONFIG)
    return Pair(network, params, module)


def told(ours: Pair):
    """What the transformers of a stage are told by the image."""
    return ours.run(CONTEXT, num_frames=F, method="contexts")


def run_torch(module, x, **options):
    per_frame = [torch.from_numpy(a).repeat_interleave(F, dim=0) for a in (TEMB, CONTEXT)]
    with torch.no_grad():
        out = oracle.run_stage(
            module, first(x), per_frame[0], per_frame[1][:, None], torch.zeros(B, F), **options
        )
    return out


def first(x):
    return torch.from_numpy(x).movedim(-1, 2).flatten(0, 1)


def last(tensor):
    return tensor.unflatten(0, (B, F)).movedim(2, -1).numpy()


@pytest.mark.parametrize("level", [0, 1])
def test_down_stage(level):
    ours, x = stage(DownStage, "down_blocks", str(level), level=level), draw(3, B, F, H, W, 64)
    out, skips = ours.run(x, TEMB, told(ours))
    expected, expected_skips = run_torch(ours.module, x)
    assert len(skips) == len(expected_skips) == (3 if level == 0 else 2)
    for got, want in zip((out, *skips), (expected, *expected_skips), strict=True):
        assert relative_error(got, last(want)) <= BLOCK_TOLERANCE


def test_mid_stage():
    ours, x = stage(MidStage, "mid_block"), draw(4, B, F, H, W, 96)
    got = ours.run(x, TEMB, told(ours))
    assert relative_error(got, last(run_torch(ours.module, x))) <= BLOCK_TOLERANCE


@pytest.mark.parametrize(("index", "level", "skips"), [(0, 1, (96, 96, 64)), (1, 0, (64,) * 3)])
def test_up_stage(index, level, skips):
    ours = stage(UpStage, "up_blocks", str(index), level=level, skips=skips)
    x = draw(5, B, F, H, W, 96)
    given = tuple(draw(6 + i, B, F, H, W, c) for i, c in enumerate(skips))
    expected = run_torch(ours.module, x, res_hidden_states_tuple=tuple(map(first, given[::-1])))
    assert relative_error(ours.run(x, given, TEMB, told(ours)), last(expected)) <= BLOCK_TOLERANCE


def test_skip_channels_follow_the_encoder():
    svd = UNetConfig.svd().skip_channels
    assert svd == (320,) * 4 + (640,) * 3 + (1280,) * 5
    assert UNetConfig.tiny().skip_channels == (64, 64, 64, 64, 64, 128, 128, 128)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_attention_heads": (1, 2)}, "one per level"),
        ({"num_attention_heads": (3, 5, 20, 20)}, "do not divide"),
        ({"block_out_channels": (330, 640, 1280, 1280)}, "do not divide"),
        ({"addition_time_embed_dim": 255}, "three times"),
        ({"temporal_context": "mixed"}, "temporal_context"),
    ],
)
def test_wrong_configurations_are_refused(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        UNetConfig.svd(**wrong)


def test_time_embedding_is_per_clip_and_sums_noise_level_and_ids():
    ids = np.array([[6, 127, 0.02], [24, 10, 0.5]], np.float32)
    c_noise = np.array([-1.2, 1.6], np.float32)
    steady = whole().run(np.zeros((2, 40), np.float32), ids, num_frames=1, method="steady")
    got = whole().run(c_noise, steady, method="embed_time")
    sample = torch.zeros(2, 1, 1, 1, 1)
    inputs = (sample, torch.from_numpy(c_noise), torch.zeros(2, 40), torch.from_numpy(ids))
    with torch.no_grad():
        expected, *_ = oracle.encoder_inputs(whole().module, *inputs)
    assert relative_error(got, expected) <= BLOCK_TOLERANCE
