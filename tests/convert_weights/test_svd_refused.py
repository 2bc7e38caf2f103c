"""Whatever is wrong with a source is said at once, in words, and nothing is written."""

import json
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from posetraj_jax import weights
from posetraj_jax.published import PREPROCESSOR, SCHEDULER
from tests.convert_weights.published_folder import UNET_INDEX, VAE_FILE, change, refused
from tests.published import write_published

SECONDS = 15
INERT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight"


def edit(file, **tensors):
    """Rewrites a safetensors file with these tensors; None takes one out."""
    state = load_file(file) | tensors
    save_file({name: t for name, t in state.items() if t is not None}, file)


def edit_unet(source, **tensors):
    """The same in whatever shards the tensors are; new ones come into the first."""
    index = source / UNET_INDEX
    places = json.loads(index.read_text())["weight_map"]
    for name, tensor in tensors.items():
        file = places.setdefault(name, min(places.values()))
        edit(index.with_name(file), **{name: tensor})
    index.write_text(json.dumps({"weight_map": places}))


def test_a_folder_that_is_not_there_says_what_was_looked_for(tmp_path):
    message = refused(tmp_path / "source")
    for words in ("nothing there", "unet/, vae/, image_encoder/", "img2vid"):
        assert words in message


def test_a_single_file_is_refused(tmp_path):
    (tmp_path / "svd.safetensors").write_text("")
    assert "got:      a file" in refused(tmp_path / "svd.safetensors")


def test_a_folder_of_something_else_is_said_to_be_no_svd(tmp_path):
    (tmp_path / "source").mkdir()
    message = refused(tmp_path / "source")
    for words in ("is no Stable Video Diffusion", "unet/, vae/, image_encoder/", "none of them"):
        assert words in message


def test_a_folder_of_one_component_lacks_the_others(source):
    for name in ("vae", "image_encoder"):
        shutil.rmtree(source / name)
    message = refused(source)
    assert message.count("no such folder") == 2
    for words in ("vae", "image_encoder", "the fp16 variant"):
        assert words in message
    assert str(source / "unet") not in message


def test_files_that_lack_are_named(source):
    (source / "unet" / weights.CONFIG).unlink()
    (source / VAE_FILE).unlink()
    message = refused(source)
    assert f"{source / 'unet'} cannot be converted: a folder\n    - no config.json" in message
    assert f"{source / 'vae'} cannot be converted: a folder\n    - no tensors" in message
    assert str(source / "image_encoder") not in message


def test_all_that_is_wrong_is_in_one_message(source):
    change(source / "unet" / weights.CONFIG, num_attention_heads=[2, 5])
    edit(source / VAE_FILE, **{"quant_conv.bias": None})
    (source / "image_encoder" / weights.CONFIG).write_text("{")
    write_published(source, {"prediction_type": "epsilon"}, {"image_std": [0, 1, 2]})
    message = refused(source)
    for words in (
        "96 channels do not divide",
        "missing: quant_conv.bias",
        str(source / "image_encoder" / weights.CONFIG),
        "prediction_type: 'epsilon'",
        "image_std: [0, 1, 2]",
    ):
        assert words in message
    assert message.count("expected:") == 1


@pytest.mark.parametrize("settings", [SCHEDULER, PREPROCESSOR])
def test_settings_are_read_only_where_they_are_needed(source, settings):
    (source / settings).unlink()
    component, other = ("unet", "image_encoder")
    if settings == PREPROCESSOR:
        component, other = other, component
    assert str(source / settings) in refused(source, "--only", component)
    (source / other / weights.CONFIG).write_text("")
    assert settings not in refused(source, "--only", other)


STABLE_DIFFUSION = {
    "_class_name": "UNet2DConditionModel",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "in_channels": 4,
    "layers_per_block": 2,
    "out_channels": 4,
}


