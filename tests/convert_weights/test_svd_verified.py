"""`--verify`: what was written computes what PyTorch computes, or is refused."""

import re
import signal

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert_weights import mapping, svd_to_flax
from posetraj_jax import errors, tree, weights
from tests.convert_weights.published_folder import convert

TOLERANCE = 1e-4
OUTPUTS = ["unet", "vae encode", "vae decode", "image_encoder"]


@pytest.fixture(autouse=True)
def compile_quickly():
    """Half the time; the networks are small and run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def figures(text):
    """What was printed for each output."""
    pattern = r"^(.+?) +largest relative difference from PyTorch (\S+)$"
    return {name: float(error) for name, error in re.findall(pattern, text, re.MULTILINE)}


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.full)])
def test_every_output_is_compared(published, tmp_path, capsys, dtype):
    convert(published, tmp_path / "weights", "--verify", "--dtype", dtype)
    measured = figures(capsys.readouterr().out)
    assert list(measured) == OUTPUTS
    assert all(0 < error <= TOLERANCE for error in measured.values()), measured


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.fp16.safetensors"])
def test_every_kind_of_file_is_compared(source, capsys, file):
    given = source / "image_encoder/model.safetensors"
    state = load_file(given)
    given.unlink()
    if file.endswith("bin"):
        torch.save(state, given.with_name(file))
    else:
        half = {name: tensor.half() for name, tensor in state.items()}
        save_file(half, given.with_name(file), {"format": "pt"})
    convert(source, source.parent / "weights", "--verify", "--only", "image_encoder")
    assert 0 < figures(capsys.readouterr().out)["image_encoder"] <= TOLERANCE


def refused(source, target, only, capsys):
    """What the command prints when it ends with code 2 and leaves nothing."""
    arguments = [str(source), str(target), "--verify", "--only", only]
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            errors.run(lambda: svd_to_flax.main(arguments))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 2
    assert list(target.parent.iterdir()) == []
    printed = capsys.readouterr()
    assert figures(printed.out) == {}
    return printed.err


def test_square_kernels_laid_out_wrongly_are_refused(published, tmp_path, monkeypatch, capsys):
    layout = mapping._from_torch_layout

    def turned(path, array):
        array = layout(path, array)
        is_square = array.ndim == 2 and array.shape[0] == array.shape[1]
        return array.T if is_square else array

    monkeypatch.setattr(mapping, "_from_torch_layout", turned)
    message = refused(published, tmp_path / "weights", "image_encoder", capsys)
    assert (
        "the converted image_encoder does not compute what the PyTorch network computes" in message
    )
    assert "relative differences of at most 1e-04" in message


@pytest.mark.parametrize(
    ("name", "path", "factor", "words"),
    [
        ("vae", "decoder.conv_norm_out.scale", 1.01, "- vae decode: "),
        ("image_encoder", "visual_projection.kernel", np.nan, "- image_encoder: inf"),
    ],
    ids=["slightly wrong", "not finite"],
)
def test_one_wrong_leaf_is_refused_and_its_output_named(
    published, tmp_path, monkeypatch, capsys, name, path, factor, words
):
    save = weights.save

    def spoil(params, config, folder):
        leaves = tree.flatten(params)
        leaves[path] = np.asarray(leaves[path]) * np.float32(factor)
        save(tree.unflatten(leaves), config, folder)

    monkeypatch.setattr(weights, "save", spoil)
    message = refused(published, tmp_path / "weights", name, capsys)
    assert words in message
    assert "vae encode" not in message
