"""The ControlNet against the official forward pass, and how it meets the UNet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert_weights import oracle
from posetraj_jax import tree
from posetraj_jax.models.controlnet import (
    ControlNet,
    ControlNetConfig,
    init_from_unet,
    official_residual_multiplicity,
)
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.nn.build import build
from tests.parity import (
    BLOCK_TOLERANCE,
    NETWORK_TOLERANCE,
    SMALL,
    SMALL_SHAPE,
    Pair,
    denoiser_inputs,
    draw,
    pair,
    redrawn,
    relative_error,
)

CONFIG = ControlNetConfig(
    **SMALL,
    conditioning_embedding_out_channels=(8, 16, 24, 40),
    residual_multiplicity=(1, 1, 1, 1),
    camera=True,
)
B, F, H, W = SMALL_SHAPE
MAPS = np.sign(draw(7, B, F, H, W, 3)).repeat(8, axis=2).repeat(8, axis=3)
CAMERA = 0.1 * draw(8, B, F, 12)
INPUTS = denoiser_inputs(CONFIG, B, F, H, W)


@functools.cache
def whole() -> Pair:
    return pair("controlnet", CONFIG, seed=4)


@functools.cache
def features():
    return whole().run(MAPS, CAMERA, method="encode_maps")


@functools.cache
def residuals():
    return whole().run(*INPUTS, features())


def everything(residuals):
    return (*residuals.skips, residuals.mid)


def test_controlnet_with_camera_equals_pytorch():
    expected = oracle.run_controlnet(whole().module, *INPUTS, MAPS, camera_rt=CAMERA)
    for got, want in zip(everything(residuals()), everything(expected), strict=True):
        assert relative_error(got, want) <= NETWORK_TOLERANCE


def test_tiny_controlnet_without_camera_equals_pytorch():
    config = ControlNetConfig.tiny()
    ours, inputs = pair("controlnet", config, seed=5), denoiser_inputs(config, 1, 3, 8, 16)
    maps = draw(9, 1, 3, 64, 128, 3)
    got = ours.run(*inputs, ours.run(maps, None, method="encode_maps"))
    expected = oracle.run_controlnet(ours.module, *inputs, maps)
    for ours_k, want in zip(everything(got), everything(expected), strict=True):
        assert relative_error(ours_k, want) <= NETWORK_TOLERANCE


def test_map_features_need_the_map_and_the_camera():
    assert relative_error(whole().run(-MAPS, CAMERA, method="encode_maps"), features()) > 0.1
    zeros = np.zeros_like(CAMERA)
    assert relative_error(whole().run(MAPS, zeros, method="encode_maps"), features()) > 0.01
    np.testing.assert_array_equal(
        whole().run(MAPS, None, method="encode_maps"),
        whole().run(MAPS, zeros, method="encode_maps"),
    )
    without = whole().run(*INPUTS, np.zeros_like(features()))
    assert relative_error(without.skips[0], residuals().skips[0]) > 0.02


def test_multiplicity_and_scale_multiply_the_residuals():
    times = official_residual_multiplicity(CONFIG.num_levels, CONFIG.layers_per_block)
    assert times == (2, 2, 2, 1)
    other = ControlNetConfig(
        **SMALL,
        conditioning_embedding_out_channels=(8, 16, 24, 40),
        residual_multiplicity=times,
        camera=True,
    )
    got = Pair(build(ControlNet, other), whole().params, None).run(
        *INPUTS, features(), np.float32(0.5)
    )
    for m, ours, plain in zip((*times, 1), everything(got), everything(residuals()), strict=True):
        assert relative_error(ours, 0.5 * m * plain) <= BLOCK_TOLERANCE


def test_official_multiplicity_is_what_the_official_loop_adds():
    assert official_residual_multiplicity(4, 2) == (
        4,
        4,
        4,
        4,
        3,
        3,
        3,
        2,
        2,
        2,
        1,
        1,
    )
    assert official_residual_multiplicity(4, 1) == (4, 4, 4, 3, 3, 2, 2, 1)


def test_a_fresh_controlnet_leaves_the_unet_bitwise_alone():
    unet = pair("unet", UNetConfig(**SMALL), seed=6)
    fresh = init_from_unet(whole().network.init(jax.random.key(0)), unet.params)
    ours = whole()._replace(params=fresh)
    extra = ours.run(*INPUTS, ours.run(MAPS, CAMERA, method="encode_maps"))
    assert not any(np.any(x) for x in everything(extra))
    np.testing.assert_array_equal(unet.run(*INPUTS, extra), unet.run(*INPUTS))


def test_clips_do_not_mix():
    alone = [whole().run(*(x[i : i + 1] for x in INPUTS), features()[i : i + 1]) for i in range(B)]
    for k, together in enumerate(everything(residuals())):
        joined = np.concatenate([everything(one)[k] for one in alone])
        assert relative_error(joined, together) <= BLOCK_TOLERANCE


@pytest.mark.parametrize("copy_add_embedding", [True, False])
def test_init_from_unet_copies_the_encoder_and_nothing_else(copy_add_embedding):
    unet = build(UNet, UNetConfig(**SMALL)).init(jax.random.key(1))
    fresh = build(ControlNet, CONFIG).init(jax.random.key(2))
    params = init_from_unet(fresh, unet, copy_add_embedding=copy_add_embedding)
    copied = {"conv_in", "time_embedding", "down_blocks", "mid_block"}
    copied |= {"add_embedding"} if copy_add_embedding else set()
    assert tree.differences(fresh, params) == []
    for path, leaf in tree.flatten(params).items():
        source = unet if path.split(".")[0] in copied else fresh
        np.testing.assert_array_equal(leaf, tree.flatten(source)[path], err_msg=path)
    assert not np.array_equal(
        fresh["add_embedding"]["linear_1"]["kernel"], unet["add_embedding"]["linear_1"]["kernel"]
    )


def test_init_from_unet_owns_its_arrays_and_keeps_its_types():
    unet = build(UNet, UNetConfig(**SMALL)).init(jax.random.key(1))
    fresh = build(ControlNet, CONFIG).init(jax.random.key(2))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), unet)
    assert tree.differences(fresh, init_from_unet(fresh, half)) == []
    jax.tree.map(lambda leaf: leaf.delete(), init_from_unet(fresh, unet)["mid_block"])
    assert not unet["conv_in"]["kernel"].is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(unet["mid_block"]))
    small = {name: leaf for name, leaf in unet.items() if name != "mid_block"}
    small["mid_block"] = {}
    with pytest.raises(ValueError, match=r"missing: mid_block\."):
        init_from_unet(fresh, small)


@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_the_camera_projection_starts_as_the_identity(start):
    config = ControlNetConfig(
        **SMALL, residual_multiplicity=(1,) * 4, camera=True, camera_init=start
    )
    fresh = build(ControlNet, config).init(jax.random.key(3))["controlnet_cond_embedding"]
    kernel, bias = fresh["cc_projection"]["kernel"], fresh["cc_projection"]["bias"]
    assert kernel.shape == (268, 256)
    np.testing.assert_array_equal(kernel[:256], np.eye(256))
    assert not np.any(bias)
    assert not np.any(fresh["conv_out"]["kernel"])
    largest = float(np.abs(kernel[256:]).max())
    assert largest == 0 if start == "zero" else largest == pytest.approx(268**-0.5, rel=0.01)


def test_wrong_uses_are_refused():
    without = build(ControlNet, ControlNetConfig.tiny())
    with pytest.raises(ValueError, match="no camera branch"):
        jax.eval_shape(
            lambda *args: without.apply(*args, method="encode_maps"),
            *(without.abstract(), MAPS, CAMERA),
        )
    with pytest.raises(ValueError, match="needs 8 numbers"):
        ControlNetConfig.tiny(residual_multiplicity=(1,) * 12)
    with pytest.raises(ValueError, match="needs 4 numbers"):
        ControlNetConfig.svd(conditioning_embedding_out_channels=(16, 32))


@pytest.mark.parametrize("encoder", ["linear", "mlp"])
def test_a_fresh_camera_branch_is_deaf_to_any_camera(encoder):
    """Every leaf but the camera's columns redrawn: exactly the output without a camera."""
    config = ControlNetConfig(
        **SMALL, residual_multiplicity=(1,) * 4, camera=True, camera_encoder=encoder
    )
    network = build(ControlNet, config)
    params = redrawn(network, seed=8)
    projection = params["controlnet_cond_embedding"]["cc_projection"]

    @jax.jit
    def encode(kernel, camera_rt):
        maps = jnp.asarray(MAPS)
        branch = params["controlnet_cond_embedding"] | {
            "cc_projection": projection | {"kernel": kernel}
        }
        everything_else = params | {"controlnet_cond_embedding": branch}
        return network.apply(everything_else, maps, camera_rt, method="encode_maps")

    deaf = projection["kernel"].copy()
    deaf[256:] = 0.0
    none = np.zeros_like(CAMERA)
    np.testing.assert_array_equal(encode(deaf, CAMERA), encode(deaf, none))
    heard, silent = (encode(projection["kernel"], camera) for camera in (CAMERA, none))
    assert relative_error(heard, silent) > 0.01


def test_the_mlp_reads_the_camera_frame_by_frame():
    config = ControlNetConfig(
        **SMALL, residual_multiplicity=(1,) * 4, camera=True, camera_encoder="mlp"
    )
    network = build(ControlNet, config)
    params = redrawn(network, seed=8)
    maps = jnp.asarray(MAPS)
    encode = jax.jit(lambda camera: network.apply(params, maps, camera, method="encode_maps"))
    other = CAMERA.copy()
    other[:, 1] += 1.0
    changed = np.abs(encode(CAMERA) - encode(other)).max(axis=(0, 2, 3, 4))
    assert changed[1] > 1e-3
    assert np.delete(changed, 1).max() == 0
