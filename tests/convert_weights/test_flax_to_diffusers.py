"""From our format to PyTorch's: bitwise, complete, and computing the same."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import CLIPVisionModelWithProjection

from convert_weights import flax_to_diffusers, mapping, names, oracle, posetraj_to_flax, svd_to_flax
from convert_weights.components import COMPONENTS, write_config
from posetraj_jax import fingerprint, weights
from posetraj_jax.errors import UserError
from posetraj_jax.models.clip import CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNet, ControlNetConfig
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.models.vae import VAEConfig
from posetraj_jax.nn.build import build
from posetraj_jax.training.optimizer import split
from tests.parity import SMALL, denoiser_inputs, draw, paired, relative_error
from tests.published import write_published
from tests.runs import write_run

UNET = UNetConfig(**SMALL)
CONTROLNET = ControlNetConfig(
    **SMALL,
    conditioning_embedding_out_channels=(8, 16, 24, 40),
    residual_multiplicity=(1,) * 4,
    camera=True,
)
FILE = "diffusion_pytorch_model.safetensors"
CLASSES = {
    "unet": UNetSpatioTemporalConditionModel,
    "vae": AutoencoderKLTemporalDecoder,
    "image_encoder": CLIPVisionModelWithProjection,
}


@pytest.fixture(scope="module")
def svd(tmp_path_factory):
    """A published folder, every leaf redrawn."""
    folder = write_published(tmp_path_factory.mktemp("published") / "svd")
    oracle.redraw(oracle.unet(UNET), 0).save_pretrained(folder / "unet")
    oracle.redraw(oracle.vae(VAEConfig.tiny()), 1).save_pretrained(folder / "vae")
    oracle.redraw(oracle.clip(CLIPVisionConfig.tiny()), 2).save_pretrained(folder / "image_encoder")
    (folder / "model_index.json").write_text('{"_class_name": "StableVideoDiffusionPipeline"}')
    return folder


@pytest.fixture(scope="module")
def ours(svd, tmp_path_factory):
    """The same, converted, with a ControlNet beside it."""
    folder = tmp_path_factory.mktemp("converted") / "weights"
    svd_to_flax.main([str(svd), str(folder)])
    weights.save(controlnet_pair().params, config_json(CONTROLNET), folder / "controlnet")
    return folder


def controlnet_pair():
    network, twin = build(ControlNet, CONTROLNET), oracle.controlnet(CONTROLNET)
    return paired(network, twin, "controlnet", seed=3)


def config_json(config):
    components = COMPONENTS["controlnet"]
    return write_config(config, components)


def export(*arguments):
    assert flax_to_diffusers.main([str(argument) for argument in arguments]) == 0


def refused(tmp_path, *arguments):
    with pytest.raises(UserError) as caught:
        export(arguments[0], tmp_path / "out", *arguments[1:])
    assert not list(tmp_path.glob("*out*"))
    return str(caught.value)


def assert_equal(got, expected):
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_a_converted_pipeline_goes_back_bitwise_with_its_inert_tensors(svd, ours, tmp_path):
    export(ours, tmp_path / "out", "--svd", svd, "--only", "unet,vae,image_encoder")
    for name, cls in CLASSES.items():
        file = COMPONENTS[name].file + ".safetensors"
        assert_equal(load_file(tmp_path / "out" / name / file), load_file(svd / name / file))
        module, info = cls.from_pretrained(tmp_path / "out" / name, output_loading_info=True)
        assert not any(info.values()), info
        source = cls.from_pretrained(svd / name).state_dict()
        assert all(torch.equal(tensor, source[key]) for key, tensor in module.state_dict().items())
    made = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.json")}
    for path in ("model_index.json", "scheduler/scheduler_config.json"):
        assert (tmp_path / "out" / path).read_bytes() == (svd / path).read_bytes()
    assert "feature_extractor/preprocessor_config.json" in made


def test_and_back_again_bitwise(svd, ours, tmp_path):
    export(ours, tmp_path / "out", "--svd", svd)
    svd_to_flax.main([str(tmp_path / "out"), str(tmp_path / "again")])
    posetraj_to_flax.main(
        [str(tmp_path / "out" / "controlnet"), str(tmp_path / "again_controlnet")]
    )
    for name in (*CLASSES, "controlnet"):
        again = tmp_path / ("again_controlnet" if name == "controlnet" else f"again/{name}")
        component = COMPONENTS[name]
        config = weights.load_config(ours / name, component.config_cls)
        assert weights.load_config(again, component.config_cls) == config
        target = build(component.module_cls, config).abstract()
        before, after = (weights.load(folder, target) for folder in (ours / name, again))
        jax.tree.map(np.testing.assert_array_equal, before, after)


def test_an_exported_controlnet_drives_pytorch_to_the_same_videos(svd, ours, tmp_path):
    """ControlNet and UNet together, both exported, against ours."""
    export(ours, tmp_path / "out", "--svd", svd, "--only", "controlnet,unet")
    module = oracle.load(
        oracle.controlnet(CONTROLNET), load_file(tmp_path / "out" / "controlnet" / FILE)
    )
    unet = oracle.load(oracle.unet(UNET), load_file(tmp_path / "out" / "unet" / FILE))
    inputs, maps = denoiser_inputs(UNET, 2, 3, 4, 8), draw(9, 2, 3, 32, 64, 3).clip(-1, 1)
    camera = draw(10, 2, 3, 12)
    residuals = oracle.run_controlnet(module, *inputs, maps, camera_rt=camera)
    expected = oracle.run_unet(unet, *inputs, residuals=residuals)
    got = run_ours(CONTROLNET, ours / "controlnet", ours / "unet", inputs, maps, camera)
    assert relative_error(got, expected) <= 1e-4
    assert relative_error(oracle.run_unet(unet, *inputs), expected) > 0.01


def run_ours(config, controlnet_folder, unet_folder, inputs, maps, camera):
    controlnet, unet = build(ControlNet, config), build(UNet, UNET)
    params = weights.load(controlnet_folder, controlnet.abstract())
    unet_params = weights.load(unet_folder, unet.abstract())

    def call(params, unet_params, inputs, maps, camera):
        features = controlnet.apply(params, maps, camera, method="encode_maps")
        return unet.apply(unet_params, *inputs, controlnet.apply(params, *inputs, features))

    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(call)(params, unet_params, inputs, maps, camera))


@pytest.mark.full
def test_scaled_for_the_official_unet_its_sums_are_ours(svd, ours, tmp_path):
    export(ours, tmp_path / "out", "--svd", svd, "--only", "controlnet", "--official_unet")
    made = tmp_path / "out" / "controlnet"
    assert json.loads((made / "config.json").read_text())["residual_multiplicity"] == [2, 2, 2, 1]
    module = oracle.load(oracle.controlnet(CONTROLNET), load_file(made / FILE))
    unet = oracle.load(oracle.unet(UNET), load_file(svd / "unet" / FILE))
    inputs, maps = denoiser_inputs(UNET, 2, 3, 4, 8), draw(9, 2, 3, 32, 64, 3).clip(-1, 1)
    camera = draw(10, 2, 3, 12)
    residuals = oracle.run_controlnet(module, *inputs, maps, camera_rt=camera)
    expected = oracle.run_unet(unet, *inputs, residuals=residuals, cumulative=True)
    got = run_ours(CONTROLNET, ours / "controlnet", ours / "unet", inputs, maps, camera)
    assert relative_error(got, expected) <= 1e-4
    once = oracle.run_unet(unet, *inputs, residuals=residuals)
    assert relative_error(once, expected) > 0.01


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the tiny variant with two checkpoints; raw parameters and average differ."""
    folder = tmp_path_factory.mktemp("runs") / "stage1-tiny"
    shapes = build(ControlNet, ControlNetConfig.tiny()).abstract()
    return write_run(folder, "stage1:tiny", shapes, **{"model.temporal_context": "interleaved"})


