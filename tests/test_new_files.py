"""Files that appear together or not at all, and places that cannot be used."""

import os
from pathlib import Path

import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.new_files import new_files, require_places


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write(content, *targets):
    """Writes text to all targets; or half of it, and an interrupt."""
    with new_files(*targets) as partials:
        for partial in partials:
            partial.write_text("half" if isinstance(content, BaseException) else content)
        if isinstance(content, BaseException):
            raise content


def test_files_appear_together_at_the_end(tmp_path):
    targets = [tmp_path / "a/one.txt", tmp_path / "b/c/two"]
    with new_files(*targets) as (one, two):
        one.write_text("1")
        two.mkdir()
        (two / "inside").write_text("2")
        assert not any(target.exists() for target in targets)
    assert names(tmp_path) == ["a", "a/one.txt", "b", "b/c", "b/c/two", "b/c/two/inside"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_if_one_cannot_be_moved_all_is_as_before(tmp_path, monkeypatch, number):
    targets = [tmp_path / "new/one.txt", tmp_path / "old.txt", tmp_path / "two.txt"]
    targets[1].write_text("before")
    replace = os.replace

    def refuse(source, target):
        if target == targets[number] and "/new/" in str(source):
            raise OSError("full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="full"):
        write("after", *targets)
    assert names(tmp_path) == ["old.txt"]
    assert targets[1].read_text() == "before"


def test_a_folder_that_is_there_is_never_lost(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/mine.txt").write_text("mine")
    with pytest.raises(OSError, match="frames"):
        write("text", tmp_path / "frames")
    assert names(tmp_path) == ["frames", "frames/mine.txt"]


def test_an_interrupted_block_leaves_nothing_and_can_be_repeated(tmp_path):
    target = tmp_path / "new/file"
    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt(), target)
    assert names(tmp_path) == []
    write("whole", target)
    assert target.read_text() == "whole"


def require(*targets, inputs=()):
    require_places("It cannot be written", list(map(Path, targets)), list(map(Path, inputs)))


def test_free_places_and_files_to_replace_are_good_and_stay_as_they_are(tmp_path):
    (tmp_path / "old").write_text("old")
    require(tmp_path / "old", tmp_path / "a/b/new", inputs=[tmp_path / "picture"])
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("name", ["/", "", ".", "a/..", "/.."])
def test_what_names_no_file_is_refused(name):
    with pytest.raises(UserError, match=r"names no file|is a folder"):
        require(name)


def test_what_cannot_be_written_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    places = ("pipe", "file/x", "folder", "x" * 300)
    with pytest.raises(UserError) as caught:
        require(*(tmp_path / name for name in places), "/proc/x.mp4", "/proc/new/x", "/dev/null")
    for words in (
        "pipe: is neither a file nor free",
        "file/x: ",
        "folder: is a folder",
        "File name too long",
        "No such file or directory: /proc/x.mp4",
        "No such file or directory: /proc/new/x",
        "/dev/null: is neither",
    ):
        assert words in caught.value.got
    assert names(tmp_path) == ["file", "folder", "pipe"]


def test_inputs_are_safe_by_whatever_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("given").mkdir()
    Path("given/photo.png").touch()
    Path("link.png").symlink_to("given/photo.png")
    for name in ("given/photo.png", "./given/../given/photo.png", "link.png"):
        with pytest.raises(UserError, match="is an input, which would be lost"):
            require(name, inputs=[tmp_path / "given/photo.png"])
    with pytest.raises(UserError, match="is an input"):
        require("gone.json", inputs=["./gone.json"])


def test_places_that_several_want_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"r\.png: is wanted twice\n"):
        require("r.png", "r.png")
    with pytest.raises(UserError, match="/z: is wanted twice, also as z"):
        require("z", f"../{tmp_path.name}/z")
    with pytest.raises(UserError, match=r"frames/a\.mp4: is in frames, which is written too"):
        require("frames/a.mp4", "frames")
