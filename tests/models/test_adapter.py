"""Which parameters of a ControlNet an adapter trains, and what it is together with its base."""

import jax
import jax.numpy as jnp
import numpy as np

from posetraj_jax import sharding, tree
from posetraj_jax.models import adapter
from posetraj_jax.models.controlnet import ControlNet, ControlNetConfig
from posetraj_jax.nn.build import build
from tests.meshes import mesh_of

FULL = build(ControlNet, ControlNetConfig(camera=True)).abstract()
RANK = 32


def test_every_kernel_of_the_full_size_encoder_has_factors_and_the_rest_trains_itself():
    own, base = adapter.split(FULL)
    assert tree.num_params(own) == tree.num_params(own)
    assert {path.partition(".")[0] for path in tree.flatten(own)} == {
        "controlnet_cond_embedding",
        "controlnet_down_blocks",
        "controlnet_mid_block",
    }
    kernels = [path for path in tree.flatten(base) if path.rpartition(".")[2] == "kernel"]
    factors = tree.flatten(adapter.abstract_factors(base, RANK))
    assert len(factors) == 2 * len(kernels)
    # Norms, biases and blends are all that stays without factors.
    rest = {path.rpartition(".")[2] for path in tree.flatten(base).keys() - set(kernels)}
    assert rest == {"bias", "scale", "mix_factor"}
    trains = adapter.abstract(FULL, RANK)
    print(f"rank {RANK}: {tree.num_params(trains):,} of {tree.num_params(FULL):,} train")
    assert tree.num_params(trains) < 0.1 * tree.num_params(FULL)


def test_factors_are_shared_by_devices_as_kernels_are():
    trains = adapter.abstract(FULL, RANK)
    placed = sharding.parameter_shardings(trains, mesh_of(2, 4))
    for path, where in tree.flatten(placed).items():
        if path.endswith((".down", ".up")):
            assert where.spec[-1] == "fsdp", path


def test_drawn_factors_leave_the_base_as_it_is():
    network = build(ControlNet, ControlNetConfig.micro())
    whole = network.init(jax.random.key(0))
    own, base = adapter.split(whole)
    factors = adapter.draw_factors(adapter.abstract_factors(base, 4), jax.random.key(1))
    flat = tree.flatten(factors)
    assert all(np.any(leaf) != path.endswith(".up") for path, leaf in flat.items())
    merged = adapter.merged(base, tree.merged(own, factors), placed(whole))
    jax.tree.map(np.testing.assert_array_equal, merged, whole)


def test_a_merged_adapter_is_the_sum_in_the_wanted_type():
    network = build(ControlNet, ControlNetConfig.micro())
    own, base = adapter.split(network.init(jax.random.key(0)))
    shapes = adapter.abstract_factors(base, 4)
    factors = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), shapes)
    target = placed(network.abstract(), jnp.bfloat16)
    merged = adapter.merged(base, tree.merged(own, factors), target)
    assert not tree.differences(target, merged)
    kernel = np.asarray(base["down_blocks"]["0"]["downsamplers"]["0"]["conv"]["kernel"])
    got = merged["down_blocks"]["0"]["downsamplers"]["0"]["conv"]["kernel"]
    np.testing.assert_array_equal(got, (kernel + 1.0).astype(jnp.bfloat16))


def placed(abstract, dtype=jnp.float32):
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=where), abstract)
