"""Training as a user runs it: end to end, stopped, resumed bitwise, and refused when wrong."""

import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from posetraj_jax import config_file, stages, train, weights
from posetraj_jax.data.records import write_dataset
from posetraj_jax.errors import UserError
from posetraj_jax.models.networks import ModelOptions, build_networks
from posetraj_jax.training.profiling import Steps
from tests import quick
from tests.data.clips import make_clip
from tests.published import write_published
from tests.runs import write_run
from tests.training.traces import traced_steps

ROOT = Path(__file__).parents[1]
SMALL = {
    "log.every": 1,
    "eval.every": 3,
    "eval.clips": 2,
    "save.every": 100,
    "sample.clips": 1,
    "sample.steps": 2,
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One device, and one cache of compiled programs for all runs of this file."""
    cache = tmp_path_factory.mktemp("compiled")
    return {
        **os.environ,
        "XLA_FLAGS": quick.XLA_FLAGS,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    }


@pytest.fixture(scope="module")
def stage2(tmp_path_factory):
    """A finished run of stage 2, for stage 3 to start from."""
    shapes = build_networks(ModelOptions("micro", (1,) * 4)).controlnet.abstract()
    folder = tmp_path_factory.mktemp("runs") / "stage2"
    return write_run(folder, "stage2:micro", shapes, unit=-1e-3, steps="10")


def command(workdir: Path, **fields) -> list[str]:
    """Stage 3, which has all that the others have, on the shipped videos."""
    overrides = [f"--config.{name}={value}" for name, value in {**SMALL, **fields}.items()]
    base = [sys.executable, "-m", "posetraj_jax.train", "--config", "configs/stage3.py:micro"]
    return [*base, "--workdir", str(workdir), *overrides]


def finish(workdir: Path, environment, *options: str, **fields) -> str:
    done = subprocess.run(
        [*command(workdir, **fields), *options],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def again(workdir: Path, **fields) -> int:
    """The same command in this process, for what ends before anything is compiled."""
    overrides = {name: str(value) for name, value in {**SMALL, **fields}.items()}
    return train.run(config_file.load("configs/stage3.py:micro", overrides), workdir)


def stop_after(workdir: Path, environment, step: int, **fields) -> None:
    """Sends SIGTERM once `step` is logged; the run must save and exit 143."""
    process = subprocess.Popen(
        command(workdir, **fields), env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while not any(row["step"] >= step for row in rows(workdir)):
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143


def rows(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def final_state(workdir: Path, step: int):
    folder = workdir / "checkpoints" / str(step)
    with ocp.StandardCheckpointer() as checkpointer:
        return {
            part: checkpointer.restore(folder / part) for part in ("params", "opt_state", "ema")
        }


def test_interrupted_equals_uninterrupted_bitwise(environment, stage2, tmp_path, capsys):
    """8 steps = some steps + SIGTERM + resume: numbers, data order and metrics."""
    start = {"init_from": stage2}
    printed = finish(tmp_path / "straight", environment, "--profile_steps=4:5", steps=8, **start)
    stop_after(tmp_path / "parts", environment, step=3, steps=8, **start)
    stopped_at = max(int(p.name) for p in (tmp_path / "parts/checkpoints").iterdir())
    assert 3 <= stopped_at < 8
    finish(tmp_path / "parts", environment, steps=8, **start)

    straight, parts = (final_state(tmp_path / name, 8) for name in ("straight", "parts"))
    jax.tree.map(np.testing.assert_array_equal, straight, parts)
    losses = [
        {row["step"]: row["train/loss"] for row in rows(tmp_path / name) if row["step"]}
        for name in ("straight", "parts")
    ]
    assert losses[0] == losses[1]
    assert sorted(losses[0]) == list(range(1, 9))

    for row in rows(tmp_path / "straight"):
        if row["step"]:
            assert {"step", "train/loss", "clips_per_second"} <= row.keys()
    evaluated = [row["step"] for row in rows(tmp_path / "straight") if "eval/loss" in row]
    assert evaluated == [0, 3, 6, 8]
    for name in ("loss.png", "metrics.jsonl", "checkpoints", "samples/step_000008"):
        assert (tmp_path / "straight" / name).exists()
        assert name in printed
    assert list((tmp_path / "straight").glob("samples/step_000008/*.gif"))

    _assert_stage_3(tmp_path / "straight", printed)
    _assert_observed(tmp_path / "straight", printed)
    assert not (tmp_path / "parts" / "profile").exists()

    # A finished run that is run again has nothing to do and says where everything is.
    assert again(tmp_path / "straight", steps=8, **start) == 0
    assert "finished at step 8" in capsys.readouterr().out
    assert again(tmp_path / "straight", steps=5, **start) == 0  # nor if fewer steps would do
    assert "finished at step 8" in capsys.readouterr().out
    # Anything else than schedules and meshes may not change.
    with pytest.raises(UserError, match="seed: was 0, is 5"):
        again(tmp_path / "straight", steps=8, seed=5, **start)


def _assert_observed(run: Path, printed: str) -> None:
    """Rows say where the time went, that the step was compiled once, and what is not known."""
    first, *later = (row for row in rows(run) if row["step"])
    assert first["time/first_step"] > first["time/evaluate"] > 0
    for row in later:
        assert 0 <= row["time/data"] < row["time/step"]
        assert row["time/data_share"] == pytest.approx(row["time/data"] / row["time/step"])
        assert row["clips_per_second"] == pytest.approx(1 / row["time/step"])
    assert [row["compilations"] for row in (first, *later)] == [1] * 8
    by_step = {row["step"]: row for row in later}
    for name in ("time/evaluate", "time/log"):
        assert by_step[4][name] > 0  # that of step 3 comes after its row
    assert first["utilisation"] is first["memory/device_peak"] is None
    assert all(row["memory/host"] > 1e8 for row in later)
    assert "utilisation: not known" in printed
    assert "device memory: not told by this backend" in printed
    assert re.search(r"\n7 steps in [\d.]+ s, of which [\d.]+ s waiting for data", printed)
    assert traced_steps(run / "profile") == [4, 5]


def _assert_stage_3(run: Path, printed: str) -> None:
    """What is new is named, the camera is learnt, bands and samples are shown, and the table."""
    projection = "controlnet_cond_embedding.cc_projection"
    assert f"newly initialised: {projection}.bias, {projection}.kernel" in printed
    branch = final_state(run, 8)["params"]["controlnet_cond_embedding"]["cc_projection"]
    assert np.abs(branch["kernel"][64:]).max() > 0
    last = rows(run)[-1]
    bands = [name for name in last if name.startswith("eval/loss_sigma_")]
    assert len(bands) == 2
    assert last["eval/loss"] == pytest.approx(np.mean([last[name] for name in bands]), rel=1e-5)
    assert last["train/loss_spa"] > 0
    (sheet,) = (run / "samples" / "step_000008").glob("*.png")
    events = b"".join(path.read_bytes() for path in (run / "tensorboard").iterdir())
    assert f"sample/{sheet.stem}".encode() in events
    row = stages.read_row(run)
    assert (row.stage, row.origin, row.steps) == (3, "stage2", 8)
    assert row.cells[:4] == ("3", "straight", "stage2", "8")
    assert stages.table([row]).splitlines()[0].startswith("stage  run")


def test_runs_without_evaluations_make_no_table(stage2, tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        stages.read_row(tmp_path / "nothing")
    with pytest.raises(UserError, match="run its command again until it ends"):
        stages.read_row(stage2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_dataset([make_clip(i) for i in range(8)], folder)
    return folder


def run(tmp_path, spec="stage1:micro", **fields):
    """Trains in this process on all fake devices; good for what is refused before compiling."""
    fields = {"batch_size": 8, **SMALL, **fields}
    c = config_file.load(spec, {name: str(value) for name, value in fields.items()})
    return train.run(c, tmp_path / "run")


def test_no_weights_and_no_data_names_the_commands(tmp_path):
    with pytest.raises(UserError) as caught:
        run(tmp_path, "stage1")
    for words in ("convert_weights.svd_to_flax", "data_prep.render_posetraj10k", "stage1.py:tiny"):
        assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_no_data_leaves_no_workdir(tmp_path, kind):
    folder = tmp_path / "data"
    if kind == "empty":
        folder.mkdir()
    with pytest.raises(UserError, match="data"):
        run(tmp_path, **{"data.path": folder})
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide(tmp_path):
    with pytest.raises(UserError, match="batch_size = 3"):
        run(tmp_path, batch_size=3)


def test_more_evaluation_clips_than_clips(tmp_path, clips):
    with pytest.raises(UserError, match="not enough clips"):
        run(tmp_path, **{"data.path": clips, "eval.clips": 9})


def test_a_workdir_below_a_file(tmp_path, clips):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="cannot write to the workdir"):
        run(tmp_path, **{"data.path": clips})
    assert (tmp_path / "run").read_text() == "a file"


def test_weights_of_another_variant_are_named(tmp_path):
    """The micro UNet's tree with one kernel of another shape and one leaf missing."""
    networks = build_networks(ModelOptions("micro", (1,) * 4))
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), networks.unet.abstract())
    params["conv_in"]["kernel"] = np.zeros((3, 3, 8, 320), np.float32)
    del params["conv_out"]["bias"]
    folder = write_published(tmp_path / "weights")
    for name in ("unet", "vae", "image_encoder"):
        config = dataclasses.asdict(getattr(networks, name).config)
        weights.save(params, config, folder / name)
    with pytest.raises(UserError) as caught:
        run(tmp_path, weights=tmp_path / "weights")
    assert "missing: conv_out.bias" in str(caught.value)
    assert "wrong shape: conv_in.kernel" in str(caught.value)
    assert "model.variant" in str(caught.value)
    assert not (tmp_path / "run").exists()
    config |= {"patch_size": 16}
    (folder / "image_encoder" / weights.CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="patch_size: 16, not 32"):
        run(tmp_path, weights=folder)


