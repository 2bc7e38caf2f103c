"""CLIP's image tower against transformers'."""

import pytest

from convert_weights import oracle
from posetraj_jax.models.clip import CLIPVisionConfig
from tests.parity import NETWORK_TOLERANCE, draw, pair, relative_error

ODD = CLIPVisionConfig(
    hidden_size=72,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=100,
    image_size=60,
    patch_size=12,
    projection_dim=40,
)


@pytest.mark.parametrize("config", [CLIPVisionConfig.tiny(), ODD], ids=["tiny", "odd"])
def test_image_tower_equals_pytorch(config):
    ours = pair("clip", config, seed=8)
    images = draw(0, 3, config.image_size, config.image_size, 3)
    got = ours.run(images)
    assert got.shape == (3, config.projection_dim)
    assert relative_error(got, oracle.run_clip(ours.module, images)) <= NETWORK_TOLERANCE
    assert relative_error(got, got[::-1]) > 0.01


@pytest.mark.parametrize("wrong", [{"patch_size": 15}, {"num_attention_heads": 7}])
def test_sizes_that_do_not_divide_are_refused(wrong):
    with pytest.raises(ValueError, match="multiple"):
        CLIPVisionConfig.vit_h(**wrong)
