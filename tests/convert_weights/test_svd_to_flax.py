"""The command on tiny networks in every published layout: exact, complete and ready to load."""

import collections
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert_weights import names, svd_to_flax
from convert_weights.components import OURS
from posetraj_jax import sharding, tree, weights
from posetraj_jax.errors import UserError
from tests.convert_weights.published_folder import (
    CONFIGS,
    KEYS,
    NETWORKS,
    ROOT,
    SETTINGS,
    UNET_INDEX,
    VAE_FILE,
    assert_holds,
    change,
    convert,
    mapped,
    refused,
    twin,
)
from tests.meshes import mesh_of

ENCODER_FILE = "image_encoder/model.safetensors"


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_float32_is_bitwise_from_shards_and_single_files(published, modules, tmp_path):
    assert len(list((published / "unet").glob("*-of-*.safetensors"))) > 2
    convert(published, tmp_path / "new" / "weights")
    assert names_in(tmp_path) == {"new"}
    assert names_in(tmp_path / "new") == {"weights"}
    assert names_in(tmp_path / "new/weights") == {*CONFIGS, "scheduler", "feature_extractor"}
    for name in CONFIGS:
        assert names_in(tmp_path / "new/weights" / name) == {"config.json", "params"}
        assert_holds(tmp_path / "new/weights", name, mapped(modules, name))


def test_configs_and_settings_come_along(published, tmp_path):
    convert(published, tmp_path / "weights")
    for name, config in CONFIGS.items():
        given = json.loads((published / name / weights.CONFIG).read_text())
        stored = json.loads((tmp_path / "weights" / name / weights.CONFIG).read_text())
        own = {field: getattr(config, field) for field in OURS if hasattr(config, field)}
        assert stored == given | own
        assert weights.load_config(tmp_path / "weights" / name, type(config)) == config
    assert own == {}
    for settings in SETTINGS.values():
        assert (tmp_path / "weights" / settings).read_bytes() == (published / settings).read_bytes()


def test_the_fp16_variant_is_kept_exactly_also_from_shards(source, modules):
    for name, module in modules.items():
        for path in (source / name).iterdir():
            path.unlink()
        half = twin(name).half()
        half.load_state_dict(module.state_dict())
        size = "1MB" if name == "vae" else "1GB"
        half.save_pretrained(source / name, variant="fp16", max_shard_size=size)
    assert (source / "vae/diffusion_pytorch_model.safetensors.index.fp16.json").is_file()
    assert (source / "image_encoder/model.fp16.safetensors").is_file()
    convert(source, source.parent / "weights")
    for name in CONFIGS:
        assert_holds(source.parent / "weights", name, mapped(modules, name, np.float16))


@pytest.mark.parametrize("worse", [".fp16.safetensors", ".bin", ".fp16.bin"])
def test_full_precision_and_safetensors_are_preferred(source, modules, worse):
    state = {name: tensor.half() for name, tensor in load_file(source / VAE_FILE).items()}
    save = torch.save if worse.endswith("bin") else save_file
    save(state, source / VAE_FILE.replace(".safetensors", worse))
    convert(source, source.parent / "weights", "--only", "vae")
    assert_holds(source.parent / "weights", "vae", mapped(modules, "vae"))


def test_bfloat16_is_the_rounded_source(published, modules, tmp_path):
    convert(published, tmp_path / "weights", "--dtype", "bfloat16")
    for name in CONFIGS:
        rounded = weights.cast(mapped(modules, name), "bfloat16")
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "bfloat16"), NETWORKS[name].abstract()
        )
        loaded = weights.load(tmp_path / "weights" / name, target)
        jax.tree.map(np.testing.assert_array_equal, loaded, rounded)
        wide = jax.tree.map(lambda leaf: leaf.astype(np.float32), rounded)
        assert_holds(tmp_path / "weights", name, wide)  # so nothing finer than bfloat16 is stored