@pytest.fixture(scope="module")
def tiny_svd(tmp_path_factory):
    folder = write_published(tmp_path_factory.mktemp("published") / "svd")
    oracle.redraw(oracle.unet(UNetConfig.tiny()), 0).save_pretrained(folder / "unet")
    return folder


@pytest.mark.parametrize(
    ("options", "value"), [([], -10), (["--raw"], 10), (["--step", "5"], -5)], ids=str
)
def test_a_run_gives_its_average_or_its_raw_parameters(run, tiny_svd, tmp_path, options, value):
    export(run, tmp_path / "out", "--svd", tiny_svd, *options)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["controlnet"]
    state = load_file(tmp_path / "out" / "controlnet" / FILE)
    inert = {n for n in state if names.inert_reason(n, "controlnet")}
    assert inert
    assert all((array == value).all() for name, array in state.items() if name not in inert)
    source = load_file(tiny_svd / "unet" / FILE)
    assert_equal({name: state[name] for name in inert}, {name: source[name] for name in inert})
    config = json.loads((tmp_path / "out" / "controlnet" / "config.json").read_text())
    assert config["temporal_context"] == "interleaved"
    assert config["_class_name"] == "ControlNetSDVModel"
    assert len(config["up_block_types"]) == len(config["down_block_types"])