def test_a_camera_stage_without_any_camera_is_refused(tmp_path):
    write_dataset([make_clip(i)._replace(camera_known=False) for i in range(8)], tmp_path / "clips")
    fields = {"data.path": tmp_path / "clips", "data.track_kinds": "floor", "init_from": ""}
    with pytest.raises(UserError, match="no camera is known"):
        run(tmp_path, "stage3:micro", **fields)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["not json", '{"config": 3}', "\xff"])
def test_a_damaged_record_of_the_run_is_named(tmp_path, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        run(tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_every_command_that_is_named_exists():
    """README, changelog and messages name modules to run; a newcomer will type them."""
    texts = [(ROOT / name).read_text() for name in ("README.md", "CHANGELOG.md")]
    texts += [path.read_text() for path in (ROOT / "posetraj_jax").rglob("*.py")]
    named = {
        name for text in texts for name in re.findall(r"python -m ([a-z_0-9.]+[a-z_0-9])", text)
    }
    assert {"convert_weights.svd_to_flax", "data_prep.render_posetraj10k"} <= named
    assert not [name for name in named if importlib.util.find_spec(name) is None]


def test_steps_to_trace_are_checked_before_anything_is_made(stage2, tmp_path):
    c = config_file.load("configs/stage3.py:micro", {"init_from": str(stage2), "steps": "8"})
    with pytest.raises(UserError, match="this run does steps 1 to 8"):
        train.run(c, tmp_path / "run", Steps(7, 9))
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_compile_only_prints_the_plan_and_leaves_no_run(environment, tmp_path):
    """As `plan` does, in a process that starts no backend but the one asked for."""
    here = [sys.executable, "-m"]
    config = ["--config", "stage1:micro", "--config.batch_size=2"]
    caches = environment | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    (tmp_path / "here").mkdir()
    printed = [
        subprocess.run(
            [*here, *given, *config, "--topology=cpu:2"],
            env=caches,
            cwd=tmp_path / "here",
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for given in (["posetraj_jax.train", "--compile_only"], ["posetraj_jax.plan"])
    ]
    assert printed[0] == printed[1]
    assert printed[0].startswith("# stage1:micro batch_size=2 on cpu:2\n")
    assert "2 clips per optimizer step: 1 per device" in printed[0]
    assert not list((tmp_path / "here").iterdir())


def test_user_errors_exit_with_two_and_no_traceback(environment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "posetraj_jax.train", "--config", "stage1:tinny"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "did you mean tiny?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
