"""The mesh and the path table."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from posetraj_jax import sharding
from posetraj_jax.errors import UserError
from tests.meshes import mesh_of


def spec_of(path_tree, mesh):
    return jax.tree.map(lambda s: s.spec, sharding.parameter_shardings(path_tree, mesh))


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


def test_the_mesh_is_auto():
    """Explicit axes, the default of jax.make_mesh, raise at temporal reshapes and gathers."""
    mesh = mesh_of(2, 4)
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "context": 1}


def test_minus_one_takes_the_rest():
    assert dict(mesh_of(-1, 4).shape) == {"data": 2, "fsdp": 4, "context": 1}


@pytest.mark.parametrize(
    ("count", "fields", "expected"),
    [
        (1, {}, (1, 1)),
        (8, {}, (1, 8)),
        (16, {}, (1, 16)),
        (256, {}, (16, 16)),
        (24, {}, (2, 12)),
        (16, {"context": 2}, (1, 8)),
        (32, {"slices": 2}, (2, 16)),
        (16, {"slices": 2}, (2, 8)),
        (16, {"data": 4}, (4, 4)),
    ],
)
def test_zero_shares_among_as_many_devices_as_divide_but_within_a_slice(count, fields, expected):
    o = sharding.MeshOptions(fsdp=0, **fields).over(count)
    assert (o.data, o.fsdp) == expected


def test_a_mesh_that_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(UserError, match="8 devices") as caught:
        mesh_of(3, 2)
    assert "3 x 2 x 1 = 6" in str(caught.value)


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers():
    mesh = mesh_of(2, 4)
    sharding.check_batch(16, mesh)
    with pytest.raises(UserError, match="batch_size = 9") as caught:
        sharding.check_batch(9, mesh)
    assert "multiple of 8" in str(caught.value)
    assert "batch_size=16" in str(caught.value)


def test_kernels_split_their_outputs_and_the_rest_is_whole():
    mesh = mesh_of(2, 4)
    tree = {
        "conv": {"kernel": leaf(3, 3, 8, 16), "bias": leaf(16)},
        "to_rgb": {"kernel": leaf(3, 3, 8, 3)},
        "linear": {"kernel": leaf(8, 12)},
        "time_mixer": {"mix_factor": leaf(1)},
    }
    assert spec_of(tree, mesh) == {
        "conv": {"kernel": P(None, None, None, "fsdp"), "bias": P()},
        "to_rgb": {"kernel": P(None, None, None, None)},
        "linear": {"kernel": P(None, "fsdp")},
        "time_mixer": {"mix_factor": P()},
    }


def test_a_leaf_that_no_row_covers_is_an_error():
    with pytest.raises(LookupError, match="mystery"):
        sharding.parameter_shardings({"mystery": leaf(4)}, mesh_of(2, 4))


@pytest.mark.parametrize("variant", ["svd", "tiny"])
def test_the_table_covers_every_network(variant):
    from posetraj_jax.models.networks import ModelOptions, build_networks

    skips = {"svd": 12, "tiny": 8}[variant]
    options = ModelOptions(variant, (1,) * skips)
    mesh = mesh_of(2, 4)
    for network in build_networks(options):
        abstract = network.abstract()
        specs = jax.tree.leaves(spec_of(abstract, mesh), is_leaf=lambda x: isinstance(x, P))
        sizes = [np.prod(leaf.shape) for leaf in jax.tree.leaves(abstract)]
        split = sum(n for n, spec in zip(sizes, specs, strict=True) if "fsdp" in spec)
        assert split > 0.95 * sum(sizes)


@pytest.fixture
def asked_anew():
    sharding._can_omit_ynnpack.cache_clear()
    yield
    sharding._can_omit_ynnpack.cache_clear()


def test_programs_of_cpus_do_without_ynnpack(asked_anew):
    mesh = mesh_of(8, 1, 1)
    x = jax.device_put(np.ones((256, 256), np.float32), sharding.replicated(mesh))
    for jit, uses in ((jax.jit, True), (partial(sharding.jit, mesh=mesh), False)):
        compiled = jit(jax.numpy.dot).lower(x, x).compile()
        assert ("ynn_fusion" in compiled.as_text()) == uses


def test_an_option_that_xla_no_longer_knows_is_left_out(asked_anew, monkeypatch):
    monkeypatch.setattr(sharding, "WITHOUT_YNNPACK", {"xla_no_such_option": ""})
    x = jax.device_put(np.ones(8, np.float32), sharding.replicated(mesh_of(8, 1, 1)))
    np.testing.assert_array_equal(sharding.jit(lambda x: 2 * x, mesh_of(8, 1, 1))(x), 2 * x)