@pytest.mark.parametrize("has_index", [True, False])
def test_stable_diffusion_is_refused_by_name(source, has_index):
    (source / "unet" / weights.CONFIG).write_text(json.dumps(STABLE_DIFFUSION))
    index = source / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    if not has_index:
        index.unlink()
    message = refused(source)
    assert ("StableDiffusionPipeline" if has_index else "'UNet2DConditionModel', not") in message


def test_bad_sources_end_commands_with_code_2(source, tmp_path):
    spoiled = [shutil.copytree(source, tmp_path / name) for name in ("SD", "cut")]
    (spoiled[0] / "unet" / weights.CONFIG).write_text(json.dumps(STABLE_DIFFUSION))
    (spoiled[1] / VAE_FILE).write_bytes((source / VAE_FILE).read_bytes()[:-1])
    command = [sys.executable, "-m", "convert_weights.svd_to_flax"]
    running = [
        subprocess.Popen([*command, folder, tmp_path / "new"], stderr=subprocess.PIPE, text=True)
        for folder in spoiled
    ]
    for process, words in zip(running, ("UNet2D", "cannot read"), strict=True):
        _, errors = process.communicate()
        assert process.returncode == 2, errors[-3000:]
        assert errors.startswith("error: ")
        assert words in errors
        assert "Traceback" not in errors
    assert {path.name for path in tmp_path.iterdir()} == {"source", "SD", "cut"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_text("no tensors\n"),
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes()[:1000]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes().replace(b"[8,8,1,1]", b"[8,9,1,1]")),
    ],
    ids=["text", "git-lfs", "last byte missing", "truncated header", "empty", "lying header"],
)
def test_damaged_files_are_named(source, spoil):
    spoil(source / VAE_FILE)
    message = refused(source)
    assert f"cannot read {source / VAE_FILE}" in message
    assert "git-lfs pointer" in message


def test_tensors_that_do_not_fit_are_listed(source):
    state = load_file(source / VAE_FILE)
    turned = "decoder.up_blocks.1.resnets.0.spatial_res_block.conv_shortcut.weight"
    changes = {
        "quant_conv.wieght": state["quant_conv.weight"],
        "quant_conv.weight": None,
        "encoder.conv_in.bias": None,
        turned: state[turned].transpose(0, 1).contiguous(),
    }
    edit(source / VAE_FILE, **changes)
    message = refused(source)
    for words in (
        str(source / VAE_FILE),
        "missing: quant_conv.weight",
        "unknown: quant_conv.wieght",
        "missing: encoder.conv_in.bias",
        f"wrong shape: {turned}: expected (32, 64, 1, 1), got (64, 32, 1, 1)",
    ):
        assert words in message


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        (INERT, (64, 63), f"wrong shape: {INERT}: expected (64, 64), got (64, 63)"),
        (INERT.replace("blocks.0.", "blocks.7.", 1), (64, 64), "unknown: down_blocks.7."),
        (INERT.replace("attn2", "attn3"), (64, 64), "unknown: down_blocks.0."),
    ],
    ids=["inert, of another shape", "inert, of no block", "nearly inert"],
)
def test_tensors_that_would_be_left_out_are_looked_at_too(source, name, shape, words):
    edit_unet(source, **{name: torch.zeros(shape)})
    assert words in refused(source)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.int8, torch.uint8, torch.int64, torch.float8_e4m3fn]
)
def test_quantised_tensors_are_refused(source, dtype):
    edit(source / VAE_FILE, **{"quant_conv.weight": torch.zeros(8, 8, 1, 1).to(dtype)})
    message = refused(source)
    assert "wrong type: quant_conv.weight: " in message
    assert "not one of F32, F16, BF16" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(source, value):
    tensor = load_file(source / VAE_FILE)["quant_conv.weight"]
    tensor[0, 0] = value
    edit(source / VAE_FILE, **{"quant_conv.weight": tensor})
    message = refused(source)
    assert "quant_conv.weight cannot be converted" in message
    assert "finite numbers" in message


def test_quantised_pickles_are_refused(source):
    state = load_file(source / VAE_FILE)
    (source / VAE_FILE).unlink()
    state["quant_conv.weight"] = state["quant_conv.weight"].char()
    torch.save(state, source / "vae/diffusion_pytorch_model.bin")
    assert "wrong type: quant_conv.weight: I8" in refused(source)


