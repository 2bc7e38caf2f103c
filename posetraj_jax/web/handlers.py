"""What the page's buttons do: each answers with new contents for the parts that it names.

An error becomes a message on the page, and everything else stays as it was.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Settings, StoppedError
from posetraj_jax.trajectories import as_json
from posetraj_jax.web import choices, words
from posetraj_jax.web.desk import Desk, Made
from posetraj_jax.web.pictures import Opened, as_drawn, as_url, open_picture, open_tracks

log = logging.getLogger(__name__)

ANSWER = ("message", "progress", "video", "overlay", "files", "generate", "cancel")
"""The parts of the page that `generate` and `cancel` answer for, in this order."""
BEGINNING = "Preparing; the first video of a size is compiled before, which may take minutes."
WAITING = "Waiting for its turn."
STOPPED = "Stopped."


def telling(handler: Callable[..., tuple]) -> Callable[..., tuple]:
    """A handler whose first answer is the message: empty, or what went wrong and nothing else."""

    @functools.wraps(handler)
    def told(*arguments: Any) -> tuple:
        try:
            return "", *handler(*arguments)
        except Exception as error:
            return message(error), gr.skip(), gr.skip()

    return told


def message(error: Exception) -> str:
    """What the page says of an error; the log has all of one that nobody foresaw."""
    if not isinstance(error, UserError):
        log.error("a request failed", exc_info=error)
        error = words.UNEXPECTED
    return words.error_box(error)


class Handlers:
    """The handlers of one page; `opened` is the picture of the one who uses it."""

    def __init__(self, desk: Desk, settings: Settings, examples: list[Path]):
        self.desk, self.settings, self.examples = desk, settings, examples

    @telling
    def open_upload(self, path: str) -> tuple:
        """(message, opened, canvas) of a picture."""
        return self._open(Path(path))

    @telling
    def open_example(self, event: gr.SelectData) -> tuple:
        """(message, opened, canvas) of an example."""
        return self._open(self.examples[event.index])

    @telling
    def load_tracks(self, path: str, opened: Opened | None, *values: Any) -> tuple:
        """(message, opened, canvas) of a track file."""
        if opened is None:
            raise UserError(
                "There is no picture for these tracks",
                expected="a picture, and then its tracks",
                got="no picture",
                fix="open a picture first, or choose an example",
            )
        settings = choices.chosen(self.settings, values)
        return gr.skip(), as_json(open_tracks(path, opened, settings))

    def begin(self) -> tuple:
        """Answers at once, before the request has waited for others."""
        return answer(message="", progress=words.note(WAITING), **buttons(is_busy=True))

    def generate(
        self, request: gr.Request, opened: Opened | None, drawn: Any, *values: Any
    ) -> Iterator[tuple]:
        """Answers again and again while a video is made."""
        yield answer(progress=words.note(BEGINNING))
        ending = {"progress": ""}
        try:
            tracks = as_drawn(drawn, opened)
            settings = choices.chosen(opened.of(self.settings), values)
            for news in self.desk.steps(request.session_hash, opened, tracks, settings):
                if isinstance(news, Made):
                    ending |= contents(news)
                else:
                    yield answer(progress=words.progress_bar(*news))
        except StoppedError:
            ending["progress"] = words.note(STOPPED)
        except Exception as error:
            ending["message"] = message(error)
        yield answer(**ending, **buttons(is_busy=False))

    def cancel(self, request: gr.Request) -> tuple:
        """Lets a video that is being made, or waits to be, end; answers at once."""
        self.desk.stop(request.session_hash)
        return answer(progress=words.note(STOPPED), **buttons(is_busy=False))

    def leave(self, request: gr.Request) -> None:
        """A browser has gone away."""
        self.desk.leave(request.session_hash)

    def _open(self, path: Path) -> tuple:
        opened = open_picture(path, self.settings)
        height, width = opened.size
        shown = {"picture": as_url(opened.image_uint8), "size": [width, height], "tracks": []}
        return opened, shown


def answer(**contents: Any) -> tuple:
    """New contents of some parts of ANSWER; the others stay."""
    return tuple(contents.get(name, gr.skip()) for name in ANSWER)


def contents(made: Made) -> dict[str, Any]:
    """A video for the page."""
    files = [str(path) for path in (made.video, *made.others)]
    return {"video": str(made.video), "overlay": str(made.overlay), "files": files}


def buttons(*, is_busy: bool) -> dict[str, Any]:
    """Which of the two buttons can be pressed."""
    return {
        "generate": gr.Button(interactive=not is_busy),
        "cancel": gr.Button(interactive=is_busy),
    }