def test_bfloat16_sources_are_read(source, modules):
    state = {name: tensor.bfloat16() for name, tensor in load_file(source / VAE_FILE).items()}
    save_file(state, source / VAE_FILE)
    convert(source, source.parent / "weights", "--only", "vae")
    rounded = weights.cast(weights.cast(mapped(modules, "vae"), "bfloat16"), "float32")
    assert_holds(source.parent / "weights", "vae", rounded)


def pickle_unet(source):
    """Rewrites the UNet's shards and their index as torch.save files."""
    index = source / UNET_INDEX
    content = json.loads(index.read_text())
    for file in set(content["weight_map"].values()):
        (source / "unet" / file).rename(source / "unet" / f"{file}.old")
        torch.save(load_file(source / "unet" / f"{file}.old"), source / "unet" / pickled(file))
        (source / "unet" / f"{file}.old").unlink()
    content["weight_map"] = {name: pickled(f) for name, f in content["weight_map"].items()}
    index.unlink()
    index.with_name(pickled(index.name)).write_text(json.dumps(content))


def pickled(name):
    return name.replace(".safetensors", ".bin")


def pickle_file(file, target, dtype):
    """Replaces a safetensors file by one of torch.save."""
    torch.save({n: t.to(dtype) for n, t in load_file(file).items()}, file.with_name(target))
    file.unlink()


def test_pickles_give_what_safetensors_give(source, modules):
    pickle_unet(source)
    pickle_file(source / VAE_FILE, "diffusion_pytorch_model.fp16.bin", torch.float16)
    pickle_file(source / ENCODER_FILE, "pytorch_model.bin", torch.float32)
    assert (source / "unet/diffusion_pytorch_model.bin.index.json").is_file()
    assert not list(source.rglob("*.safetensors"))
    convert(source, source.parent / "weights")
    for name in CONFIGS:
        dtype = np.float16 if name == "vae" else np.float32
        assert_holds(source.parent / "weights", name, mapped(modules, name, dtype))


def test_bfloat16_pickles_are_read(source, modules):
    pickle_file(source / VAE_FILE, "diffusion_pytorch_model.bin", torch.bfloat16)
    convert(source, source.parent / "weights", "--only", "vae")
    rounded = weights.cast(weights.cast(mapped(modules, "vae"), "bfloat16"), "float32")
    assert_holds(source.parent / "weights", "vae", rounded)


@pytest.mark.parametrize("only", ["vae", "image_encoder,vae"])
def test_only_what_is_asked_for_is_converted(published, modules, tmp_path, only):
    convert(published, tmp_path / "weights", "--only", only)
    wanted = set(only.split(","))
    folders = {SETTINGS[name].split("/")[0] for name in wanted & SETTINGS.keys()}
    assert names_in(tmp_path / "weights") == wanted | folders
    for name in wanted:
        assert_holds(tmp_path / "weights", name, mapped(modules, name))


@pytest.mark.parametrize("only", ["unet,clip", "", "unet,"])
def test_unknown_components_are_named(source, only):
    assert "unet,vae,image_encoder" in refused(source, "--only", only)


@pytest.mark.parametrize(("variant", "frames"), [("svd", 14), ("svd_xt", 25)])
def test_the_variant_is_checked_by_its_frames(source, variant, frames):
    change(source / "unet" / weights.CONFIG, num_frames=frames)
    (other,) = {"svd", "svd_xt"} - {variant}
    message = refused(source, "--variant", other)
    for words in ("num_frames", str(source), other, "14", "25"):
        assert words in message
    convert(source, source.parent / "weights", "--variant", variant, "--only", "unet")
    stored = weights.load_config(source.parent / "weights/unet", type(CONFIGS["unet"]))
    assert stored.num_frames == frames


def test_a_variant_needs_the_unet(source):
    assert "no UNet in --only" in refused(source, "--variant", "svd", "--only", "vae")


