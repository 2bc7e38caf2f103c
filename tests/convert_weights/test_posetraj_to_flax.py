"""A ControlNet of the official code: its weights unchanged, its repeated residuals recorded."""

import json

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convert_weights import mapping, oracle, posetraj_to_flax, verify
from convert_weights.components import COMPONENTS, OURS, write_config
from posetraj_jax import weights
from posetraj_jax.errors import UserError
from posetraj_jax.models.controlnet import ControlNet, ControlNetConfig
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.nn.build import build
from tests.parity import SMALL, denoiser_inputs, draw, paired, relative_error

FILE = "diffusion_pytorch_model.safetensors"
UNET = UNetConfig(**SMALL)


def make_config(camera):
    return ControlNetConfig(
        **SMALL,
        conditioning_embedding_out_channels=(8, 16, 24, 40),
        residual_multiplicity=(2, 2, 2, 1),
        camera=camera,
    )


@pytest.fixture(params=[True, False], ids=["with camera", "without"])
def config(request):
    return make_config(request.param)


@pytest.fixture
def official(config, tmp_path):
    """The folder that the official code saves, and the network in it."""
    module = oracle.redraw(oracle.controlnet(config), 4)
    fields = write_config(config, COMPONENTS["controlnet"])
    folder = tmp_path / "checkpoint-50000" / "controlnet"
    folder.mkdir(parents=True)
    save_file(module.state_dict(), folder / FILE)
    fields = {name: value for name, value in fields.items() if name not in OURS}
    (folder / "config.json").write_text(json.dumps(fields | {"_diffusers_version": "0.24.0"}))
    return folder, module


def convert(source, target, *options):
    assert posetraj_to_flax.main([str(source), str(target), *options]) == 0


def refused(source, target, *options):
    with pytest.raises(UserError) as caught:
        convert(source, target, *options)
    assert not target.exists()
    assert not list(target.parent.glob(".*"))
    return str(caught.value)


def test_weights_are_unchanged_and_the_multiplicity_is_recorded(config, official, tmp_path, capsys):
    folder, module = official
    convert(folder, tmp_path / "weights" / "controlnet")
    assert weights.load_config(tmp_path / "weights" / "controlnet", ControlNetConfig) == config
    network = build(ControlNet, config)
    expected = mapping.from_torch(oracle.state(module), network.abstract(), "controlnet")
    loaded = weights.load(tmp_path / "weights" / "controlnet", network.abstract())
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    said = capsys.readouterr().out
    assert "residuals added 2,2,2,1 times" in said
    assert ("with camera" if config.camera else "without camera") in said


def test_with_the_unet_it_computes_what_the_official_code_computes(config, official, tmp_path):
    """Cumulative sums in PyTorch against our multiplication, on whatever config.json says."""
    folder, module = official
    convert(folder, tmp_path / "controlnet")
    network = build(ControlNet, weights.load_config(tmp_path / "controlnet", ControlNetConfig))
    params = weights.load(tmp_path / "controlnet", network.abstract())
    unet = paired(build(UNet, UNET), oracle.unet(UNET), "unet", seed=5)
    inputs, maps = denoiser_inputs(UNET, 2, 3, 4, 8), draw(9, 2, 3, 32, 64, 3).clip(-1, 1)
    camera = draw(10, 2, 3, 12) if config.camera else None

    def call(params, unet_params, inputs, maps, camera):
        features = network.apply(params, maps, camera, method="encode_maps")
        residuals = network.apply(params, *inputs, features)
        return unet.network.apply(unet_params, *inputs, residuals)

    with jax.default_matmul_precision("highest"):
        got = jax.jit(call)(params, unet.params, inputs, maps, camera)
    residuals = oracle.run_controlnet(module, *inputs, maps, camera_rt=camera)
    expected = oracle.run_unet(unet.module, *inputs, residuals=residuals, cumulative=True)
    assert relative_error(got, expected) <= 1e-4
    once = oracle.run_unet(unet.module, *inputs, residuals=residuals)
    assert relative_error(once, expected) > 0.01


@pytest.mark.parametrize("config", [make_config(False)], ids=[""])
def test_a_record_may_be_overruled(config, official, tmp_path):
    folder, _ = official
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(given | {"residual_multiplicity": [1, 2, 1, 2]}))
    for choice, times in {
        "recorded": (1, 2, 1, 2),
        "official": (2, 2, 2, 1),
        "once": (1, 1, 1, 1),
    }.items():
        convert(folder, tmp_path / choice, "--multiplicity", choice)
        made = weights.load_config(tmp_path / choice, ControlNetConfig)
        assert made.residual_multiplicity == times


