"""Features of 8-bit clips are those of PyTorch from the pictures on, on any devices."""

import json

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from convert_weights import features_to_flax, oracle
from posetraj_jax.errors import UserError
from posetraj_jax.evaluation.features import load_extractor
from posetraj_jax.evaluation.networks import NETWORKS
from tests import parity
from tests.meshes import mesh_of


@pytest.fixture(scope="module")
def states():
    return {name: oracle.drawn_state(name, seed=4) for name in NETWORKS}


@pytest.fixture(scope="module")
def folders(states, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    for name, state in states.items():
        torch.save(state, folder / f"{name}.pt")
        features_to_flax.main([str(folder / f"{name}.pt"), str(folder / name)])
    return folder


def clips(count, frames, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, frames, 40, 72, 3), dtype=np.uint8)


def stretched(pictures, side):
    """Pictures [n h w 3] as pytorch-fid has them: [n 3 side side], from 0 to 1."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def one_device():
    return mesh_of(1, 1, 1, devices=jax.devices()[:1])


def test_every_frame_has_the_features_of_pytorch(states, folders):
    given = clips(1, 3)
    got = load_extractor(folders / "inception", "inception", one_device())(given)
    theirs = oracle.run_inception(states["inception"], stretched(given[0], 299))
    assert got.shape == (1, 3, 2048)
    assert parity.relative_error(got[0], theirs) < parity.NETWORK_TOLERANCE


def test_every_clip_has_the_features_of_pytorch(states, folders):
    """On two devices, with a clip left over."""
    given = clips(3, 9)
    mesh = mesh_of(2, 1, 1, devices=jax.devices()[:2])
    got = load_extractor(folders / "i3d", "i3d", mesh)(given)
    assert got.shape == (3, 1, 400)
    x = torch.stack([2 * stretched(clip, 224) - 1 for clip in given]).transpose(1, 2)
    theirs = oracle.run_i3d(states["i3d"], x)
    assert parity.relative_error(got[:, 0], theirs) < parity.NETWORK_TOLERANCE


def test_too_few_frames_have_no_features(folders):
    extractor = load_extractor(folders / "i3d", "i3d", one_device())
    with pytest.raises(ValueError, match="at least 9 frames"):
        extractor(clips(1, 8))


def test_another_network_is_refused(folders):
    with pytest.raises(UserError, match=r'"_class_name": "I3D" in config.json'):
        load_extractor(folders / "inception", "i3d", one_device())


@pytest.mark.parametrize("content", [None, "{}", json.dumps({"_class_name": "Inception"})])
def test_what_was_not_converted_is_refused(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError) as error:
        load_extractor(tmp_path, "inception", one_device())
    assert str(tmp_path) in str(error.value)
