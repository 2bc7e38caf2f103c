"""The command on tiny networks in the published layout: exact, or refused with nothing left."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from convert_weights import mapping, oracle, svd_to_flax
from posetraj_jax import tree, weights
from posetraj_jax.errors import UserError
from posetraj_jax.models.clip import CLIPVisionConfig
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.models.vae import VAEConfig
from posetraj_jax.nn.build import build
from tests.parity import CLASSES, SMALL

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "unet": UNetConfig(**SMALL),
    "vae": VAEConfig.tiny(block_out_channels=(32, 64)),
    "image_encoder": CLIPVisionConfig.tiny(),
}
KEYS = {"unet": "unet", "vae": "vae", "image_encoder": "clip"}
NETWORKS = {name: build(CLASSES[KEYS[name]], config) for name, config in CONFIGS.items()}
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def modules():
    return {
        name: oracle.redraw(getattr(oracle, KEYS[name])(config), seed)
        for seed, (name, config) in enumerate(CONFIGS.items())
    }


@pytest.fixture(scope="module")
def published(modules, tmp_path_factory):
    """A folder as diffusers saves it; the UNet in shards."""
    folder = tmp_path_factory.mktemp("published")
    for name, module in modules.items():
        module.save_pretrained(folder / name, max_shard_size="2MB" if name == "unet" else "1GB")
    return folder


@pytest.fixture
def source(published, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(published, tmp_path / "source")


def convert(source, target, *options):
    svd_to_flax.main([str(source), str(target), *options])


def refused(source, *options) -> str:
    """The message; checks that nothing is left behind."""
    target = source.parent / "deep" / "weights"
    with pytest.raises(UserError) as caught:
        convert(source, target, *options)
    assert {path.name for path in source.parent.iterdir()} <= {source.name}
    return str(caught.value)


def change(path, **fields):
    """Rewrites a JSON file; a field of value None is taken out."""
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def assert_holds(folder, name, expected):
    loaded = weights.load(folder / name, NETWORKS[name].abstract())
    assert tree.differences(expected, loaded) == []
    for path, leaf in tree.flatten(expected).items():
        np.testing.assert_array_equal(tree.flatten(loaded)[path], leaf, err_msg=path)


def mapped(modules, name, dtype=np.float32):
    state = {n: a.astype(dtype) for n, a in oracle.state(modules[name]).items()}
    return mapping.from_torch(state, NETWORKS[name].abstract(), KEYS[name])


def test_float32_is_bitwise_also_from_shards(published, modules, tmp_path):
    assert len(list((published / "unet").glob("*-of-*.safetensors"))) > 2
    convert(published, tmp_path / "new" / "weights")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"weights"}
    assert {p.name for p in (tmp_path / "new" / "weights").iterdir()} == set(CONFIGS)
    for name, config in CONFIGS.items():
        assert_holds(tmp_path / "new" / "weights", name, mapped(modules, name))
        stored = json.loads((tmp_path / "new" / "weights" / name / weights.CONFIG).read_text())
        restored = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        assert type(config)(**restored) == config


def test_fp16_variant_is_kept_exactly_also_from_shards(modules, tmp_path):
    source = tmp_path / "source"
    for name, module in modules.items():
        half = getattr(oracle, KEYS[name])(CONFIGS[name]).half()
        half.load_state_dict(module.state_dict())
        size = "1MB" if name == "vae" else "1GB"
        half.save_pretrained(source / name, variant="fp16", max_shard_size=size)
    assert (source / "vae/diffusion_pytorch_model.safetensors.index.fp16.json").is_file()
    assert (source / "image_encoder/model.fp16.safetensors").is_file()
    convert(source, tmp_path / "weights")
    for name in CONFIGS:
        assert_holds(tmp_path / "weights", name, mapped(modules, name, np.float16))


def test_full_precision_is_preferred_to_its_fp16_variant(source, modules):
    state = load_file(source / VAE_FILE)
    save_file(
        {name: tensor.half() for name, tensor in state.items()},
        source / VAE_FILE.replace(".safe", ".fp16.safe"),
    )
    convert(source, source.parent / "weights", "--only", "vae")
    assert_holds(source.parent / "weights", "vae", mapped(modules, "vae"))


def test_bfloat16_of_some_components(published, modules, tmp_path):
    convert(published, tmp_path / "weights", "--only", "image_encoder,vae", "--dtype", "bfloat16")
    assert {p.name for p in (tmp_path / "weights").iterdir()} == {"vae", "image_encoder"}
    rounded = weights.cast(mapped(modules, "vae"), "bfloat16")
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "bfloat16"), NETWORKS["vae"].abstract()
    )
    loaded = weights.load(tmp_path / "weights" / "vae", target)
    jax.tree.map(np.testing.assert_array_equal, loaded, rounded)
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float32), rounded)
    assert_holds(tmp_path / "weights", "vae", wide)  # so nothing finer than bfloat16 is stored


def test_bfloat16_sources_are_read(source, modules):
    state = {name: tensor.bfloat16() for name, tensor in load_file(source / VAE_FILE).items()}
    save_file(state, source / VAE_FILE)
    convert(source, source.parent / "weights", "--only", "vae")
    rounded = weights.cast(weights.cast(mapped(modules, "vae"), "bfloat16"), "float32")
    assert_holds(source.parent / "weights", "vae", rounded)


def test_both_ways_to_start_it(published, tmp_path):
    only_vae = [str(published), str(tmp_path / "weights"), "--only", "vae"]
    for start, code in ((["-m", "convert_weights.svd_to_flax"], 0), ([svd_to_flax.__file__], 2)):
        done = subprocess.run(
            [sys.executable, *start, *only_vae], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr[-3000:]
        assert "Traceback" not in done.stderr
        message = "a folder that does not exist yet" if code else "vae: 100%"
        assert message in done.stderr


def test_an_existing_target_is_left_alone(published, tmp_path):
    (tmp_path / "weights").mkdir()
    with pytest.raises(UserError, match="does not exist yet"):
        convert(published, tmp_path / "weights")
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_target_that_cannot_be_made_is_a_user_error(published, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write weights"):
        convert(published, tmp_path / "file" / "weights")


def test_a_failure_while_writing_leaves_nothing(published, tmp_path, monkeypatch):
    save = weights.save

    def fail_on_vae(params, config, folder):
        save(params, config, folder)
        if folder.name == "vae":
            raise OSError("No space left on device")

    monkeypatch.setattr(weights, "save", fail_on_vae)
    with pytest.raises(UserError, match="No space left"):
        convert(published, tmp_path / "weights", "--only", "vae,image_encoder")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_source_says_what_was_looked_for(tmp_path):
    message = refused(tmp_path / "source")
    for words in ("nothing there", "unet/config.json", "model.fp16.safetensors", "img2vid"):
        assert words in message


def test_other_layouts_are_refused_with_all_that_lacks(source):
    shutil.rmtree(source / "unet")
    (source / VAE_FILE).unlink()
    message = refused(source)
    for words in ("no unet/config.json", "no tensors in unet/", "no tensors in vae/"):
        assert words in message
    assert "image_encoder/config.json" not in message


def test_a_single_file_is_refused(tmp_path):
    (tmp_path / "svd.safetensors").write_text("")
    assert "a file" in refused(tmp_path / "svd.safetensors")


def test_pickled_tensors_are_refused_with_advice(source):
    (source / VAE_FILE).rename(source / "vae/diffusion_pytorch_model.bin")
    message = refused(source)
    assert "vae/ holds diffusion_pytorch_model.bin" in message
    assert "safe_serialization=True" in message


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes()[:1000]),
        lambda file: file.write_bytes(b""),
    ],
    ids=["text", "last byte missing", "truncated header", "empty"],
)
def test_damaged_files_are_named(source, spoil):
    spoil(source / VAE_FILE)
    assert f"cannot read {source / VAE_FILE}" in refused(source)


def test_a_missing_or_stray_shard_is_named(source):
    index = source / "unet/diffusion_pytorch_model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    file, other = sorted(set(places.values()))[:2]
    moved = places["conv_in.weight"]
    change(index, weight_map=places | {"conv_in.weight": other if moved == file else file})
    assert f"conv_in.weight in {moved}" in refused(source)
    change(index, weight_map=places | {"conv_in.weight": "../../elsewhere.safetensors"})
    assert "files in the same folder" in refused(source)
    change(index, weight_map=places)
    (source / "unet" / file).unlink()
    assert f"cannot read {source / 'unet' / file}" in refused(source)


def test_tensors_that_do_not_fit_are_listed(source):
    state = load_file(source / VAE_FILE)
    state["quant_conv.wieght"] = state.pop("quant_conv.weight")
    turned = "decoder.up_blocks.1.resnets.0.spatial_res_block.conv_shortcut.weight"
    state[turned] = state[turned].transpose(0, 1).contiguous()
    del state["encoder.conv_in.bias"]
    save_file(state, source / VAE_FILE)
    message = refused(source)
    for words in (
        str(source / VAE_FILE),
        "missing: quant_conv.weight",
        "unknown: quant_conv.wieght",
        "missing: encoder.conv_in.bias",
        f"wrong shape: {turned}: expected (32, 64, 1, 1), got (64, 32, 1, 1)",
    ):
        assert words in message


def test_quantised_tensors_are_refused(source):
    state = load_file(source / VAE_FILE)
    state["quant_conv.weight"] = state["quant_conv.weight"].char()
    save_file(state, source / VAE_FILE)
    assert "quant_conv.weight: I8" in refused(source)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("unet", "down_block_types", ["CrossAttnDownBlockSpatioTemporal"] * 2),
        ("unet", "num_attention_heads", [2, 5]),
        ("unet", "num_attention_heads", 2),
        ("unet", "layers_per_block", None),
        ("unet", "layers_per_block", 0),
        ("unet", "use_linear_projection", True),
        ("vae", "block_out_channels", [32, 40]),
        ("vae", "down_block_types", None),
        ("image_encoder", "hidden_act", "quick_gelu"),
        ("image_encoder", "layer_norm_eps", 1e-6),
    ],
)
def test_other_architectures_are_refused(source, name, field, value):
    change(source / name / weights.CONFIG, **{field: value})
    message = refused(source)
    assert str(source / name / weights.CONFIG) in message
    assert "heads" in message or "groups" in message or field in message


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_config_that_is_no_json_object_is_named(source, text):
    (source / "vae" / weights.CONFIG).write_text(text)
    assert str(source / "vae" / weights.CONFIG) in refused(source)


@pytest.mark.parametrize("names", ["unet,clip", "", "unet,"])
def test_unknown_components_are_named(published, names, tmp_path):
    with pytest.raises(UserError, match="unet,vae,image_encoder"):
        convert(published, tmp_path / "weights", "--only", names)
    assert list(tmp_path.iterdir()) == []
