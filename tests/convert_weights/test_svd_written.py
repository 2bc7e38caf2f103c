"""The target appears complete or not at all: whatever is there already, fills up or interrupts."""

import os
import signal
import subprocess
import sys
import time

import pytest

from convert_weights import tensor_files
from posetraj_jax import weights
from posetraj_jax.errors import UserError
from tests.convert_weights.published_folder import assert_holds, convert, mapped


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: path.write_text("mine"),
        lambda path: path.symlink_to("nowhere"),
    ],
    ids=["folder", "file", "dangling link"],
)
def test_what_exists_is_left_alone(published, tmp_path, make):
    target = tmp_path / "weights"
    make(target)
    before = target.lstat()
    with pytest.raises(UserError, match="a folder that does not exist yet"):
        convert(published, target)
    assert list(tmp_path.iterdir()) == [target]
    assert target.lstat().st_mtime_ns == before.st_mtime_ns


def test_a_target_below_a_file_is_refused(published, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        convert(published, tmp_path / "file" / "weights")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_a_killed_conversion_left_is_replaced(published, modules, tmp_path):
    (tmp_path / ".weights.partial").mkdir()
    (tmp_path / ".weights.partial" / "old").write_text("")
    convert(published, tmp_path / "weights", "--only", "vae")
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {"vae"}
    assert list(tmp_path.iterdir()) == [tmp_path / "weights"]
    assert_holds(tmp_path / "weights", "vae", mapped(modules, "vae"))


def test_a_failure_in_a_later_component_leaves_nothing(published, tmp_path, monkeypatch):
    save = weights.save

    def fail_on_vae(params, config, folder):
        save(params, config, folder)
        if folder.name == "vae":
            raise OSError("Input/output error")

    monkeypatch.setattr(weights, "save", fail_on_vae)
    with pytest.raises(UserError, match="Input/output error"):
        convert(published, tmp_path / "a" / "weights")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_while_it_is_read_leaves_nothing(published, tmp_path, monkeypatch):
    def reader(opened, name):
        def read():
            if name == "quant_conv.bias":
                raise OSError("Stale file handle")
            return opened.get_tensor(name)

        return read

    monkeypatch.setattr(tensor_files, "_reader", reader)
    with pytest.raises(UserError, match="Stale file handle"):
        convert(published, tmp_path / "weights", "--only", "vae")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk with room for a third of the VAE."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_small_disk_is_refused_before_anything_is_written(published, small_disk):
    with pytest.raises(UserError, match=r"2\.7 MB are needed, 1\.0 MB are free"):
        convert(published, small_disk / "weights", "--only", "vae")
    assert list(small_disk.iterdir()) == []


FULL = """
import shutil, sys
from convert_weights import svd_to_flax
from posetraj_jax.errors import run

plenty = shutil.disk_usage("/")._replace(free=10**12)
shutil.disk_usage = lambda path: plenty
run(lambda: svd_to_flax.main(sys.argv[1:]))
"""


def test_a_disk_that_fills_up_while_writing_is_left_empty(published, small_disk):
    done = subprocess.run(
        [sys.executable, "-c", FULL, published, small_disk / "weights"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr[-3000:]
    message = done.stderr[done.stderr.index("error: cannot write to") :]
    assert "No space left on device" in message
    assert message.endswith("make room, or choose another folder\n")
    assert list(small_disk.iterdir()) == []


SLOW = """
import sys
import orbax.checkpoint as ocp
from convert_weights import svd_to_flax
from posetraj_jax import weights
from posetraj_jax.errors import run

write = ocp.type_handlers.NumpyHandler._open_and_write

async def write_for_long(*args):
    for _ in range(100):
        await write(*args)

ocp.type_handlers.NumpyHandler._open_and_write = write_for_long
weights.GROUP_BYTES = 500_000
run(lambda: svd_to_flax.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_conversion_stopped_while_it_writes_leaves_nothing(published, tmp_path, number, code):
    target = tmp_path / "new" / "weights"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, published, target], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("new/.weights.partial/unet/params*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors[-3000:]
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
