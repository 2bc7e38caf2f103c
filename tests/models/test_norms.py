"""The eps of every norm, by name: activations of ordinary size would hide a wrong one."""

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx

from convert_weights import names, oracle
from posetraj_jax.models.clip import CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNetConfig
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.models.vae import VAEConfig
from posetraj_jax.nn.layers import OVER_CLIP, GroupNorm, Make
from tests.parity import CLASSES

FULL = {
    "unet": UNetConfig.svd(),
    "controlnet": ControlNetConfig.svd(),
    "vae": VAEConfig.svd(),
    "clip": CLIPVisionConfig.vit_h(),
}


def our_norms(component, config) -> dict[str, nnx.Module]:
    found = {}

    def construct():
        module = CLASSES[component](config, Make(jax.random.key(0), jnp.float32))
        for path, node in nnx.iter_graph(module):
            if isinstance(node, GroupNorm | nnx.LayerNorm):
                found[".".join(map(str, path))] = node
        return jnp.zeros(())

    jax.eval_shape(construct)
    return found


@pytest.mark.parametrize("component", FULL)
def test_every_norm_has_its_sources_eps(component):
    ours = {
        names.torch_name(f"{path}.scale", component): getattr(norm, "eps", None) or norm.epsilon
        for path, norm in our_norms(component, FULL[component]).items()
    }
    with torch.device("meta"):
        module = getattr(oracle, component)(FULL[component])
    theirs = {
        f"{path}.weight": norm.eps
        for path, norm in module.named_modules()
        if isinstance(norm, torch.nn.GroupNorm | torch.nn.LayerNorm)
        and names.inert_reason(f"{path}.weight", component) is None
    }
    assert ours == theirs


@pytest.mark.parametrize("component", ["unet", "vae"])
def test_exactly_the_temporal_blocks_take_statistics_over_the_clip(component):
    norms = our_norms(component, FULL[component]).items()
    over_clip = {path for path, norm in norms if getattr(norm, "axes", None) == OVER_CLIP}
    assert over_clip == {path for path, _ in norms if ".temporal_res_block." in path}
