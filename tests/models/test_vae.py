"""The video autoencoder against diffusers'."""

import functools

import numpy as np
import pytest
import torch

from convert_weights import oracle
from posetraj_jax.models.vae import EncoderMid, VAEConfig
from posetraj_jax.nn.build import build
from tests.parity import (
    BLOCK_TOLERANCE,
    NETWORK_TOLERANCE,
    Pair,
    draw,
    pair,
    relative_error,
)

ODD = VAEConfig(block_out_channels=(32, 64, 64, 96), layers_per_block=2)


@functools.cache
def whole(name: str) -> Pair:
    return pair("vae", {"odd": ODD, "tiny": VAEConfig.tiny()}[name], seed=7)


@pytest.mark.parametrize("name", ["odd", "tiny"])
def test_encoder_equals_pytorch(name):
    pixels = draw(0, 3, 40, 24, 3)
    got = whole(name).run(pixels, method="encode")
    expected = oracle.run_vae_encode(whole(name).module, pixels)
    assert relative_error(got.mean, expected.mean) <= NETWORK_TOLERANCE
    assert relative_error(got.logvar, expected.logvar) <= NETWORK_TOLERANCE


@pytest.mark.parametrize("name", ["odd", "tiny"])
def test_decoder_equals_pytorch(name):
    latents = draw(1, 2, 3, 5, 3, 4)
    got = whole(name).run(latents, method="decode")
    assert got.shape == (2, 3, 40, 24, 3)
    expected = oracle.run_vae_decode(whole(name).module, latents)
    assert relative_error(got, expected) <= NETWORK_TOLERANCE


def test_encoder_middle_attends_within_a_frame():
    module = whole("odd").module.encoder.mid_block
    params = whole("odd").params["encoder"]["mid_block"]
    ours = Pair(build(lambda _, make: EncoderMid(96, make), None), params, module)
    x = draw(2, 3, 4, 6, 96)
    with torch.no_grad():
        expected = module(torch.from_numpy(x).movedim(-1, 1)).movedim(1, -1)
    assert relative_error(ours.run(x), expected) <= BLOCK_TOLERANCE


def test_logvar_is_clipped_as_in_the_source():
    ours = whole("tiny")
    params = ours.params | {"quant_conv": dict(ours.params["quant_conv"])}
    params["quant_conv"]["bias"] = np.array([0] * 4 + [100, -100, 0, 0], np.float32)
    logvar = ours._replace(params=params).run(draw(0, 3, 40, 24, 3), method="encode").logvar
    assert (logvar[..., 0] == 20).all()
    assert (logvar[..., 1] == -30).all()


def test_frames_of_a_clip_see_each_other_but_clips_do_not():
    latents = draw(1, 2, 3, 5, 3, 4)
    changed = latents.copy()
    changed[1, 2] += 1.0
    before = whole("tiny").run(latents, method="decode")
    after = whole("tiny").run(changed, method="decode")
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1, 1] - after[1, 1]).max() > 1e-4


def test_channels_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match="groups"):
        VAEConfig(block_out_channels=(40, 64))
