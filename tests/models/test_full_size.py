"""Full-size networks, abstractly: parameter counts and the shapes of forward passes."""

import math

import jax
import jax.numpy as jnp
import pytest

from convert_weights import mapping
from posetraj_jax import tree
from posetraj_jax.models.clip import CLIPVision, CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNet, ControlNetConfig
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.models.vae import VAE, VAEConfig
from posetraj_jax.nn.build import build

# Counted from the PyTorch state dicts, inert tensors included.
PUBLISHED = {
    "unet": (UNet, UNetConfig.svd(), 1_524_623_082),
    "controlnet": (ControlNet, ControlNetConfig.svd(), 682_021_537),
    "controlnet with camera": (ControlNet, ControlNetConfig.svd(camera=True), 682_090_401),
    "vae": (VAE, VAEConfig.svd(), 97_742_847),
    "clip": (CLIPVision, CLIPVisionConfig.vit_h(), 632_076_800),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones_minus_the_inert(name):
    module_cls, config, published = PUBLISHED[name]
    params = build(module_cls, config).abstract()
    inert = mapping.inert_shapes(params, name.split()[0])
    sizes = {"unet": 50_389_760, "controlnet": 23_697_920}
    num_inert = sum(math.prod(shape) for shape in inert.values())
    assert num_inert == sizes.get(name.split()[0], 0)
    assert tree.num_params(params) + num_inert == published


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize("variant", ["svd", pytest.param("svd_xt", marks=pytest.mark.full)])
def test_forward_shapes_at_full_size(variant):
    config = getattr(ControlNetConfig, variant)(camera=True)
    unet = build(UNet, getattr(UNetConfig, variant)(), dtype=jnp.bfloat16)
    net = build(ControlNet, config, dtype=jnp.bfloat16)
    b, f, h, w = 1, config.num_frames, 40, 72
    assert f == {"svd": 14, "svd_xt": 25}[variant]
    inputs = (floats(b, f, h, w, 8), floats(b), floats(b, 1024), floats(b, 3))

    def forward(params, unet_params, maps, camera, *inputs):
        features = net.apply(params, maps, camera, method="encode_maps")
        residuals = net.apply(params, *inputs, features)
        return features, residuals, unet.apply(unet_params, *inputs, residuals)

    maps, camera = floats(b, f, 8 * h, 8 * w, 3), floats(b, f, 12)
    features, residuals, out = jax.eval_shape(
        forward, net.abstract(), unet.abstract(), maps, camera, *inputs
    )
    assert features.shape == (b, f, h, w, 320)
    assert out.shape == (b, f, h, w, 4)
    sizes = [(40, 72, 320)] * 3 + [(20, 36, 320)] + [(20, 36, 640)] * 2 + [(10, 18, 640)]
    sizes += [(10, 18, 1280)] * 2 + [(5, 9, 1280)] * 3
    assert [x.shape[2:] for x in residuals.skips] == sizes
    assert residuals.mid.shape == (b, f, 5, 9, 1280)


def test_autoencoder_and_image_tower_shapes_at_full_size():
    vae, clip = build(VAE, VAEConfig.svd()), build(CLIPVision, CLIPVisionConfig.vit_h())
    params = vae.abstract()
    moments = jax.eval_shape(
        lambda p, x: vae.apply(p, x, method="encode"), params, floats(2, 320, 576, 3)
    )
    assert moments.mean.shape == moments.logvar.shape == (2, 40, 72, 4)
    pixels = jax.eval_shape(
        lambda p, x: vae.apply(p, x, method="decode"), params, floats(1, 8, 40, 72, 4)
    )
    assert pixels.shape == (1, 8, 320, 576, 3)
    assert jax.eval_shape(clip.apply, clip.abstract(), floats(2, 224, 224, 3)).shape == (2, 1024)
