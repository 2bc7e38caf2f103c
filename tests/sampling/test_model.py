"""Where the networks come from: random ones, a run, converted weights; and what does not fit."""

from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import config, config_file, fingerprint, pretrained, sharding, tree, weights
from posetraj_jax.errors import UserError
from posetraj_jax.models.networks import build_networks, options_of
from posetraj_jax.sampling import TINY, generate, load_model
from tests.published import write_published
from tests.runs import write_run

SPEC = "configs/stage1.py:micro"
CAMERA = "configs/stage3.py:micro"


def networks_of(spec=SPEC, **fields):
    c = config_file.load(spec, fields)
    return build_networks(options_of(config.flatten(c), "float32"))


@pytest.fixture
def run(tmp_path):
    """A run of the narrowest networks; averaged parameters are -10, raw ones 10."""
    return write_run(tmp_path / "run", SPEC, networks_of().controlnet.abstract(), seed="3")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Converted weights of the narrowest networks, with a ControlNet."""
    folder = write_published(tmp_path_factory.mktemp("weights"))
    for name, network in networks_of()._asdict().items():
        params = jax.tree.map(np.asarray, network.init(jax.random.key(5)))
        weights.save(params, asdict(network.config), folder / name)
    return folder


def test_a_run_alone_brings_its_random_networks(run):
    model = load_model(controlnet=str(run))
    frozen = pretrained.frozen_parameters(
        model.networks, model.mesh, "", pretrained.root_keys(3).frozen
    )
    for name in pretrained.READY:
        jax.tree.map(
            np.testing.assert_array_equal, getattr(model.parameters, name), getattr(frozen, name)
        )
    assert {float(leaf.ravel()[0]) for leaf in jax.tree.leaves(model.parameters.controlnet)} == {
        -10.0
    }
    assert model.is_random
    assert model.said["controlnet"].endswith("checkpoints/10")


def test_a_checkpoint_of_a_run_can_be_chosen(run):
    model = load_model(TINY, str(run / "checkpoints/5"))
    assert float(jax.tree.leaves(model.parameters.controlnet)[0].ravel()[0]) == -5.0


def test_the_conditioning_is_that_of_the_run(tmp_path):
    fields = {"conditioning.time_ids": "official", "conditioning.noise_aug_strength": "0.3"}
    shapes = networks_of(**fields).controlnet.abstract()
    folder = write_run(tmp_path / "run", SPEC, shapes, **fields)
    options = load_model(controlnet=str(folder)).conditioning
    assert (options.time_ids, options.noise_aug_strength) == ("official", 0.3)
    assert options.camera is None


def test_a_run_with_a_camera_branch_reads_cameras(tmp_path):
    fields = {"init_from": "", "data.path": "shipped_videos"}
    networks = networks_of(CAMERA, **fields)
    folder = write_run(tmp_path / "run", CAMERA, networks.controlnet.abstract(), **fields)
    model = load_model(controlnet=str(folder))
    assert model.networks.controlnet.config.camera
    assert model.conditioning.camera.normalise == "relative"


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_converted_weights_bring_their_controlnet(converted, dtype):
    model = load_model(str(converted), dtype=dtype)
    assert not model.is_random
    assert {leaf.dtype for leaf in jax.tree.leaves(model.parameters)} == {jnp.dtype(dtype)}
    for name, network in networks_of()._asdict().items():
        expected = weights.cast(network.init(jax.random.key(5)), dtype)
        jax.tree.map(np.testing.assert_array_equal, getattr(model.parameters, name), expected)
    small = {"height": 64, "width": 64, "num_frames": 2, "num_inference_steps": 1}
    video = generate(np.zeros((64, 64, 3), np.uint8), [[9.0, 9.0], [50.0, 50.0]], model, **small)
    assert video.frames_uint8.shape == (2, 64, 64, 3)


def test_weights_are_split_over_devices_and_never_whole_on_one(converted):
    model = load_model(str(converted), fsdp=4)
    assert dict(model.mesh.shape) == {"data": 2, "fsdp": 4, "context": 1}
    kernel = tree.flatten(model.parameters.unet)["conv_in.kernel"]
    assert kernel.addressable_shards[0].data.shape[-1] == kernel.shape[-1] // 4
    assert sharding.batch_shards(model.mesh) == 8


@pytest.mark.full
def test_a_run_fits_its_own_unet_only(run, converted, tmp_path):
    with pytest.raises(UserError, match=r"beside another UNet(.|\n)*random ones"):
        load_model(str(converted), str(run))
    networks = networks_of()
    unet = fingerprint.of_unet(networks.unet.init(jax.random.key(5)))
    fields = {"weights": str(converted)}
    shapes = networks.controlnet.abstract()
    beside = write_run(tmp_path / "beside", SPEC, shapes, unet=unet, **fields)
    for given in ("", str(converted)):
        model = load_model(given, str(beside))
        assert model.said["weights"] == str(converted)
    with pytest.raises(UserError, match="beside another UNet"):
        load_model(TINY, str(beside))


def test_what_is_no_controlnet_is_named(tmp_path, converted):
    (tmp_path / "file").touch()
    for given, got in (("nowhere", "nothing"), ("", "another folder"), ("file", "a file")):
        with pytest.raises(UserError, match=f"is no ControlNet(.|\n)*{got}"):
            load_model(TINY, str(tmp_path / given))
    networks = networks_of("configs/svd_finetune.py:micro")
    tuned = write_run(tmp_path / "tuned", "configs/svd_finetune.py:micro", networks.unet.abstract())
    with pytest.raises(UserError, match="which trained the unet"):
        load_model(TINY, str(tuned))
    with pytest.raises(UserError, match="needs the networks that it steers"):
        load_model(TINY, str(converted / "controlnet"))


def test_weights_without_a_controlnet_are_named(converted, tmp_path):
    (tmp_path / "weights").symlink_to(converted)
    folder = tmp_path / "bare"
    folder.mkdir()
    for entry in converted.iterdir():
        if entry.name != "controlnet":
            (folder / entry.name).symlink_to(entry)
    with pytest.raises(UserError, match="tracks would steer nothing"):
        load_model(str(folder))


def test_without_weights_nothing_is_guessed():
    with pytest.raises(UserError, match=r"no weights to sample with(.|\n)*or --weights tiny"):
        load_model()


def test_a_converted_controlnet_alone_lacks_the_networks(converted):
    with pytest.raises(UserError, match="needs the networks that it steers"):
        load_model(controlnet=str(converted / "controlnet"))


def test_what_is_no_folder_of_weights_is_named(tmp_path, converted):
    (tmp_path / "file").touch()
    (tmp_path / "other/unet").mkdir(parents=True)
    for name, got in (
        ("nowhere", "nothing"),
        ("file", "a file"),
        ("other", "without unet/params, vae/params, image_encoder/params"),
    ):
        for controlnet in ("", str(converted / "controlnet")):
            words = rf"{name} holds no weights to sample with(.|\n)*{got}(.|\n)*correct --weights"
            with pytest.raises(UserError, match=words):
                load_model(str(tmp_path / name), controlnet)


def test_weights_that_a_run_names_and_that_have_moved_are_named(tmp_path):
    shapes = networks_of().controlnet.abstract()
    folder = write_run(tmp_path / "run", SPEC, shapes, weights=str(tmp_path / "gone"))
    words = r"gone holds no weights(.|\n)*say with --weights where those of .*run/checkpoints/10"
    with pytest.raises(UserError, match=words):
        load_model(controlnet=str(folder))


@pytest.mark.parametrize("fsdp", [0, -1, 3, 16, 10**400])
def test_weights_are_split_over_a_divisor_of_the_devices_only(fsdp):
    with pytest.raises(UserError, match=r"--fsdp 1 or 2 or 4 or 8(.|\n)*change --fsdp"):
        load_model(TINY, fsdp=fsdp)


def test_other_types_are_refused():
    with pytest.raises(UserError, match="auto or bfloat16 or float32"):
        load_model(TINY, dtype="int8")


def test_random_networks_start_silent():
    """A fresh ControlNet adds nothing, so the tracks of a tiny model steer nothing yet."""
    model = load_model(TINY)
    zero = tree.flatten(model.parameters.controlnet)["controlnet_mid_block.kernel"]
    assert not np.any(zero)
