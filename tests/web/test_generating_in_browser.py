"""Videos from the page in Chromium: one person, two at once, those who stop, leave or fail."""

import io
import json
import os
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posetraj_jax import video
from posetraj_jax.trajectories import read_tracks
from tests.web.browsing import SMALL, Person, serving
from tests.web.serve import FAILS

pytestmark = pytest.mark.full
SCREENSHOTS = os.environ.get("WEB_TEST_SCREENSHOTS")
"""A folder to keep pictures of the page in: WEB_TEST_SCREENSHOTS=docs."""


def draw_two(person: Person) -> None:
    person.click((0.35, 0.55), (0.5, 0.75), (0.75, 0.72))
    person.press("New track")
    person.drag((0.75, 0.2), (0.6, 0.3), (0.3, 0.25), (0.15, 0.4))


def downloaded(person: Person, name: str, folder: Path) -> Path:
    """One of the files that the page offers, fetched as a click on its size does."""
    with person.page.expect_download() as download:
        person.page.locator(f"#pj-files a[download='{name}']").first.click()
    download.value.save_as(folder / name)
    return folder / name


def frames_at(url: str, folder: Path) -> np.ndarray:
    path = folder / "fetched.mp4"
    urllib.request.urlretrieve(url, path)
    return video.read_video(path)[0]


def same_in_browser(server, person: Person, folder: Path) -> None:
    """The whole story of one person."""
    person.example()
    draw_two(person)
    drawn = read_tracks(person.saved(folder, "drawn.json"))
    assert len(drawn.tracks) == 2
    person.generate()
    source = person.wait_for_video()
    person.wait_until_ready()
    assert source.startswith(server.url)
    tracks = downloaded(person, "tracks.json", folder)
    assert read_tracks(tracks) == drawn
    listed, shown = person.listed(), person.canvas.screenshot()
    person.press("Clear")
    person.upload("Load tracks", tracks)
    person.page.wait_for_selector(".pj-tracks li")
    assert person.listed() == listed
    assert person.canvas.screenshot() == shown


@pytest.mark.parametrize(
    ("model", "options"),
    [("micro", SMALL), ("own", ("--height=64", "--width=64", "--num_frames=2"))],
)
def test_from_picture_to_video_and_back(browser, tmp_path, model, options):
    """With the narrowest networks, and as `--weights tiny` is."""
    steps = "--num_inference_steps=4"
    with serving(tmp_path / "server", *options, steps, WEB_TEST_MODEL=model) as server:
        person = Person(browser, server.url)
        assert "every video is noise" in person.page.inner_text("#pj-head")
        assert "tiny" in person.page.inner_text("#pj-head")
        same_in_browser(server, person, tmp_path)
        size = [int(option.split("=")[1]) for option in options[:3]]
        frames, fps = video.read_video(downloaded(person, "video.mp4", tmp_path))
        assert frames.shape == (size[2], size[0], size[1], 3)
        assert fps == 7
        overlay = person.page.locator("#pj-overlay video")
        assert overlay.evaluate("v => v.readyState === 4 && !v.paused")
        marked = frames_at(overlay.get_attribute("src"), tmp_path)
        assert (np.abs(marked.astype(int) - frames).max(axis=-1) > 60).mean() > 0.005
        settings = json.loads(downloaded(person, "video_settings.json", tmp_path).read_text())
        assert (settings["weights"], settings["num_inference_steps"]) == ("tiny", 4)
        person.leave()
        assert person.hosts == {"127.0.0.1"}
        assert not person.mistakes


