"""Where a stage starts from: an earlier run, checked first, and what that run does not have."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from posetraj_jax import config, config_file, pretrained, tree, weights
from posetraj_jax.errors import UserError
from posetraj_jax.models.networks import build_networks, options_of
from posetraj_jax.saved import Saved
from posetraj_jax.training import initial
from posetraj_jax.training.options import from_config
from posetraj_jax.training.origin import Origin, find_origin, require_same_unet
from tests.meshes import mesh_of, one_device
from tests.runs import write_run

STEPS = {"steps": "10"}


def setting(spec: str, init_from, **fields: str):
    """The networks and the initial options of a config, as a run has them."""
    c = config_file.load(spec, {"init_from": str(init_from), **fields})
    networks = build_networks(options_of(config.flatten(c), "float32"))
    return from_config(c).initial, networks


def finished(folder, spec: str = "stage1:micro", **fields: str):
    _, networks = setting(spec, "", **fields)
    trained = networks.controlnet or networks.unet
    return write_run(folder, spec, trained.abstract(), **STEPS | fields)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs") / "stage1-micro")


@pytest.fixture(scope="module")
def stage2(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs") / "stage2-micro", "stage2:micro")


def start(origin, options, networks, mesh=None):
    mesh = mesh or one_device()
    frozen = pretrained.frozen_parameters(networks, mesh, "", jax.random.key(0))
    key = jax.random.key(1)
    return frozen, initial.initial_params(networks, frozen, origin, mesh, key, options, {})[0]


def refused(spec: str, init_from, **fields: str) -> str:
    with pytest.raises(UserError) as caught:
        find_origin(*setting(spec, init_from, **fields))
    return str(caught.value)


def test_nothing_named_starts_from_the_unet():
    options, networks = setting("stage2:micro", "")
    assert find_origin(options, networks) is None
    frozen, params = start(None, options, networks)
    np.testing.assert_array_equal(params["conv_in"]["kernel"], frozen.unet["conv_in"]["kernel"])
    assert float(np.abs(params["controlnet_mid_block"]["kernel"]).max()) == 0


def test_a_run_gives_the_average_of_its_last_checkpoint(stage1):
    options, networks = setting("stage2:micro", stage1)
    origin = find_origin(options, networks)
    assert origin == Origin(Saved(stage1 / "checkpoints" / "10", "ema"), unet="")
    _, params = start(origin, options, networks, mesh_of(2, 4))
    assert all((leaf == -10).all() for leaf in jax.tree.leaves(params))
    kernel = params["conv_in"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[-1] == kernel.shape[-1] // 4


def test_one_checkpoint_of_a_run_may_be_named(stage1):
    options, networks = setting("stage2:micro", stage1 / "checkpoints" / "5")
    _, params = start(find_origin(options, networks), options, networks)
    assert float(params["conv_in"]["kernel"][0, 0, 0, 0]) == -5


@pytest.mark.parametrize("encoder", ["linear", "mlp"])
def test_the_camera_branch_is_new_in_stage_3_and_named(stage2, capsys, encoder):
    options, networks = setting("stage3:micro", stage2, **{"camera.encoder": encoder})
    _, params = start(find_origin(options, networks), options, networks)
    flat = tree.flatten(params)
    new = {path for path, leaf in flat.items() if float(np.abs(leaf + 10).max()) > 0}
    projection = "controlnet_cond_embedding.cc_projection"
    assert {f"{projection}.kernel", f"{projection}.bias"} <= new
    branch = ("cc_projection", "camera_embedding")[: 1 + (encoder == "mlp")]
    assert {path.split(".")[1] for path in new} == set(branch)
    np.testing.assert_array_equal(flat[f"{projection}.kernel"][:64], np.eye(64))
    assert float(np.abs(flat[f"{projection}.kernel"][64:]).max()) == 0
    said = capsys.readouterr().out
    assert "newly initialised" in said
    assert all(path in said for path in new)


def test_a_converted_controlnet_may_be_started_from(tmp_path, stage1):
    options, networks = setting("stage1:micro", tmp_path / "controlnet")
    fields = dataclasses.asdict(networks.controlnet.config)
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 3, np.float32), networks.controlnet.abstract()
    )
    weights.save(params, fields, tmp_path / "controlnet")
    origin = find_origin(options, networks)
    _, params = start(origin, options, networks)
    assert all((leaf == 3).all() for leaf in jax.tree.leaves(params))
    message = refused(
        "stage1:micro", tmp_path / "controlnet", **{"model.residual_multiplicity": "2,2,2,1"}
    )
    assert "residual_multiplicity: (1, 1, 1, 1), not (2, 2, 2, 1)" in message


def test_a_fine_tuning_starts_from_a_fine_tuning_of_the_same_part(tmp_path):
    options, networks = setting("svd_finetune:micro", tmp_path / "r", trainable="temporal")
    shapes = initial.abstract_params(networks, options)
    write_run(tmp_path / "r", "svd_finetune:micro", shapes, trainable="temporal", **STEPS)
    frozen, params = start(find_origin(options, networks), options, networks)
    assert all((leaf == -10).all() for leaf in jax.tree.leaves(params))
    rest = initial.without_trained(frozen, {}, options).unet
    whole = tree.flatten(networks.unet.abstract())
    assert tree.flatten(rest).keys() | tree.flatten(params).keys() == whole.keys()
    assert not tree.flatten(rest).keys() & tree.flatten(params).keys()
    options, networks = setting("svd_finetune:micro", tmp_path / "r", trainable="spatial")
    with pytest.raises(UserError, match="missing: conv_in"):
        start(find_origin(options, networks), options, networks)


def test_what_does_not_fit_is_refused_with_every_reason(tmp_path, stage1, stage2):
    assert "no such folder" in refused("stage2:micro", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "got:      another folder" in refused("stage2:micro", tmp_path / "empty")
    assert "got:      a file" in refused("stage2:micro", stage1 / "config.json")
    assert "no such folder" in refused("stage2:micro", stage1 / "checkpoints" / "7")
    message = refused("stage3:micro", stage1)
    assert "it is of stage 1, not 2 (--config.init_stages" in message
    find_origin(*setting("stage3:micro", stage1, init_stages="1,2"))
    message = refused("stage3:tiny", stage2)
    assert "block_out_channels: (64, 64), not (64, 64, 128, 128)" in message
    assert "residual_multiplicity" in message
    assert "drawn with seed 0, not 3" in refused("stage2:micro", stage1, seed="3")


def test_an_unfinished_run_is_refused_unless_its_checkpoint_is_named(tmp_path):
    run = finished(tmp_path / "run", steps="50")
    message = refused("stage2:micro", run)
    assert "reached step 10 of 50" in message
    named = run / "checkpoints" / "10"
    assert str(named) in message
    assert find_origin(*setting("stage2:micro", named)).saved.folder == named
    shutil.rmtree(named / "ema")
    assert f"{named} is damaged: it has no ema" in refused("stage2:micro", named)
    for folder in (run / "checkpoints").iterdir():
        folder.rename(tmp_path / folder.name)
    assert "at least one complete checkpoint" in refused("stage2:micro", run)


def test_a_run_that_trained_another_network_is_refused(tmp_path):
    _, networks = setting("svd_finetune:micro", "")
    run = write_run(tmp_path / "run", "svd_finetune:micro", networks.unet.abstract(), **STEPS)
    message = refused("stage1:micro", run, init_stages="0")
    assert "it trained the unet, and this stage trains the controlnet" in message


def test_a_camera_branch_must_not_be_lost_or_read_otherwise(tmp_path):
    run = finished(tmp_path / "run", "stage3:micro")
    fields = {"init_stages": "3"}
    assert "camera.enabled is False" in refused("stage2:micro", run, **fields)
    message = refused("stage3:micro", run, **fields, **{"camera.encoder": "mlp"})
    assert "camera.encoder: 'linear'" in message
    find_origin(*setting("stage3:micro", run, **fields))


def test_more_parameters_than_the_network_has_are_refused(tmp_path):
    options, networks = setting("stage2:micro", tmp_path / "run")
    shapes = networks.controlnet.abstract() | {"extra": {"bias": jax.ShapeDtypeStruct((2,), "f4")}}
    write_run(tmp_path / "run", "stage1:micro", shapes, **STEPS)
    origin = find_origin(options, networks)
    for use in (initial.require_fit, start):  # the first one before anything is written
        arguments = (networks, options) if use is initial.require_fit else (options, networks)
        with pytest.raises(UserError, match=r"unexpected: extra\.bias"):
            use(origin, *arguments)


def test_a_run_without_an_average_gives_its_raw_parameters(tmp_path):
    run = finished(tmp_path / "run", **{"optim.ema_decay": "0"})
    options, networks = setting("stage2:micro", run)
    _, params = start(find_origin(options, networks), options, networks)
    assert all((leaf == 10).all() for leaf in jax.tree.leaves(params))


def test_a_run_beside_another_unet_is_refused(stage1):
    """The digest of the numbers counts, not the folder's name."""
    require_same_unet(None, "digest")
    require_same_unet(Origin(Saved(stage1), unet=None), "digest")  # a converted ControlNet
    origin = Origin(Saved(stage1 / "checkpoints" / "10", "ema"), unet="one")
    require_same_unet(origin, "one")
    with pytest.raises(UserError, match=r"its UNet had other numbers \(digest one, not other\)"):
        require_same_unet(origin, "other")