@pytest.mark.parametrize("part", ["all", pytest.param("temporal", marks=pytest.mark.full)])
def test_a_fine_tuned_unet_goes_back_to_diffusers(tiny_svd, tmp_path, part):
    """What trained from the run, the rest from its weights, the inert leaves as published."""
    svd_to_flax.main([str(tiny_svd), str(tmp_path / "w"), "--dtype", "bfloat16", "--only", "unet"])
    unet = build(UNet, UNetConfig.tiny()).abstract()
    fields = {"trainable": part, "weights": str(tmp_path / "w")}
    fields["unet"] = fingerprint.of_unet(unet_of(tmp_path / "w"))
    run = write_run(
        tmp_path / "r", "svd_finetune:tiny", split(unet, part)[0], unit=1 / 64, **fields
    )
    proof = ["--verify"] if part == "temporal" else []
    export(run, tmp_path / "out", "--svd", tiny_svd, *proof)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["unet"]
    source = load_file(tiny_svd / "unet" / FILE)
    trained = set(mapping.to_torch(split(unet_of(tmp_path / "w"), part)[0], "unet"))
    for name, array in load_file(tmp_path / "out" / "unet" / FILE).items():
        if names.inert_reason(name, "unet"):
            np.testing.assert_array_equal(array, source[name])
        elif name in trained:
            assert (array == -10 / 64).all(), name
        else:
            rounded = torch.from_numpy(source[name]).bfloat16().float().numpy()
            np.testing.assert_array_equal(array, rounded, err_msg=name)
    assert (trained == set(source)) == (part == "all")
    UNetSpatioTemporalConditionModel.from_pretrained(tmp_path / "out" / "unet")


def test_a_part_goes_only_beside_what_it_was_trained_beside(tiny_svd, tmp_path):
    svd_to_flax.main([str(tiny_svd), str(tmp_path / "w"), "--only", "unet"])
    temporal, _ = split(build(UNet, UNetConfig.tiny()).abstract(), "temporal")
    fields = {"trainable": "temporal", "weights": str(tmp_path / "w"), "unet": "of another"}
    run = write_run(tmp_path / "r", "svd_finetune:tiny", temporal, **fields)
    message = refused(tmp_path, run, "--svd", tiny_svd)
    assert "are not those that a part was trained beside" in message
    assert "the digest of another" in message


def unet_of(folder):
    target = build(UNet, UNetConfig.tiny()).abstract()
    return weights.load(folder / "unet", weights.unsharded(target, jnp.float32))


def test_a_part_of_random_networks_cannot_be_exported(tiny_svd, tmp_path):
    temporal, _ = split(build(UNet, UNetConfig.tiny()).abstract(), "temporal")
    run = write_run(tmp_path / "r", "svd_finetune:tiny", temporal, trainable="temporal")
    assert "drew them at random" in refused(tmp_path, run, "--svd", tiny_svd)
    assert "no weights in" in refused(
        tmp_path, run, "--svd", tiny_svd, "--weights", tmp_path / "nowhere"
    )


def test_only_linear_camera_branches_are_pytorchs(tiny_svd, tmp_path):
    shapes = build(ControlNet, ControlNetConfig.tiny(camera=True, camera_encoder="mlp")).abstract()
    run = write_run(tmp_path / "r", "stage3:tiny", shapes, **{"camera.encoder": "mlp"})
    assert "camera.encoder = mlp" in refused(tmp_path, run, "--svd", tiny_svd)


def test_stored_types_are_kept(svd, tmp_path):
    svd_to_flax.main([str(svd), str(tmp_path / "half"), "--dtype", "bfloat16", "--only", "unet"])
    export(tmp_path / "half", tmp_path / "out", "--svd", svd)
    source = load_file(svd / "unet" / FILE)
    with safe_open(tmp_path / "out" / "unet" / FILE, framework="pt") as made:
        assert made.metadata() == {"format": "pt"}
        assert set(made.keys()) == set(source)
        for name in made.keys():  # noqa: SIM118 - it is no dict
            tensor = made.get_tensor(name)
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, torch.from_numpy(source[name]).bfloat16()), name


