"""Which files of a folder or a list are objects, and what each is called."""

import json
import os

import pytest

from data_prep.objects.found import LEGAL, MOST_UID, find_objects
from posetraj_jax.errors import UserError


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_folder_sorted_by_path(tmp_path):
    names = ["b/z.glb", "a.OBJ", "b/y.fbx", "c.usdz", "old.blend", "many.zip"]
    make(tmp_path, *names, "a.mtl", "a.bin", "a.png", "list.txt", "about.json", "README.md")
    make(tmp_path, ".hidden.glb", ".git/object.glb", "b/.cache/x.glb")
    found = find_objects(tmp_path)
    assert [entry.name for entry in found] == sorted(names)
    assert [entry.uid for entry in found] == ["a", "y", "z", "c", "many", "old"]
    assert all(entry.path == tmp_path / entry.name for entry in found)


def test_uids_are_legal_unique_and_do_not_depend_on_the_order(tmp_path):
    names = ["a/chair.glb", "b/chair.glb", "B/Chair.obj", "mon œuf.glb", "x" * 150 + ".glb"]
    make(tmp_path, *names, "物体.glb", "-.glb", "ok-1.2_3.glb")
    found = {entry.name: entry.uid for entry in find_objects(tmp_path)}
    assert len({uid.lower() for uid in found.values()}) == len(found) == 8
    assert all(LEGAL.fullmatch(uid) and len(uid) <= MOST_UID for uid in found.values())
    assert found["ok-1.2_3.glb"] == "ok-1.2_3"
    assert found["a/chair.glb"].startswith("chair-")
    assert found["mon œuf.glb"].startswith("mon-uf-")
    assert found["物体.glb"].startswith("object-")
    (tmp_path / "ok-1.2_3.glb").unlink()
    assert find_objects(tmp_path)[0].uid == found[find_objects(tmp_path)[0].name]


def test_a_list_of_lines(tmp_path):
    make(tmp_path, "a.glb", "my chair.glb", "sub/b.obj")
    (tmp_path / "list.txt").write_text(
        "# objects\n\na.glb\nmy chair.glb\nthe-uid sub/b.obj\ntabbed\tmy chair.glb\n"
        "gone missing.glb\n/somewhere/else.glb\n"
    )
    found = find_objects(tmp_path / "list.txt")
    assert [entry.uid for entry in found[2:]] == ["the-uid", "tabbed", "gone", "else"]
    assert [entry.name for entry in found] == [
        *("a.glb", "my chair.glb", "sub/b.obj", "my chair.glb", "missing.glb"),
        "/somewhere/else.glb",
    ]
    assert found[0].path == tmp_path / "a.glb"
    assert found[1].uid.startswith("my-chair-")
    assert [entry.path.is_file() for entry in found] == [True] * 4 + [False] * 2


def test_what_objaverse_returns(tmp_path):
    pairs = {"0123abcd": str(tmp_path / "x/0123abcd.glb"), "ef": "ef.glb", "bad uid": "c.glb"}
    (tmp_path / "objects.json").write_text(json.dumps(pairs))
    found = find_objects(tmp_path / "objects.json")
    assert [entry.uid for entry in found[:2]] == ["0123abcd", "ef"]
    assert found[2].uid.startswith("bad-uid-")
    assert found[1].path == tmp_path / "ef.glb"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\xfa", "decode"),
        (b'{"a":' * 100_000, "recursion"),
        (b'{"a": 1}', "1 of 1 values are no path"),
        (b"glTF\0\0", "it is no text"),
        (b"# nothing\n", "none"),
        (b"To do\n\nbuy more lamps\n", "2 others, first 'do'"),
    ],
)
def test_bad_lists(tmp_path, content, reason):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(UserError) as caught:
        find_objects(tmp_path / "list")
    assert reason in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        find_objects(tmp_path / "gone")
    with pytest.raises(UserError, match="No objects are found"):
        find_objects(tmp_path)


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("a.obj", "a single .obj file"),
        ("a.GLB", "a single .glb file"),
        ("a.blend", "a single .blend file, of a kind that is not read either"),
        ("pipe", "a pipe or a device"),
        ("link", "a link to nothing"),
    ],
)
def test_what_is_neither_a_folder_nor_a_list(tmp_path, name, got):
    """The text of an .obj would pass for a list of paths."""
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    elif name == "link":
        path.symlink_to("nowhere")
    else:
        path.write_text("v 0 0 0\n")
    with pytest.raises(UserError, match="No objects are found") as caught:
        find_objects(path)
    assert caught.value.got == got
    assert "give the folder" in caught.value.fix
