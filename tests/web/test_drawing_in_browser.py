"""The canvas in Chromium, used as a person would."""

import json

import numpy as np
import pytest
from PIL import Image

from posetraj_jax import video
from posetraj_jax.trajectories import parse_tracks, read_tracks, resample
from posetraj_jax.trajectories.spline import trace_spline
from tests.web.browsing import ROOT

pytestmark = pytest.mark.full
SIZE = (192, 320)


def test_nothing_can_be_done_before_there_is_a_picture(person):
    names = ("Static point", "New track", "Undo", "Clear", "Play", "Save tracks")
    for name in names:
        assert person.page.get_by_role("button", name=name, exact=True).is_disabled()
    person.drag((0.2, 0.2), (0.7, 0.7))
    assert person.listed() == []


def test_clicks_and_drags_are_where_they_were_aimed(person, tmp_path):
    person.example()
    person.click((0.25, 0.75), (0.5, 0.5), (0.75, 0.75))
    person.press("New track")
    person.drag((0.1, 0.2), (0.5, 0.2), (0.5, 0.4))
    person.press("Static point")
    person.click((0.9, 0.1))
    drawn = read_tracks(person.saved(tmp_path))
    assert drawn.size == SIZE
    clicked, dragged, static = drawn.tracks
    assert [track.kind for track in drawn.tracks] == ["spline", "spline", "anchor"]
    np.testing.assert_allclose(clicked.points, [[80, 144], [160, 96], [240, 144]], atol=0.6)
    np.testing.assert_allclose(dragged.points, [[32, 38.4], [160, 38.4], [160, 76.8]], atol=0.6)
    np.testing.assert_allclose(static.points, [[288, 19.2]], atol=0.6)
    assert person.listed() == ["Track 0: 3 points", "Track 1: 3 points", "Track 2: stays"]


def test_a_double_click_and_enter_end_a_track(person):
    person.example()
    person.click((0.2, 0.2), (0.4, 0.4))
    person.page.mouse.dblclick(*person.at(0.6, 0.2))
    person.click((0.2, 0.8), (0.4, 0.6))
    person.page.keyboard.press("Enter")
    person.click((0.8, 0.8))
    assert person.listed() == ["Track 0: 3 points", "Track 1: 2 points", "Track 2: stays"]


def test_undo_goes_back_step_by_step_also_past_clear(person):
    person.example()
    person.drag((0.1, 0.1), (0.6, 0.1))
    person.click((0.2, 0.8), (0.4, 0.6))
    person.press("Clear")
    assert person.listed() == []
    person.press("Undo")
    assert person.listed() == ["Track 0: 2 points", "Track 1: 2 points"]
    person.press("Undo")
    assert person.listed() == ["Track 0: 2 points", "Track 1: stays"]
    person.press("Undo")
    assert person.listed() == ["Track 0: 2 points"]
    person.press("Undo")
    assert person.listed() == []
    assert person.page.get_by_role("button", name="Undo").is_disabled()


def test_one_track_can_be_removed(person):
    person.example()
    for row in (0.2, 0.4, 0.6):
        person.drag((0.1, row), (0.6, row), (0.8, row + 0.2))
    person.page.get_by_role("button", name="Remove track 1").click()
    assert len(person.listed()) == 2


def test_the_keyboard_alone_draws(person, tmp_path):
    person.example()
    person.canvas.focus()
    for key in (*["ArrowLeft"] * 5, " ", *["ArrowUp"] * 5, *["ArrowRight"] * 9, " ", "Enter"):
        person.page.keyboard.press(key)
    (track,) = read_tracks(person.saved(tmp_path)).tracks
    start, end = np.array(track.points)
    assert track.kind == "spline"
    assert start[1] == SIZE[0] / 2
    assert end[0] > start[0]
    assert end[1] < start[1]
    person.canvas.focus()
    person.page.keyboard.press("Control+z")
    person.page.keyboard.press("Control+z")
    assert person.listed() == ["Track 0: stays"]


def test_colours_are_those_of_the_video(person):
    person.example()
    for row in (0.3, 0.5, 0.7):
        person.drag((0.1, row), (0.9, row))
    chips = person.page.locator(".pj-chip").evaluate_all(
        "chips => chips.map(chip => getComputedStyle(chip).backgroundColor)"
    )
    assert chips == [f"rgb{colour}" for colour in video.track_colours(3)]
    for row, colour in zip((0.3, 0.5, 0.7), video.track_colours(3), strict=True):
        assert tuple(pixel(person, 0.5, row)) == colour


def pixel(person, x: float, y: float) -> list[int]:
    return person.canvas.evaluate(
        "(c, [x, y]) => [...c.getContext('2d')"
        ".getImageData(x * c.width, y * c.height, 1, 1).data].slice(0, 3)",
        [x, y],
    )