def test_the_multiplicity_follows_the_depth(tmp_path):
    deep = ControlNetConfig.tiny(
        layers_per_block=2, residual_multiplicity=(4, 4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1)
    )
    with torch.device("meta"):
        state = oracle.controlnet(deep).state_dict()
    fields = write_config(deep, COMPONENTS["controlnet"])
    (tmp_path / "controlnet").mkdir()
    save_file({n: torch.zeros(t.shape) for n, t in state.items()}, tmp_path / "controlnet" / FILE)
    fields = {name: value for name, value in fields.items() if name not in OURS}
    (tmp_path / "controlnet" / "config.json").write_text(json.dumps(fields))
    source = posetraj_to_flax.check(tmp_path / "controlnet")
    assert source.config["residual_multiplicity"] == deep.residual_multiplicity
    assert not source.network.config.camera


def test_verify_prints_one_figure_and_a_wrong_layout_is_refused(tmp_path, capsys, monkeypatch):
    config = make_config(True)
    folder = tmp_path / "controlnet"
    folder.mkdir()
    module = oracle.redraw(oracle.controlnet(config), 4)
    save_file(module.state_dict(), folder / FILE)
    (folder / "config.json").write_text(json.dumps(write_config(config, COMPONENTS["controlnet"])))
    convert(folder, tmp_path / "good", "--verify", "--dtype", "bfloat16")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "largest" in line]
    assert line.startswith("controlnet ")
    assert 0 < float(line.split()[-1]) <= 1e-4
    original = mapping._from_torch_layout
    monkeypatch.setattr(
        mapping,
        "_from_torch_layout",
        lambda path, array: (
            original(path, array)[..., ::-1]
            if path == "controlnet_mid_block.kernel"
            else original(path, array)
        ),
    )
    assert "does not compute" in refused(folder, tmp_path / "bad", "--verify")


def test_a_controlnet_that_was_never_trained_verifies():
    """Its outputs are all zero, in PyTorch and here."""
    zeros = np.zeros((1, 2), np.float32)
    assert verify._relative_error((zeros, zeros)) == 0
    assert verify._relative_error((zeros + 1, zeros)) == float("inf")
    assert verify._relative_error((zeros + np.nan, zeros + 1)) == float("inf")


@pytest.mark.parametrize("config", [make_config(True)], ids=[""])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"_class_name": "ControlNetModel"}, "'ControlNetModel', not 'ControlNetSDVModel'"),
        ({"block_out_channels": 320}, "block_out_channels: 320"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"layers_per_block": 10**9}, "layers_per_block"),
        ({"block_out_channels": [64] * 10**5}, "block_out_channels"),
        ({"conditioning_channels": 4}, "conditioning_channels: 4, not 3"),
        ({"residual_multiplicity": [1, 1]}, "residual_multiplicity"),
        ({"residual_multiplicity": "often"}, "residual_multiplicity"),
        ({"camera": 1}, "camera: 1"),
        ({"attention": "flash"}, "'attention': not known here"),
    ],
)
def test_other_architectures_are_refused(official, tmp_path, fields, words):
    folder, _ = official
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(given | fields))
    assert words in refused(folder, tmp_path / "out")


def test_a_camera_without_its_bias_and_a_missing_tap_are_named(tmp_path):
    folder = tmp_path / "controlnet"
    folder.mkdir()
    state = oracle.redraw(oracle.controlnet(make_config(True)), 4).state_dict()
    del (
        state["controlnet_cond_embedding.cc_projection.bias"],
        state["controlnet_down_blocks.2.bias"],
    )
    save_file(state, folder / FILE)
    fields = write_config(make_config(True), COMPONENTS["controlnet"])
    (folder / "config.json").write_text(json.dumps(fields))
    message = refused(folder, tmp_path / "out")
    assert "missing: controlnet_cond_embedding.cc_projection.bias" in message
    assert "missing: controlnet_down_blocks.2.bias" in message


def test_a_unet_saved_in_its_place_is_refused(tmp_path):
    """The official hook writes UNet and ControlNet to the same folder; the last one wins."""
    oracle.unet(UNET).save_pretrained(tmp_path / "controlnet")
    assert "UNetSpatioTemporalConditionModel" in refused(tmp_path / "controlnet", tmp_path / "out")
    assert "no such folder" in refused(tmp_path / "nothing", tmp_path / "out")
