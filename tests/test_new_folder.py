"""A folder appears complete or not at all, whatever ends the writing."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.new_folder import new_folder


def test_it_appears_when_the_block_ends(tmp_path):
    with new_folder(tmp_path / "a" / "b") as partial:
        (partial / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["a", "a/b", "a/b/x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_by_an_exception(tmp_path, error):
    def write():
        with new_folder(tmp_path / "a" / "b") as partial:
            (partial / "x").write_text("1")
            raise error

    with pytest.raises(error):
        write()
    assert list(tmp_path.iterdir()) == []


def test_parents_that_were_there_stay(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="no"), new_folder(tmp_path / "a" / "b" / "c"):
        raise ValueError("no")
    assert [p.name for p in tmp_path.rglob("*")] == ["a"]


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.symlink_to("nowhere")])
def test_what_exists_is_refused_and_left_alone(tmp_path, make):
    make(tmp_path / "a")
    with pytest.raises(UserError, match="does not exist yet"), new_folder(tmp_path / "a"):
        pytest.fail("the block must not run")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "old").write_text("")
    with new_folder(tmp_path / "a") as partial:
        (partial / "new").write_text("")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_the_system_refuses_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"), new_folder(tmp_path / "file" / "a"):
        pytest.fail("the block must not run")
    with pytest.raises(UserError, match="No space left"), new_folder(tmp_path / "a"):
        raise OSError("No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_too_small_a_disk_is_refused_before_anything_is_made(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UserError, match="MB are needed"), new_folder(tmp_path / "a", 10 * free):
        pytest.fail("the block must not run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_stopped_entry_point_leaves_nothing(tmp_path, number, code):
    program = f"""
import time
from pathlib import Path
from posetraj_jax.errors import run
from posetraj_jax.new_folder import new_folder

def main():
    with new_folder(Path({str(tmp_path / "out" / "a")!r})) as partial:
        (partial / "x").write_text("1")
        time.sleep(60)

run(main)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("out/.a.partial/x")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (code, b"")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_never_share_one(tmp_path):
    with new_folder(tmp_path / "a") as first:
        (first / "x").write_text("")
        with pytest.raises(UserError, match="another process"), new_folder(tmp_path / "a"):
            pytest.fail("the block must not run")
        assert [p.name for p in first.iterdir()] == ["x"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x"]
