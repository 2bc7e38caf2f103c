"""JSON of strangers: an object, or one clear error."""

import os

import pytest

from posetraj_jax import json_file
from posetraj_jax.errors import UserError


def test_an_object_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"ä": [1, 2.5, null]}', encoding="utf-8")
    assert json_file.read_object(tmp_path / "a.json", "mend it") == {"ä": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSONDecodeError"),
        (b'{"a": 1', "JSONDecodeError"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        (b"[1]", "it holds a list"),
        (b"null", "it holds null"),
        (b'"hi"', "it holds a text"),
        (b"[" * 100_000, "RecursionError"),
    ],
)
def test_anything_else_is_refused_with_the_file_and_the_reason(tmp_path, content, words):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        json_file.read_object(tmp_path / "a.json", "mend it")
    assert str(tmp_path / "a.json") in str(caught.value)
    assert "mend it" in str(caught.value)


def test_a_missing_and_a_huge_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="FileNotFoundError"):
        json_file.read_object(tmp_path / "none.json", "mend it")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(10**11)  # sparse: it takes no room
    with pytest.raises(UserError, match="more than 16,000,000 bytes"):
        json_file.read_object(tmp_path / "huge.json", "mend it")


def test_what_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zero.json"):
        with pytest.raises(UserError, match="not a file"):
            json_file.read_object(tmp_path / name, "mend it")


def test_a_list_is_read_where_it_is_wanted(tmp_path):
    for text, content in (("[1, 2]", [1, 2]), ('{"a": 1}', {"a": 1})):
        (tmp_path / "a.json").write_text(text)
        assert json_file.read_object_or_list(tmp_path / "a.json", "mend it") == content
    (tmp_path / "a.json").write_text('{"a": {"b": 1, "b": 2}}')
    with pytest.raises(UserError, match="the key 'b' comes twice"):
        json_file.read_object_or_list(tmp_path / "a.json", "mend it")
    (tmp_path / "a.json").write_text("3")
    with pytest.raises(UserError, match="it holds a number") as caught:
        json_file.read_object_or_list(tmp_path / "a.json", "mend it")
    assert caught.value.expected.startswith("a JSON object or a list of at most")