def test_verify_proves_the_export(ours, svd, tmp_path, capsys):
    export(ours, tmp_path / "a", "--svd", svd, "--only", "controlnet", "--verify")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "largest" in line]
    assert 0 < float(line.split()[-1]) <= 1e-4


def test_scaled_taps_are_exact_also_from_bfloat16(ours, svd, tmp_path, capsys):
    """A third of a bfloat16 number is none: deeper networks divide by three."""
    config = ControlNetConfig.tiny(residual_multiplicity=(1, 2, 3, 3, 3, 3, 3, 1))
    module = oracle.redraw(oracle.controlnet(config), 6)
    network = build(ControlNet, config)
    params = mapping.from_torch(oracle.state(module), network.abstract(), "controlnet")
    weights.save(weights.cast(params, "bfloat16"), config_json(config), tmp_path / "w")
    oracle.redraw(oracle.unet(UNetConfig.tiny()), 0).save_pretrained(tmp_path / "svd" / "unet")
    options = ("--svd", tmp_path / "svd", "--official_unet", "--verify")
    export(tmp_path / "w", tmp_path / "out", *options)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "largest" in line]
    assert float(line.split()[-1]) <= 1e-4


def test_one_component_alone_may_be_given(ours, svd, tmp_path):
    export(ours / "vae", tmp_path / "a")
    export(ours / "controlnet", tmp_path / "b", "--svd", svd)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["vae"]
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["controlnet"]
    twin = mapping.to_torch(controlnet_pair().params, "controlnet")
    state = load_file(tmp_path / "b" / "controlnet" / FILE)
    assert state.keys() == twin.keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ours"], "--svd is missing: the unet and the controlnet"),
        (["ours", "--only", "vae,clip"], "no such component"),
        (["ours", "--only", ""], "no such component"),
        (["nothing"], "has no parameters of ours"),
        (["ours", "--only", "vae", "--raw"], "SRC is none"),
        (["run", "--svd", "tiny_svd", "--weights", "w"], "of which a part was trained; none is"),
        (["ours", "--only", "vae", "--official_unet"], "none is exported"),
        (["ours", "--svd", "nothing"], "no such folder"),
        (["ours", "--svd", "tiny_svd"], "is not the model these parameters come from"),
        (["run", "--svd", "svd"], "is not the model these parameters come from"),
        (["run", "--svd", "tiny_svd", "--step", "7"], "5, 10"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_exported_is_named(request, tmp_path, arguments, words):
    fixtures = ("ours", "run", "svd", "tiny_svd")
    given = [request.getfixturevalue(a) if a in fixtures else a for a in arguments]
    assert words in refused(tmp_path, *given)


def test_damaged_sources_are_named(ours, run, tiny_svd, tmp_path):
    spoilt = shutil.copytree(ours / "vae", tmp_path / "w" / "vae").parent
    config = json.loads((spoilt / "vae" / "config.json").read_text())
    (spoilt / "vae" / "config.json").write_text(json.dumps(config | {"latent_channels": 5}))
    assert "wrong shape: quant_conv" in refused(tmp_path, spoilt)
    (spoilt / "vae" / "config.json").write_text("{")
    assert "cannot read" in refused(tmp_path, spoilt)
    spoilt = shutil.copytree(run, tmp_path / "r")
    (spoilt / "config.json").write_text('{"config": {"model.variant": "huge"}}')
    assert "cannot use" in refused(tmp_path, spoilt, "--svd", tiny_svd)
    shutil.rmtree(spoilt / "checkpoints" / "10" / "ema" / "d")
    (spoilt / "config.json").write_bytes((run / "config.json").read_bytes())
    assert "cannot read the weights" in refused(tmp_path, spoilt, "--svd", tiny_svd)
    for step in (5, 10):
        shutil.rmtree(spoilt / "checkpoints" / str(step))
    assert "at least one complete checkpoint" in refused(tmp_path, spoilt, "--svd", tiny_svd)


def test_a_disk_that_fills_up_leaves_nothing(ours, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise flax_to_diffusers.SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(flax_to_diffusers, "save_file", refuse)
    assert "No space left" in refused(tmp_path, ours, "--only", "vae")
