"""An adapter run as a user has it: trained, stopped, resumed, and taken by all that takes a run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from convert_weights import flax_to_diffusers, oracle
from posetraj_jax import config, config_file, runs, tree, weights
from posetraj_jax.errors import UserError
from posetraj_jax.models import adapter
from posetraj_jax.models.networks import build_networks, options_of
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.sampling import load_model
from posetraj_jax.training import workdir
from posetraj_jax.training.options import initial_options
from posetraj_jax.training.origin import find_origin
from tests import quick
from tests.runs import filled, write_run

ROOT = Path(__file__).parents[1]
SPEC = "configs/stage3.py:v5e1,micro"
RANK = 8
FIELDS = {
    "adapter.rank": RANK,
    "eval.clips": 1,
    "eval.noise_levels": 1,
    "save.every": 1,
    "sample.clips": 0,
}


def networks_of(spec=SPEC, **fields):
    return build_networks(options_of(config.flatten(config_file.load(spec, fields)), "float32"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run leaves: 0.5 everywhere in the base, -0.1 in the average of what trained."""
    folder, networks = tmp_path_factory.mktemp("runs") / "adapter", networks_of()
    shapes = networks.controlnet.abstract()
    fields = {"adapter.rank": str(RANK), "steps": "10", "init_from": ""}
    write_run(folder, SPEC, adapter.abstract(shapes, RANK), saved=(10,), unit=0.01, **fields)
    workdir.keep_base(folder, filled(adapter.split(shapes)[1], 0.5), networks.controlnet)
    return folder


def test_sampling_takes_the_base_and_the_average_as_one(run):
    got = tree.flatten(load_model(controlnet=str(run)).parameters.controlnet)
    assert got.keys() == tree.flatten(networks_of().controlnet.abstract()).keys()
    for path, leaf in got.items():
        base = 0.5 + RANK * 0.1**2 if path.endswith("kernel") else 0.5
        expected = -0.1 if adapter.is_own(path) else base
        np.testing.assert_allclose(leaf, expected, rtol=1e-6, err_msg=path)


def test_the_next_run_starts_from_the_merged_controlnet(run):
    """As a whole one, or with an adapter of its own."""
    spec, fields = "stage3:micro", {"init_from": str(run), "init_stages": "3"}
    c = config_file.load(spec, fields)
    networks = networks_of(spec, **fields)
    origin = find_origin(initial_options(c), networks)
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=where),
        networks.controlnet.abstract(),
    )
    assert not tree.differences(target, origin.saved.types(networks.controlnet.abstract()))
    assert origin.saved.paths() == tree.flatten(target).keys()
    merged = origin.saved.load(target)
    sampled = load_model(controlnet=str(run)).parameters.controlnet
    jax.tree.map(np.testing.assert_array_equal, merged, sampled)


def test_an_export_is_the_merged_controlnet(run, tmp_path):
    stored = flax_to_diffusers._find(
        flax_to_diffusers._parser().parse_args([str(run), str(tmp_path / "out")])
    )["controlnet"]
    assert stored.saved == runs.find(run).saved
    oracle.unet(UNetConfig.micro()).save_pretrained(tmp_path / "svd" / "unet")
    arguments = [run, tmp_path / "out", "--svd", tmp_path / "svd", "--verify"]
    assert flax_to_diffusers.main([str(argument) for argument in arguments]) == 0


def sample(run):
    load_model(controlnet=str(run))


def resume(run):
    workdir.load_base(run, adapter.split(networks_of().controlnet.abstract())[1])


def start_the_next(run):
    c = config_file.load("stage3:micro", {"init_from": str(run), "init_stages": "3"})
    find_origin(initial_options(c), networks_of("stage3:micro"))


@pytest.mark.parametrize("use", [sample, resume, start_the_next])
def test_a_run_without_its_base_is_refused(run, tmp_path, use):
    lost = tmp_path / "run"
    shutil.copytree(run, lost)
    shutil.rmtree(lost / "base")
    with pytest.raises(UserError, match="what its adapter stands beside"):
        use(lost)


@pytest.mark.parametrize(
    ("spec", "fields", "words"),
    [
        ("svd_finetune:v5e1", {}, "stage 0 has no ControlNet"),
        ("stage3:v5e1,official", {}, "adapt random numbers"),
        ("stage3:v5e1", {"mesh.context": "2"}, "so mesh.context = 1"),
        ("stage3:v5e1", {"adapter.rank": "-1"}, "adapter.rank = -1"),
        ("stage3:v5e1", {"adapter.rank": "257"}, "adapter.rank = 257"),
    ],
)
def test_adapters_that_make_no_sense_are_refused(spec, fields, words):
    with pytest.raises(UserError) as caught:
        config_file.load(spec, fields)
    assert words in str(caught.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps at once, and one and another: two runs of stage 3 from the same run of stage 2."""
    folder = tmp_path_factory.mktemp("runs")
    shapes = networks_of("stage2:micro").controlnet.abstract()
    stage2 = write_run(folder / "stage2", "stage2:micro", shapes, unit=-1e-3, steps="10")
    environment = {
        **os.environ,
        "XLA_FLAGS": quick.XLA_FLAGS,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    }

    def run(name, steps):
        fields = FIELDS | {"init_from": stage2, "steps": steps}
        overrides = [f"--config.{field}={value}" for field, value in fields.items()]
        command = [sys.executable, "-m", "posetraj_jax.train", "--config", SPEC]
        command += ["--workdir", str(folder / name), *overrides]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    run("once", 2)
    run("twice", 1)
    shutil.move(stage2, folder / "gone")  # a run needs nothing of the one that it started from
    run("twice", 2)
    return folder


def parts(run, step=2):
    with ocp.StandardCheckpointer() as checkpointer:
        folder = run / "checkpoints" / str(step)
        return {
            name: checkpointer.restore(folder / name) for name in ("params", "opt_state", "ema")
        }


@pytest.mark.full
def test_checkpoints_hold_the_adapter_and_what_trains(trained):
    shapes = networks_of().controlnet.abstract()
    expected = adapter.abstract(shapes, RANK)
    saved = parts(trained / "once")
    for part in (saved["params"], saved["ema"]):
        assert not tree.differences(expected, part)
        ups = [leaf for path, leaf in tree.flatten(part).items() if path.endswith(".up")]
        assert any(np.any(up) for up in ups)  # they began at zero; constant kernels keep some there
    base = weights.stored_paths(trained / "once" / "base")
    assert base == tree.flatten(adapter.split(shapes)[1]).keys()


@pytest.mark.full
def test_stopped_and_resumed_is_uninterrupted_bitwise(trained):
    once, twice = parts(trained / "once"), parts(trained / "twice")
    jax.tree.map(np.testing.assert_array_equal, once, twice)