def test_what_was_converted_loads_onto_several_devices(published, modules, tmp_path):
    convert(published, tmp_path / "weights", "--only", "vae")
    abstract = NETWORKS["vae"].abstract()
    mesh = mesh_of(1, 8)
    target = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        abstract,
        sharding.parameter_shardings(abstract, mesh),
    )
    loaded = tree.flatten(weights.load(tmp_path / "weights/vae", target))
    kernel = loaded["encoder.conv_in.kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 3, 3, 4)}
    for path, leaf in tree.flatten(mapped(modules, "vae")).items():
        np.testing.assert_array_equal(loaded[path], leaf, err_msg=path)


def test_tensors_are_read_once_and_those_left_out_never(published):
    counts = collections.Counter()

    def counted(tensor):
        def read():
            counts[tensor.name] += 1
            return tensor.read()

        return tensor._replace(read=read)

    for source in svd_to_flax.check(published, list(CONFIGS)):
        counts.clear()
        tensors = {name: counted(tensor) for name, tensor in source.tensors.items()}
        leaves = jax.tree.leaves(source._replace(tensors=tensors).leaves("float32"))
        assert not counts
        for leaf in leaves:
            np.asarray(leaf)
        inert = {n for n in tensors if names.inert_reason(n, KEYS[source.name])}
        assert counts == dict.fromkeys(tensors.keys() - inert, 1)
        assert len(leaves) == len(tensors) - len(inert)
        assert bool(inert) == (source.name == "unet")


def test_constants_that_older_files_hold_are_no_parameters(source, modules):
    state = load_file(source / ENCODER_FILE)
    state["vision_model.embeddings.position_ids"] = torch.arange(50)[None]
    save_file(state, source / ENCODER_FILE)
    convert(source, source.parent / "weights", "--only", "image_encoder")
    assert_holds(source.parent / "weights", "image_encoder", mapped(modules, "image_encoder"))


def run(start, *arguments, **environment):
    """Runs the command in a new process, somewhere else."""
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        cwd="/",
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_it_runs_as_a_module_without_pytorch_and_shows_bytes(source, modules):
    pickle_file(source / ENCODER_FILE, "pytorch_model.bin", torch.float32)
    blocked = source.parent / "blocked"
    blocked.mkdir()
    for library in ("torch", "diffusers", "transformers"):
        (blocked / f"{library}.py").write_text("raise SystemExit(__name__ + ' was imported')")
    done = run(
        ["-m", "convert_weights.svd_to_flax"],
        source,
        source.parent / "weights",
        PYTHONPATH=f"{blocked}:{ROOT}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "unet, vae, image_encoder in float32" in done.stdout
    num_bytes = sum(a.nbytes for name in CONFIGS for a in jax.tree.leaves(mapped(modules, name)))
    assert "image_encoder: 100%" in done.stderr
    assert f"{num_bytes / 1e6:.1f}M/{num_bytes / 1e6:.1f}M" in done.stderr
    for name in CONFIGS:
        assert_holds(source.parent / "weights", name, mapped(modules, name))


def test_it_runs_by_its_path_and_leaves_what_exists_alone(published, tmp_path):
    (tmp_path / "weights").mkdir()
    done = run([svd_to_flax.__file__], published, tmp_path / "weights")
    assert done.returncode == 2, done.stderr[-3000:]
    assert "error: cannot write to" in done.stderr
    assert "a folder that does not exist yet" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_wrong_option_is_explained(published, capsys):
    with pytest.raises(SystemExit):
        convert(published, "weights", "--dtype", "float16")
    assert "bfloat16" in capsys.readouterr().err


def test_verify_without_pytorch_says_what_to_install(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "convert_weights.oracle", None)
    with pytest.raises(UserError, match="pip install torch"):
        convert(source, source.parent / "weights", "--verify")
    assert names_in(source.parent) == {"source"}