def test_play_moves_a_ghost_along_the_track(person):
    person.example()
    person.drag((0.1, 0.5), (0.9, 0.5))
    still = pixel(person, 0.5, 0.48)
    person.press("Play")
    person.page.wait_for_function(
        "still => { const c = document.querySelector('#pj-canvas canvas');"
        "const d = c.getContext('2d').getImageData(c.width / 2, 0.48 * c.height, 1, 1).data;"
        "return Math.abs(d[0] - still[0]) + Math.abs(d[1] - still[1]) > 30 }",
        arg=still,
    )
    person.press("Stop")
    assert pixel(person, 0.5, 0.48) == still


def test_another_picture_begins_anew(person):
    person.example(0)
    person.drag((0.1, 0.5), (0.9, 0.5))
    person.example(2)
    assert person.listed() == []


def test_an_upright_picture_is_shown_upright(person, tmp_path):
    Image.new("RGB", (300, 500), (9, 99, 199)).save(tmp_path / "photo.png")
    person.upload("Open a picture", tmp_path / "photo.png")
    person.page.wait_for_selector("canvas[data-shown='1']")
    box = person.canvas.bounding_box()
    assert box["height"] / box["width"] == pytest.approx(320 / 192, abs=0.02)
    person.click((0.5, 0.5), (0.25, 0.75))
    drawn = read_tracks(person.saved(tmp_path))
    assert drawn.size == (320, 192)
    np.testing.assert_allclose(drawn.tracks[0].points, [[96, 160], [48, 240]], atol=0.6)


def test_saved_tracks_come_back_the_same(person, tmp_path):
    person.example()
    person.drag((0.1, 0.2), (0.5, 0.3), (0.6, 0.6))
    person.press("Static point")
    person.click((0.9, 0.1))
    path = person.saved(tmp_path)
    listed, shown = person.listed(), person.canvas.screenshot()
    person.press("Clear")
    person.upload("Load tracks", path)
    person.page.wait_for_selector(".pj-tracks li")
    assert person.listed() == listed
    assert json.loads(person.saved(tmp_path, "again.json").read_text()) == json.loads(
        path.read_text()
    )
    person.canvas.focus()
    person.canvas.blur()
    assert person.canvas.screenshot() == shown


TRACKS = [
    {"kind": "spline", "points": [[10, 20], [200, 40], [210, 150], [300, 20]]},
    {"kind": "spline", "points": [[10, 20], [200, 40], [200, 40], [210, 150]],
     "times": [0, 0.2, 0.7, 1]},
    {"kind": "spline", "points": [[5, 5], [5, 5]]},
    {"kind": "spline", "points": [[5, 5], [100, 100]]},
    {"kind": "frames", "points": [[i * i, 20 + i] for i in range(9)]},
    {"kind": "anchor", "points": [[50, 60]]},
]  # fmt: skip


def test_curves_of_the_browser_are_those_of_the_video(browser):
    """Every frame's point within a tenth of a pixel, and the line that is drawn."""
    source = (ROOT / "posetraj_jax/web/static/geometry.js").read_text()
    page = browser.new_page()
    frames = page.evaluate(
        "([source, tracks]) => { const playable = Function(source + ';return playable')();"
        "return tracks.map(t => [...Array(9).keys()].map(i => playable(t).at(i / 8))) }",
        [source, TRACKS],
    )
    wanted = resample(parse_tracks({"size": [320, 192], "tracks": TRACKS}), 9, SIZE).tracks_px
    np.testing.assert_allclose(np.array(frames).swapaxes(0, 1), wanted, atol=0.1)
    path = page.evaluate(
        "([source, track]) => Function(source + ';return playable')()(track).path",
        [source, TRACKS[0]],
    )
    traced = trace_spline(np.array(TRACKS[0]["points"], float))
    np.testing.assert_allclose(path[::2], traced, atol=1e-6)
    page.close()


def test_a_hand_drawn_line_becomes_few_points_near_it(browser):
    angle = np.linspace(0, 2 * np.pi, 200)
    line = np.stack([150 + 80 * np.cos(angle), 90 + 60 * np.sin(angle)], axis=1)
    source = (ROOT / "posetraj_jax/web/static/geometry.js").read_text()
    page = browser.new_page()
    points = page.evaluate(
        "([source, line]) => Function(source + ';return simplify')()(line, 2)",
        [source, line.tolist()],
    )
    page.close()
    assert 8 <= len(points) <= 20
    curve = trace_spline(np.array(points))
    apart = np.hypot(*(line[:, None] - curve[None]).transpose(2, 0, 1)).min(axis=1)
    assert apart.max() < 4
