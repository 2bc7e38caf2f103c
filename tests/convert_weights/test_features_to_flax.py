"""Published feature networks: converted exactly, proven on request, others refused."""

import io
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convert_weights import features_to_flax, mapping, oracle
from posetraj_jax import tree, weights
from posetraj_jax.errors import UserError
from posetraj_jax.evaluation.networks import NETWORKS
from posetraj_jax.nn.build import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def states():
    return {name: oracle.drawn_state(name, seed=0) for name in NETWORKS}


def save(state, path):
    """As both files were published: before PyTorch 1.6."""
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def read(folder, name):
    target = weights.unsharded(build(NETWORKS[name], None).abstract(), jnp.float32)
    return weights.load(folder, target)


@pytest.mark.parametrize(("name", "suffix"), [("inception", "pth"), ("i3d", "pt")])
def test_every_number_is_kept(states, tmp_path, capsys, name, suffix):
    src = save(states[name], tmp_path / f"a.{suffix}")
    assert features_to_flax.main([str(src), str(tmp_path / "made")]) == 0
    assert f"{name} in float32" in capsys.readouterr().out
    made = tree.flatten(read(tmp_path / "made", name))
    back = mapping.to_torch(tree.unflatten(made), name)
    assert back.keys() < states[name].keys()
    for key, array in back.items():
        np.testing.assert_array_equal(array, states[name][key].numpy(), err_msg=key)


def test_safetensors_are_read_too(states, tmp_path):
    save_file(states["i3d"], tmp_path / "a.safetensors")
    assert features_to_flax.check(tmp_path / "a.safetensors").name == "i3d"


@pytest.mark.parametrize("name", NETWORKS)
def test_verify_prints_one_figure(states, tmp_path, capsys, name):
    src = save(states[name], tmp_path / "a.pth")
    assert features_to_flax.main([str(src), str(tmp_path / "made"), "--verify"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "PyTorch" in line)
    assert line.startswith(name)
    assert float(line.split()[-1]) < 1e-4


def test_a_network_that_computes_something_else_is_not_kept(states, tmp_path, monkeypatch):
    src = save(states["i3d"], tmp_path / "a.pt")
    wrong = lambda *_: np.ones((1, 400), np.float32)  # noqa: E731
    monkeypatch.setattr(oracle, "run_features", wrong)
    with pytest.raises(UserError, match="does not compute what the PyTorch network computes"):
        features_to_flax.main([str(src), str(tmp_path / "made"), "--verify"])
    assert os.listdir(tmp_path) == ["a.pt"]


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


def scripted(path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


BAD = {
    "a tensor missing": (
        lambda state: without(state, "Mixed_4f.b2b.bn.running_var"),
        "missing: Mixed_4f.b2b.bn.running_var",
    ),
    "one too many": (lambda state: state | {"more": torch.ones(1)}, "unknown: more"),
    "another shape": (
        lambda state: state | {"logits.conv3d.bias": torch.ones(157)},
        "expected (400,), got (157,)",
    ),
    "integers": (
        lambda state: state | {"logits.conv3d.bias": torch.ones(400, dtype=torch.int32)},
        "logits.conv3d.bias: I32",
    ),
    "not a number": (
        lambda state: state | {"logits.conv3d.bias": torch.full((400,), torch.nan)},
        "logits.conv3d.bias cannot be converted",
    ),
    "another model": (lambda state: nn.Linear(2, 2).state_dict(), "Conv3d_1a_7x7"),
    "nothing": (lambda state: {}, "is no feature network"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_published_network_is_refused(states, tmp_path, name):
    change, message = BAD[name]
    src = save(change(states["i3d"]), tmp_path / "a.pt")
    with pytest.raises(UserError) as error:
        features_to_flax.main([str(src), str(tmp_path / "made")])
    assert message in str(error.value)
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("there", ["nothing", "folder"])
def test_no_file_is_refused(tmp_path, there):
    if there == "folder":
        (tmp_path / "a.pt").mkdir()
    with pytest.raises(UserError, match="pytorch-fid"):
        features_to_flax.main([str(tmp_path / "a.pt"), str(tmp_path / "made")])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_ends_with_2_and_advice(tmp_path):
    """StyleGAN-V's i3d_torchscript.pt, which many use, is a program."""
    file = io.BytesIO()
    scripted(file)
    (tmp_path / "i3d_torchscript.pt").write_bytes(file.getvalue())
    paths = [str(tmp_path / name) for name in ("i3d_torchscript.pt", "made")]
    done = subprocess.run(
        [sys.executable, "-m", "convert_weights.features_to_flax", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "a TorchScript archive, which is a program (nothing was executed)" in done.stderr
    assert "as it was published" in done.stderr
    assert "Traceback" not in done.stderr
