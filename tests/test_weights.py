"""Parameter trees on disk: exact round trip, and every misfit named before anything is merged."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import sharding, tree, weights
from posetraj_jax.errors import UserError
from posetraj_jax.models.clip import CLIPVisionConfig
from posetraj_jax.models.unet import UNetConfig
from tests.meshes import mesh_of


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "down_blocks": {str(i): {"kernel": jax.random.normal(keys[0], (4, 8))} for i in range(11)},
        "conv_in": {"kernel": jax.random.normal(keys[1], (3, 3, 4, 8)), "bias": jnp.ones(8)},
    }


def target_of(params, dtype=jnp.float32, where=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=where), params)


def test_round_trip_is_bitwise(params, tmp_path):
    weights.save(params, {"a": 1}, tmp_path / "unet")
    where = sharding.replicated(mesh_of(2, 4))
    loaded = weights.load(tmp_path / "unet", target_of(params, where=where))
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert not tree.differences(params, loaded)


def test_loads_sharded_and_in_another_type(params, tmp_path):
    weights.save(params, {}, tmp_path / "unet")
    mesh = mesh_of(2, 4)
    target = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=where),
        params,
        sharding.parameter_shardings(params, mesh),
    )
    kernel = weights.load(tmp_path / "unet", target)["conv_in"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    assert kernel.addressable_shards[0].data.shape == (3, 3, 4, 2)
    np.testing.assert_array_equal(kernel, params["conv_in"]["kernel"].astype(jnp.bfloat16))


def test_misfits_are_all_named(params, tmp_path):
    weights.save(params, {}, tmp_path / "unet")
    wanted = target_of(params, where=sharding.replicated(mesh_of(2, 4)))
    wanted["down_blocks"]["3"]["kernel"] = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    wanted["conv_out"] = {"bias": wanted["conv_in"].pop("bias")}
    with pytest.raises(UserError) as caught:
        weights.load(tmp_path / "unet", wanted)
    for words in (
        "missing: conv_out.bias",
        "unexpected: conv_in.bias",
        "wrong shape: down_blocks.3.kernel: expected (8, 4), got (4, 8)",
    ):
        assert words in str(caught.value)


def test_no_folder_names_the_command(tmp_path, params):
    with pytest.raises(UserError, match="svd_to_flax"):
        weights.load(tmp_path / "nothing", target_of(params))


def test_a_damaged_folder_is_named(tmp_path, params):
    weights.save(params, {}, tmp_path / "unet")
    for path in (tmp_path / "unet" / "params").iterdir():
        if path.is_file():
            path.write_text("damaged")
    where = sharding.replicated(mesh_of(2, 4))
    with pytest.raises(UserError, match="cannot read the weights"):
        weights.load(tmp_path / "unet", target_of(params, where=where))


def test_an_existing_folder_is_not_overwritten(tmp_path, params):
    weights.save(params, {}, tmp_path / "unet")
    with pytest.raises(UserError, match="a new or an empty folder"):
        weights.save(params, {}, tmp_path / "unet")
    assert [p.name for p in tmp_path.iterdir()] == ["unet"]


class Asked:
    """A leaf that is made when it is asked for; remembers when."""

    alive: ClassVar[list[str]] = []

    def __init__(self, name):
        self.name, self.shape, self.dtype = name, (1000,), np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
        self.alive.append(self.name)
        return np.full(self.shape, float(self.name), np.float32)


def test_leaves_are_made_in_groups_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "GROUP_BYTES", 8000)
    finished, finish = [], weights._finish

    def watched(futures):
        finished.append(len(Asked.alive))
        finish(futures)

    monkeypatch.setattr(weights, "_finish", watched)
    lazy = {str(i): Asked(str(i)) for i in range(5)}
    weights.save(lazy, {}, tmp_path / "unet")
    assert sorted(Asked.alive) == list("01234")
    assert finished == [2, 4, 5]  # the group before is waited for once the next one is made
    loaded = weights.load(tmp_path / "unet", target_of(lazy))
    assert {name: float(leaf[0]) for name, leaf in loaded.items()} == {n: float(n) for n in lazy}


def test_stored_types_are_told_without_reading(tmp_path, params):
    weights.save(weights.cast(params, "bfloat16"), {}, tmp_path / "unet")
    types = weights.stored_types(tmp_path / "unet", target_of(params))
    assert tree.differences(types, target_of(params, jnp.bfloat16)) == []
    params["conv_in"].pop("bias")
    with pytest.raises(UserError, match=r"unexpected: conv_in\.bias"):
        weights.stored_types(tmp_path / "unet", target_of(params))


def test_configs_are_read_and_compared(tmp_path, params):
    config = UNetConfig.tiny()
    published = {"_class_name": "X", "sample_size": 96}
    weights.save(params, dataclasses.asdict(config) | published, tmp_path / "unet")
    assert weights.load_config(tmp_path / "unet", UNetConfig) == config
    weights.require_config(tmp_path / "unet", config)
    interleaved = dataclasses.replace(config, temporal_context="interleaved")
    weights.require_config(tmp_path / "unet", interleaved)
    with pytest.raises(UserError, match="num_frames: 14, not 25"):
        weights.require_config(tmp_path / "unet", dataclasses.replace(config, num_frames=25))
    with pytest.raises(UserError, match=r"KeyError.*hidden_size"):
        weights.load_config(tmp_path / "unet", CLIPVisionConfig)


@pytest.mark.parametrize("keep", [None, 99], ids=["missing", "truncated"])
def test_every_damaged_file_is_named(tmp_path, keep):
    """Refused, or not needed for reading; the largest file, with the numbers, is needed."""
    params = {"kernel": np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)}
    weights.save(params, {}, tmp_path / "unet")
    files = [p for p in (tmp_path / "unet" / "params").rglob("*") if p.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_size):
        content, refused = path.read_bytes(), False
        path.unlink() if keep is None else path.write_bytes(content[:keep])
        try:
            loaded = weights.load(tmp_path / "unet", target_of(params))
            np.testing.assert_array_equal(loaded["kernel"], params["kernel"])
        except UserError:
            refused = True
        path.write_bytes(content)
    assert len(content) > 500_000
    assert refused


def test_a_path_that_orbax_takes_for_a_pattern_is_refused(tmp_path, params):
    with pytest.raises(UserError, match=r"without \[ \] \* \?"):
        weights.save(params, {}, tmp_path / "p[1]" / "unet")
    assert list(tmp_path.iterdir()) == []