def test_tensors_that_claim_terabytes_are_refused_by_their_shape(source):
    state = load_file(source / VAE_FILE)
    (source / VAE_FILE).unlink()
    state["quant_conv.bias"] = torch.ones(1).expand(10**12)
    torch.save(state, source / "vae/diffusion_pytorch_model.bin")
    message = refused(source)
    assert "wrong shape: quant_conv.bias: expected (8,), got (1000000000000,)" in message


def test_a_model_pickled_whole_is_refused(source):
    (source / VAE_FILE).unlink()
    torch.save(torch.nn.Conv2d(8, 8, 1), source / "vae/diffusion_pytorch_model.bin")
    assert "torch.nn.modules.conv.Conv2d" in refused(source)


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("unet", "down_block_types", ["CrossAttnDownBlockSpatioTemporal"] * 2),
        ("unet", "num_attention_heads", [2, 5]),
        ("unet", "num_attention_heads", 2),
        ("unet", "num_attention_heads", ["2", "3"]),
        ("unet", "layers_per_block", None),
        ("unet", "layers_per_block", 0),
        ("unet", "layers_per_block", -1),
        ("unet", "layers_per_block", True),
        ("unet", "layers_per_block", 10**9),
        ("unet", "block_out_channels", [64] * 10**6),
        ("unet", "block_out_channels", [64, -96]),
        ("unet", "block_out_channels", [64.0, 96.0]),
        ("unet", "block_out_channels", []),
        ("unet", "in_channels", 2**63),
        ("unet", "cross_attention_dim", 10**400),
        ("unet", "cross_attention_dim", 32.5),
        ("unet", "transformer_layers_per_block", "1"),
        ("unet", "num_frames", "x" * 10**6),
        ("unet", "num_frames", nested(500)),
        ("unet", "use_linear_projection", True),
        ("vae", "block_out_channels", [32, 40]),
        ("vae", "down_block_types", None),
        ("vae", "scaling_factor", float("inf")),
        ("vae", "scaling_factor", float("nan")),
        ("vae", "scaling_factor", -0.18),
        ("image_encoder", "hidden_act", "quick_gelu"),
        ("image_encoder", "layer_norm_eps", 1e-6),
        ("image_encoder", "num_hidden_layers", 10**9),
        ("image_encoder", "image_size", 10**12),
    ],
    ids=lambda value: str(value)[:30],
)
def test_other_architectures_and_absurd_numbers_are_refused(source, name, field, value):
    change(source / name / weights.CONFIG, **{field: value})
    start = time.monotonic()
    message = refused(source)
    assert time.monotonic() - start < SECONDS
    assert str(source / name / weights.CONFIG) in message
    assert field in message or "96 channels" in message or "40 channels" in message
    assert len(message) < 2000


def test_networks_of_endless_depth_are_refused_before_they_are_built(source):
    levels = {"block_out_channels": [64] * 64, "num_attention_heads": [2] * 64}
    depths = {"layers_per_block": 64, "transformer_layers_per_block": 64}
    change(source / "unet" / weights.CONFIG, **levels, **depths)
    start = time.monotonic()
    assert "262144 layers in all, more than 64" in refused(source)
    assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize("text", ["{", "[]", "", "\0", "[" * 10**5, '"config"'])
def test_a_config_that_is_no_json_object_is_named(source, text):
    (source / "vae" / weights.CONFIG).write_text(text)
    assert f"cannot read {source / 'vae' / weights.CONFIG}" in refused(source)


def test_an_index_of_shards_that_does_not_fit_is_refused(source):
    places = json.loads((source / UNET_INDEX).read_text())["weight_map"]
    (source / "unet" / min(places.values())).unlink()
    assert "no such file" in refused(source)
    change(source / UNET_INDEX, weight_map=places | {"conv_in.weight": "../vae/a.safetensors"})
    assert "files in the same folder" in refused(source)
