"""Names and layouts: every source tensor once, every parameter once, and back again."""

import functools

import ml_dtypes
import numpy as np
import pytest
import torch

from convert_weights import mapping, names, oracle
from posetraj_jax import tree
from posetraj_jax.errors import UserError
from posetraj_jax.models.clip import CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNetConfig
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.models.vae import VAEConfig
from posetraj_jax.nn.build import build
from tests.parity import CLASSES, denoiser_inputs, draw, pair, relative_error

TINY = {
    "unet": UNetConfig.tiny(),
    "controlnet": ControlNetConfig.tiny(camera=True),
    "vae": VAEConfig.tiny(),
    "clip": CLIPVisionConfig.tiny(),
}
FULL = {
    "unet": (UNetConfig.svd(), 1428),
    "controlnet": (ControlNetConfig.svd(camera=True), 673),
    "vae": (VAEConfig.svd(), 374),
    "clip": (CLIPVisionConfig.vit_h(), 520),
}


@functools.cache
def tiny(component):
    return pair(component, TINY[component], seed=9)


@pytest.mark.parametrize("component", FULL)
def test_full_size_state_dicts_are_covered_exactly(component):
    config, num_tensors = FULL[component]
    with torch.device("meta"):
        state = getattr(oracle, component)(config).state_dict()
    assert len(state) == num_tensors
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    abstract = build(CLASSES[component], config).abstract()
    inert = mapping.inert_shapes(abstract, component)
    assert all(names.inert_reason(name, component) for name in inert)
    ours = mapping.torch_shapes(abstract, component)
    assert len(ours) == len(tree.flatten(abstract))  # no two parameters share a source
    assert not ours.keys() & inert.keys()
    assert ours | inert == theirs


@pytest.mark.parametrize("component", TINY)
def test_round_trips_are_exact_both_ways(component):
    ours = tiny(component)
    state = oracle.state(ours.module)
    exported = mapping.to_torch(ours.params, component)
    assert exported.keys() == state.keys()
    for name, array in state.items():
        if names.inert_reason(name, component) is None:
            np.testing.assert_array_equal(exported[name], array, err_msg=name)
    again = mapping.from_torch(exported, ours.network.abstract(), component)
    assert tree.differences(ours.params, again) == []
    for path, leaf in tree.flatten(again).items():
        np.testing.assert_array_equal(leaf, tree.flatten(ours.params)[path], err_msg=path)


def test_neutral_values_for_inert_tensors_do_not_change_pytorch_outputs():
    ours, inputs = tiny("unet"), denoiser_inputs(TINY["unet"], 2, 2, 8, 8)
    twin = oracle.load(oracle.unet(TINY["unet"]), mapping.to_torch(ours.params, "unet"))
    before = oracle.run_unet(ours.module, *inputs)
    assert relative_error(oracle.run_unet(twin, *inputs), before) <= 1e-5


def test_all_problems_of_a_checkpoint_are_named_at_once():
    ours = tiny("vae")
    state = oracle.state(ours.module)
    state["encoder.conv_in.wieght"] = state.pop("encoder.conv_in.weight")
    state["quant_conv.bias"] = draw(0, 5)
    turned = "decoder.up_blocks.0.resnets.0.spatial_res_block.conv1.weight"
    state[turned] = state[turned][:, :32]
    with pytest.raises(UserError) as refused:
        mapping.from_torch(state, ours.network.abstract(), "vae")
    message = str(refused.value)
    assert "missing: encoder.conv_in.weight" in message
    assert "unknown: encoder.conv_in.wieght" in message
    assert "wrong shape: quant_conv.bias: expected (8,), got (5,)" in message
    assert f"wrong shape: {turned}: expected (64, 64, 3, 3), got (64, 32, 3, 3)" in message


def test_inert_tensors_may_be_absent_but_not_of_another_network():
    ours = tiny("unet")
    state = oracle.state(ours.module)
    kept = {n: a for n, a in state.items() if names.inert_reason(n, "unet") is None}
    assert len(kept) < len(state)
    mapping.from_torch(kept, ours.network.abstract(), "unet")
    extra = oracle.state(tiny("clip").module)
    extra["vision_model.embeddings.position_ids"] = np.arange(50)[None]
    mapping.from_torch(extra, tiny("clip").network.abstract(), "clip")
    with pytest.raises(UserError, match="position_ids"):
        mapping.from_torch(
            kept | {"vision_model.embeddings.position_ids": np.arange(50)},
            ours.network.abstract(),
            "unet",
        )


def test_parameters_take_the_types_of_the_target():
    state = {
        name: array.astype(np.float16) for name, array in oracle.state(tiny("vae").module).items()
    }
    params = mapping.from_torch(state, tiny("vae").network.abstract(), "vae")
    assert {leaf.dtype for leaf in tree.flatten(params).values()} == {np.dtype("float32")}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_numbers_that_are_none_are_found_in_every_type(dtype):
    limits = [float(ml_dtypes.finfo(dtype).max), float(ml_dtypes.finfo(dtype).smallest_subnormal)]
    good = np.array([0.0, -0.0, 1.5, *limits, *(-x for x in limits)]).astype(dtype)
    assert np.isfinite(good).all()
    assert mapping._all_finite(good.reshape(7, 1))
    assert mapping._all_finite(good[:0])
    for bad in (np.nan, np.inf, -np.inf):
        assert not mapping._all_finite(np.append(good, np.asarray(bad, dtype)))
    assert not mapping._all_finite(np.asarray(np.nan, dtype))
