"""The feature networks equal PyTorch's, every tensor drawn at random, at their published sizes."""

import jax
import numpy as np
import pytest
import torch

from convert_weights import mapping, oracle
from posetraj_jax import tree
from posetraj_jax.evaluation.networks import NETWORKS
from posetraj_jax.nn.build import build
from tests import parity


def ours(name, state):
    network = build(NETWORKS[name], None)
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    params = mapping.from_torch(arrays, network.abstract(), name)

    def run(x):
        with jax.default_matmul_precision("highest"):
            return jax.jit(network.apply)(params, x)

    return run


@pytest.fixture(scope="module")
def inception():
    return oracle.drawn_state("inception", seed=0)


@pytest.fixture(scope="module")
def i3d():
    return oracle.drawn_state("i3d", seed=1)


def test_inception_equals_pytorch(inception):
    pictures = torch.rand(2, 3, 111, 139, generator=torch.Generator().manual_seed(2))
    theirs = oracle.run_inception(inception, pictures)
    got = ours("inception", inception)(2 * pictures.permute(0, 2, 3, 1).numpy() - 1)
    assert got.shape == (2, 2048)
    assert parity.relative_error(got, theirs) < parity.NETWORK_TOLERANCE


def test_i3d_equals_pytorch(i3d):
    clips = 2 * torch.rand(1, 3, 14, 224, 224, generator=torch.Generator().manual_seed(3)) - 1
    theirs = oracle.run_i3d(i3d, clips)
    got = ours("i3d", i3d)(clips.permute(0, 2, 3, 4, 1).numpy())
    assert got.shape == (1, 400)
    assert parity.relative_error(got, theirs) < parity.NETWORK_TOLERANCE


@pytest.mark.parametrize(("name", "least"), [("inception", (75, 75, 3)), ("i3d", (9, 224, 224, 3))])
def test_the_smallest_inputs_have_features(name, least):
    network = build(NETWORKS[name], None)

    def features(*shape):
        return jax.eval_shape(network.apply, network.abstract(), jax.ShapeDtypeStruct(shape, float))

    assert features(2, *least).shape[0] == 2
    with pytest.raises(ValueError, match="at least"):
        features(2, least[0] - 1, *least[1:])


def test_sizes_are_the_published_ones():
    """Inception v3 is known to have 21 785 568 parameters before its classes."""
    count = dict.fromkeys(NETWORKS, 0)
    for name, module in NETWORKS.items():
        for path, leaf in tree.flatten(build(module, None).abstract()).items():
            is_statistic = path.endswith((".mean", ".var"))
            count[name] += 0 if is_statistic else int(np.prod(leaf.shape))
    assert count["inception"] == 21_785_568
    assert count["i3d"] == 12_697_264


def test_every_tensor_matters(inception):
    """But for the classes and the counters, which are left out."""
    network = build(NETWORKS["inception"], None)
    used = mapping.torch_shapes(network.abstract(), "inception")
    assert {*inception} - {*used} == {
        "fc.weight",
        "fc.bias",
        *(name for name in inception if name.endswith("num_batches_tracked")),
    }
