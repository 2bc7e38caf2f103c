"""Encoding a dataset: right numbers, on any number of devices, stopped and gone on, or refused."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep import encode_latents
from data_prep.frame_batches import plan_batches
from posetraj_jax import pretrained
from posetraj_jax.conditioning import clip_images, to_pixels
from posetraj_jax.data import latent_file, pipeline
from posetraj_jax.data.sources import open_source
from posetraj_jax.errors import UserError
from posetraj_jax.models.networks import build_networks
from posetraj_jax.training import options
from tests import quick
from tests.encoded_clips import WITHOUT_BOX, config, write_clips
from tests.meshes import one_device

ROOT = Path(__file__).parents[2]
LENGTHS = (5, 3, 6, 2, 4)
ROUNDING = 2.0**-8
"""What bfloat16 is off by at most, relative; neighbouring numbers are twice as far apart."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), LENGTHS)


@pytest.fixture(scope="module")
def folder(clips, tmp_path_factory) -> Path:
    """Encoded on 8 devices, one frame each at a time."""
    out = tmp_path_factory.mktemp("latents") / "out"
    encode_latents.run(config(clips), out, 8)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_file_holds_what_the_encoders_say_of_each_frame(clips, folder):
    """By hand: the same weights on the frames of one clip."""
    o = options.from_config(config(clips))
    networks, source = build_networks(o.model), open_source(clips)
    key = pretrained.root_keys(0).frozen
    mesh = one_device()
    encoders = networks.encoders(pretrained.frozen_parameters(networks, mesh, "", key))

    @jax.jit
    def by_hand(frames):
        pixels = to_pixels(frames)
        images = clip_images(pixels, o.step.conditioning.image_statistics)
        return *encoders.moments(pixels), encoders.embed(images)

    for number in (0, WITHOUT_BOX):
        clip, length = source[number], LENGTHS[number]
        path = folder / f"{clip.clip_id}.safetensors"
        assert latent_file.read_contents(path).kinds == clip.frame_kinds
        for kind in clip.frame_kinds:
            frames, _ = pipeline.decode(clip, o.data, kind, 0, length)
            stored = latent_file.read(path, kind, 0, length)
            for got, exact in zip(stored[:3], by_hand(frames), strict=True):
                got, exact = got.astype(np.float32), np.asarray(exact)
                allowed = ROUNDING * np.abs(exact) + 1e-6
                assert (np.abs(got - exact) <= allowed).all()
                shifted = np.abs(got - np.roll(exact, 1, axis=0)) / allowed
                assert shifted.max() > 100  # the frames do differ
            np.testing.assert_array_equal(stored.thumbnail, latent_file.thumbnails(frames))
    boxed, clean = (
        latent_file.read(folder / "clip-000.safetensors", kind, 0, 5) for kind in ("boxed", "clean")
    )
    assert (boxed.image_embed != clean.image_embed).any(axis=1).all()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One device, and one cache of compiled programs for all processes of this file."""
    return {
        **os.environ,
        "XLA_FLAGS": quick.XLA_FLAGS,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }


def command(clips: Path, out: Path, *more: str) -> list[str]:
    base = [sys.executable, "-m", "data_prep.encode_latents", "--config", "configs/stage1.py:micro"]
    return [*base, f"--config.data.path={clips}", "--out", str(out), *more]


def finish(environment, *words) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*words), env=environment, cwd=ROOT, capture_output=True, text=True
    )


def test_one_device_gives_what_eight_give(clips, folder, environment, tmp_path):
    """Each device encodes one frame at a time in both."""
    done = finish(environment, clips, tmp_path / "one", "--frames_per_batch", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"--config.data.latents={tmp_path / 'one'}" in done.stdout
    assert contents(tmp_path / "one") == contents(folder)


@pytest.fixture(scope="module")
def sixty(environment, tmp_path_factory) -> tuple[Path, Path]:
    """Many clips, and their latents from a run that nobody stopped."""
    clips = write_clips(tmp_path_factory.mktemp("sixty"), tuple(3 + i % 7 for i in range(60)))
    out = tmp_path_factory.mktemp("straight") / "out"
    assert finish(environment, clips, out).returncode == 0
    return clips, out


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(environment, sixty, tmp_path, number):
    (clips, straight), out = sixty, tmp_path / "out"
    process = subprocess.Popen(
        command(clips, out), env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while len(list(out.glob("*.safetensors"))) < 3:
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    code, errors = process.wait(timeout=60), process.stderr.read()
    assert code == (-9 if number == signal.SIGKILL else 143)
    assert "Traceback" not in errors
    before = contents(out)
    assert 3 <= len(before) - 1 < 60
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / ".clip-059.safetensors.partial").write_bytes(b"half a file")
    assert finish(environment, clips, out).returncode == 0
    assert contents(out) == contents(straight)
    assert all(path.stat().st_mtime_ns == when for path, when in times.items())


def test_a_finished_folder_is_left_alone_and_a_broken_file_is_made_again(clips, folder, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    broken = out / "clip-003.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    encode_latents.run(config(clips), out, 8)
    assert contents(out) == contents(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data.resize": "bilinear"}, "resize: 'lanczos', not 'bilinear'"),
        ({"data.width": 128, "data.box_thickness": 1}, "box_thickness: 2, not 1(.|\n)*width: 64"),
        ({"conditioning.clip_range": "official"}, "clip_range: 'unit', not 'official'"),
        ({"model.dtype": "bfloat16"}, "dtype: 'float32', not 'bfloat16'"),
        ({"seed": 1}, "encoders: '.*', not '"),
    ],
)
def test_a_folder_of_other_settings_or_encoders_is_refused(clips, folder, fields, message):
    before = contents(folder)
    with pytest.raises(UserError, match=message):
        encode_latents.run(config(clips, **fields), folder, 8)
    assert contents(folder) == before


def test_the_stage_does_not_matter(clips, folder):
    before = contents(folder)
    encode_latents.run(config(clips, "stage2:micro"), folder, 8)
    assert contents(folder) == before


def test_a_full_disk_ends_in_one_message_and_keeps_what_is_finished(tmp_path):
    """Writes past a size limit fail like a full disk, in the middle of a file."""
    clips = write_clips(tmp_path / "clips", (2, 2, 12))
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises(UserError, match="make room and run the same command again"):
            encode_latents.run(config(clips), tmp_path / "out", 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    names = ["clip-000.safetensors", "clip-001.safetensors", "encoded.json"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    encode_latents.run(config(clips), tmp_path / "out", 8)
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*names, "clip-002.safetensors"])


def test_encoders_that_give_no_numbers_are_named(clips, tmp_path, monkeypatch):
    original = pretrained.frozen_parameters

    def spoilt(*args):
        parameters = original(*args)
        vae = dict(parameters.vae)
        vae["quant_conv"] = jax.tree.map(
            lambda leaf: jnp.full_like(leaf, jnp.nan), vae["quant_conv"]
        )
        return parameters._replace(vae=vae)

    monkeypatch.setattr(encode_latents.pretrained, "frozen_parameters", spoilt)
    with pytest.raises(UserError, match="no numbers for clip clip-000") as caught:
        encode_latents.run(config(clips), tmp_path / "out", 8)
    assert "clean frames: mean" in caught.value.got
    assert "image_embed" not in caught.value.got
    assert os.listdir(tmp_path / "out") == ["encoded.json"]


def test_a_damaged_clip_is_named(tmp_path):
    folder = write_clips(tmp_path / "clips", (2, 2))
    (shard,) = folder.glob("*array_record-*")
    data = bytearray(shard.read_bytes())
    data[600] ^= 255
    shard.write_bytes(data)
    with pytest.raises(UserError, match="Record 0 of"):
        encode_latents.run(config(folder), tmp_path / "out", 8)


def test_where_latents_go_if_nobody_says(clips, tmp_path):
    c = config(clips)
    folder = encode_latents._folder
    data = options.from_config(c).data
    assert folder(c, data, None) == clips / "latents"
    assert folder(c, data, tmp_path) == tmp_path
    c = config(clips, **{"data.latents": tmp_path / "there"})
    assert folder(c, options.from_config(c).data, None) == tmp_path / "there"
    with pytest.raises(UserError, match="add --out FOLDER"):
        encode_latents.main(["--config", "stage1:micro"])


@pytest.mark.parametrize(("size", "advice"), [(0, 8), (-3, 8), (9, 16), (12, 16)])
def test_batches_that_do_not_divide_are_refused(clips, tmp_path, size, advice):
    with pytest.raises(UserError, match=f"give --frames_per_batch {advice}$"):
        encode_latents.run(config(clips), tmp_path / "out", size)
    assert not (tmp_path / "out").exists()


def test_places_in_batches_do_not_depend_on_what_is_finished():
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(1, 9, rng.integers(1, 8)).tolist()
        size = int(rng.integers(1, 12))
        finished = (rng.random(len(lengths)) < 0.5).tolist()
        whole = plan_batches(lengths, [False] * len(lengths), size)
        frames = [
            (segment.clip, segment.start + i)
            for batch in whole
            for segment in batch
            for i in range(segment.count)
        ]
        assert frames == [(clip, t) for clip, length in enumerate(lengths) for t in range(length)]
        for batch in whole:
            rows = [row for segment in batch for row in range(size)[segment.rows]]
            assert rows == list(range(len(rows)))
        left = [[s for s in batch if not finished[s.clip]] for batch in whole]
        assert plan_batches(lengths, finished, size) == [batch for batch in left if batch]


def test_user_errors_exit_with_two_and_no_traceback(environment, clips, tmp_path):
    done = finish(environment, clips, tmp_path / "out", "--config.data.resize=cubic")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "data.resize" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
