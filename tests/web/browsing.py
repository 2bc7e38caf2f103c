"""A server of the page, and people in front of it: what the browser tests share."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests import quick

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SMALL = ("--height=192", "--width=320", "--num_frames=8", "--num_inference_steps=4")
PATIENCE_MS = 120_000
"""A video is compiled before it is made."""


class Server:
    """A running page."""

    def __init__(self, folder: Path, *options: str, **environment: str):
        self.log, self.temporary = folder / "log.txt", folder / "tmp"
        self.temporary.mkdir()
        self.log.touch()
        self.output = folder / "output.txt"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "tests.web.serve", str(self.log), f"--port={self.port}"]
        given = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick.XLA_FLAGS} | environment
        given |= {"TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--weights=tiny", *options],
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=os.environ | given,
            )
        deadline = time.monotonic() + 120
        while f"the page is at {self.url}" not in self.output.read_text():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.2)

    def told(self, line: str) -> int:
        return self.log.read_text().splitlines().count(line)

    def wait_until_told(self, line: str, times: int) -> None:
        deadline = time.monotonic() + 60
        while self.told(line) < times:
            assert time.monotonic() < deadline, self.log.read_text() + self.output.read_text()
            time.sleep(0.05)

    def most_at_once(self) -> int:
        now = most = 0
        for line in self.log.read_text().splitlines():
            now += {"begin": 1, "end": -1}.get(line, 0)
            most = max(most, now)
        return most

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(folder: Path, *options: str, **environment: str):
    """A server, which must have asked for nothing outside, and leaves no file behind."""
    folder.mkdir(exist_ok=True)
    server = Server(folder, *options, **environment)
    try:
        yield server
    finally:
        code = server.stop()
    assert code == 128 + signal.SIGTERM
    assert "outside" not in server.log.read_text()
    assert not list(server.temporary.glob("posetraj-demo-*"))


class Person:
    """Somebody with a browser of their own in front of the page."""

    def __init__(self, browser, url: str):
        self.context = browser.new_context(viewport={"width": 1280, "height": 1000})
        self.page = self.context.new_page()
        self.hosts, self.mistakes = set(), []
        self.context.on("request", lambda request: self.hosts.add(host_of(request.url)))
        self.page.on("websocket", lambda socket: self.hosts.add(host_of(socket.url)))
        self.page.on("pageerror", lambda error: self.mistakes.append(str(error)))
        self.page.on("console", self._listen)
        self.page.goto(url)
        self.page.wait_for_selector("#pj-canvas canvas")

    def _listen(self, said) -> None:
        if said.type == "error":
            self.mistakes.append(said.text)

    def leave(self) -> None:
        self.context.close()

    @property
    def canvas(self):
        return self.page.locator("#pj-canvas canvas")

    def shown(self) -> int:
        return int(self.canvas.get_attribute("data-shown") or 0)

    def example(self, number: int = 1) -> None:
        before = self.shown()
        self.page.locator("#pj-examples .grid-container button").nth(number).click()
        self.page.wait_for_selector(f"canvas[data-shown='{before + 1}']")

    def upload(self, button: str, path: Path) -> None:
        """Chooses a file as the button's dialog would."""
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name=button).click()
        chooser.value.set_files(path)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the picture, in [0, 1], is on the page."""
        box = self.canvas.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def click(self, *places: tuple[float, float]) -> None:
        for place in places:
            self.page.mouse.click(*self.at(*place))
            self.page.wait_for_timeout(400)  # two clicks in one place would end the track

    def drag(self, *places: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.at(*place), steps=8)
        self.page.mouse.up()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def set(self, field: str, value) -> None:
        self.page.locator(f"#pj-{field} input[type=number]").fill(str(value))
        self.page.keyboard.press("Tab")

    def listed(self) -> list[str]:
        return self.page.locator(".pj-tracks li > span:nth-child(2)").all_inner_texts()

    def saved(self, folder: Path, name: str = "saved.json") -> Path:
        with self.page.expect_download() as download:
            self.press("Save tracks")
        download.value.save_as(folder / name)
        return folder / name

    def generate(self) -> None:
        self.press("Generate")

    def wait_for_video(self) -> str:
        """The address of a video that plays."""
        self.page.wait_for_selector("#pj-video video", timeout=PATIENCE_MS)
        self.page.wait_for_function(
            "() => { const v = document.querySelector('#pj-video video');"
            "return v.readyState === 4 && v.currentTime > 0.1 && !v.paused }"
        )
        return self.page.locator("#pj-video video").get_attribute("src")

    def wait_until_ready(self) -> None:
        self.page.wait_for_selector("#pj-generate:enabled", timeout=PATIENCE_MS)

    def wait_for_progress(self, text: str) -> None:
        pattern = re.compile(text)
        self.page.locator("#pj-progress").filter(has_text=pattern).wait_for(timeout=PATIENCE_MS)

    def error(self) -> str:
        """The message on the page, which has all four parts."""
        self.page.wait_for_selector("#pj-message .pj-error")
        said = self.page.inner_text("#pj-message")
        assert all(part in said for part in ("Expected", "Got", "What to do")), said
        assert "Traceback" not in self.page.inner_text("body")
        return said


def host_of(url: str) -> str:
    parts = urlsplit(url)
    return parts.hostname if parts.scheme in ("http", "https", "ws", "wss") else "127.0.0.1"
