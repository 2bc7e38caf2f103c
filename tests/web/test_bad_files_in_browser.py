"""Files that are no pictures or tracks, given to the page in Chromium: said, and all goes on."""

import json

import pytest
from PIL import Image

from posetraj_jax.web.pictures import MOST_BYTES
from tests.web.browsing import Person

pytestmark = pytest.mark.full


def works(person: Person, shown: int) -> None:
    """The page takes a picture and a track, and says nothing more of what was wrong."""
    person.example()
    assert person.shown() == shown + 1
    person.page.wait_for_selector("#pj-message .pj-error", state="hidden")
    person.drag((0.2, 0.2), (0.7, 0.5))
    assert len(person.listed()) == 1


def text(path):
    path.write_text("hello, I am no picture")


def sixty_megapixels(path):
    Image.new("RGB", (10_000, 6_000), (9, 9, 9)).save(path)


def bomb(path):
    Image.new("1", (20_000, 20_000)).save(path)


def half(path):
    Image.effect_noise((300, 200), 50).save(path)
    path.write_bytes(path.read_bytes()[:5_000])


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("letter.jpg", text, "cannot identify"),
        ("large.png", sixty_megapixels, "10000x6000 is more than 50000000 pixels"),
        ("bomb.png", bomb, "pixels"),
        ("half.png", half, "cannot be read"),
        ("empty.webp", lambda path: path.touch(), "cannot identify"),
    ],
)
def test_pictures(person, server, tmp_path, name, make, said):
    make(tmp_path / name)
    person.upload("Open a picture", tmp_path / name)
    message = person.error()
    assert said in message
    assert name in message
    assert str(server.temporary) not in message
    works(person, 0)


def test_a_bad_picture_leaves_the_one_before(person, tmp_path):
    person.example()
    person.drag((0.2, 0.2), (0.7, 0.5))
    text(tmp_path / "letter.jpg")
    person.upload("Open a picture", tmp_path / "letter.jpg")
    person.error()
    assert person.shown() == 1
    assert len(person.listed()) == 1


def test_a_file_that_is_too_large_is_refused(person, server, tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MOST_BYTES + 1_000_000)
    person.upload("Open a picture", tmp_path / "huge.png")
    person.page.get_by_text("exceed the maximum allowed size of 30").first.wait_for()
    works(person, 0)
    stored = [p for p in server.temporary.rglob("*") if p.is_file()]
    assert all(path.stat().st_size <= MOST_BYTES for path in stored)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "JSON"),
        (json.dumps({"size": [64, 64], "tracks": [[[1, 1], [2, 2]]]}), "another shape"),
        (json.dumps({"size": [320, 192], "tracks": [[[1, 1], ["<b>", 2]]]}), "track 0: point 1"),
        (json.dumps([[1, 2]]), "one point only"),
        ("[" * 100_000, "tracks.json"),
    ],
)
def test_track_files(person, tmp_path, content, said):
    person.example()
    (tmp_path / "tracks.json").write_text(content)
    person.upload("Load tracks", tmp_path / "tracks.json")
    assert said in person.error()
    works(person, 1)


def test_order_of_things(person, tmp_path):
    """Tracks before a picture, and a video of nothing."""
    (tmp_path / "tracks.json").write_text("[[1, 1], [2, 2]]")
    person.upload("Load tracks", tmp_path / "tracks.json")
    assert "no picture" in person.error()
    person.generate()
    person.page.locator("#pj-message", has_text="There is no picture yet").wait_for()
    person.wait_until_ready()
    person.example()
    person.generate()
    person.page.locator("#pj-message", has_text="Nothing is drawn yet").wait_for()
    person.wait_until_ready()
    works(person, 1)