def test_a_picture_of_ones_own_and_sliders(person, server, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    person.upload("Open a picture", tmp_path / "photo.jpg")
    person.page.wait_for_selector("canvas[data-shown='1']")
    person.drag((0.2, 0.2), (0.7, 0.5))
    for field, value in {"num_inference_steps": 2, "max_guidance_scale": 5.5, "seed": 7}.items():
        person.set(field, value)
    person.generate()
    person.wait_for_progress("Step 1 of 2|Making the frames")
    person.wait_for_video()
    person.wait_until_ready()
    said = json.loads(downloaded(person, "video_settings.json", tmp_path).read_text())
    assert [said[n] for n in ("num_inference_steps", "max_guidance_scale", "seed")] == [2, 5.5, 7]
    picture = video.read_image(downloaded(person, "picture.png", tmp_path))
    assert picture.shape == (192, 320, 3)


def test_two_browsers_at_once(people, server, tmp_path):
    anna, ben = people(), people()
    frames = []
    for number, each in enumerate((anna, ben)):
        each.example(number)
        draw_two(each)
        each.set("seed", 100 + number)
    for each in (anna, ben):
        each.generate()
    for number, each in enumerate((anna, ben)):
        each.wait_for_video()
        each.wait_until_ready()
        said = json.loads(downloaded(each, "video_settings.json", tmp_path).read_text())
        assert said["seed"] == 100 + number
        frames.append(video.read_video(downloaded(each, "video.mp4", tmp_path))[0])
    assert not np.array_equal(*frames)
    assert server.most_at_once() == 1


def begin(person: Person, server, steps: int = 40) -> int:
    """Begins a video that takes long; returns how many have begun so far."""
    person.example()
    draw_two(person)
    person.set("num_inference_steps", steps)
    before = server.told("begin")
    person.generate()
    return before


def test_a_cancelled_video_frees_the_server(people, server):
    anna, ben = people(), people()
    before = begin(anna, server)
    anna.wait_for_progress("Step [1-9]")
    anna.press("Cancel")
    anna.wait_for_progress("Stopped")
    anna.wait_until_ready()
    server.wait_until_told("end", before + 1)
    assert anna.page.locator("#pj-video video").count() == 0
    begin(ben, server, 1)
    ben.wait_for_video()
    anna.set("num_inference_steps", 1)
    anna.generate()
    anna.wait_for_video()
    assert server.most_at_once() == 1


def test_one_who_waits_may_cancel_and_the_other_is_not_disturbed(people, server):
    anna, ben = people(), people()
    before = begin(anna, server, 12)
    anna.wait_for_progress("Step [1-9]")
    begin(ben, server)
    ben.page.wait_for_timeout(500)
    ben.page.wait_for_selector("#pj-cancel:enabled")
    ben.press("Cancel")
    ben.wait_for_progress("Stopped")
    ben.wait_until_ready()
    anna.wait_for_video()
    assert server.told("begin") == before + 1, "the one that was cancelled never began"


def test_a_browser_that_goes_away_does_not_block(people, server):
    anna, ben = people(), people()
    before = begin(anna, server)
    anna.wait_for_progress("Step [1-9]")
    anna.leave()
    server.wait_until_told("end", before + 1)
    begin(ben, server, 1)
    ben.wait_for_video()
    assert server.told("end") >= before + 2


def test_a_page_that_is_loaded_again_does_not_block(person, server):
    before = begin(person, server)
    person.wait_for_progress("Step [1-9]")
    person.page.reload()
    person.page.wait_for_selector("#pj-canvas canvas")
    person.mistakes.clear()  # the page that went away complains of its cut connection
    server.wait_until_told("end", before + 1)
    begin(person, server, 1)
    person.wait_for_video()
    assert server.told("end") >= before + 2


def test_a_failed_video_is_said_and_the_next_one_is_made(person, server):
    before = begin(person, server, 1)
    person.wait_for_video()
    person.wait_until_ready()
    person.set("seed", FAILS)
    person.generate()
    assert "the server did not expect" in person.error()
    person.wait_until_ready()
    server.wait_until_told("end", before + 2)
    assert "as the test asked" in server.output.read_text(), "the log has what happened"
    person.set("seed", 1)
    person.generate()
    person.page.wait_for_selector("#pj-message .pj-error", state="hidden")
    person.wait_for_video()


def keep(person: Person, path: Path) -> None:
    """A small file: 256 colours are enough."""
    person.page.mouse.move(0, 0)
    shown = Image.open(io.BytesIO(person.page.screenshot())).convert("RGB")
    shown.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def test_pictures_of_the_page(people, tmp_path):
    """For the documentation; and that nothing is wider than the page."""
    person = people()
    folder = Path(SCREENSHOTS or tmp_path)
    person.example()
    draw_two(person)
    person.press("Static point")
    person.click((0.9, 0.85))
    person.press("Play")
    person.page.wait_for_timeout(1200)
    keep(person, folder / "demo_drawn.png")
    person.page.locator("[data-do=play]").click()
    person.generate()
    person.wait_for_video()
    person.wait_until_ready()
    person.page.locator("#pj-files").scroll_into_view_if_needed()
    person.page.wait_for_timeout(900)
    keep(person, folder / "demo_video.png")
    assert person.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in ("demo_drawn.png", "demo_video.png"):
        assert (folder / name).stat().st_size < 300_000
