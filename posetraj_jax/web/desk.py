"""Makes the videos that several people ask for: one at a time, each of which may be stopped."""

import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from posetraj_jax import video
from posetraj_jax.sampling import Model, Settings, StoppedError, Video, generate_many, outputs
from posetraj_jax.sampling.generate import Progress
from posetraj_jax.sampling.inputs import read_request
from posetraj_jax.trajectories import TrackFile, write_tracks
from posetraj_jax.web.pictures import Opened

VIDEO, OVERLAY, PICTURE, TRACKS = "video.mp4", "overlay.mp4", "picture.png", "tracks.json"


class Made(NamedTuple):
    """The files of a video that was made."""

    video: Path
    overlay: Path
    """The same with its tracks drawn over it."""
    others: tuple[Path, ...]
    """The two beside each other as `outputs.write` has them; settings, tracks and picture, which
    are all that it takes to make it again."""


class Desk:
    """One model and all who use it; every method may be called from any thread.

    A user is whoever has one page open.
    """

    def __init__(self, model: Model, folder: Path):
        self.model, self._folder = model, folder
        self._at_work = threading.Lock()
        self._guard = threading.Lock()
        self._stops: dict[str, set[threading.Event]] = {}
        self._results: dict[str, Path] = {}

    def make(
        self, user: str, opened: Opened, tracks: TrackFile, settings: Settings, progress: Progress
    ) -> Made:
        """Makes a video, once nobody else's is being made.

        Args:
            user: whose request it is; the files of the one before go.
            opened: the picture.
            tracks: on it.
            settings: of the video.
            progress: as `generate_many` takes it.

        Raises:
            UserError: the request cannot be used.
            StoppedError: `stop` was called, or `progress` returned False.
        """
        request = read_request(opened.image_uint8, tracks, settings)
        stop = threading.Event()
        with self._guard:
            self._stops.setdefault(user, set()).add(stop)

        def unless_stopped(done: int, total: int) -> bool:
            return progress(done, total) and not stop.is_set()

        try:
            with self._at_work:
                if stop.is_set():
                    raise StoppedError
                (made,) = generate_many([request], self.model, settings, unless_stopped)
            return self._keep(user, stop, made, opened, tracks)
        finally:
            with self._guard:
                self._stops[user].discard(stop)
                if not self._stops[user]:
                    del self._stops[user]

    def steps(
        self, user: str, opened: Opened, tracks: TrackFile, settings: Settings
    ) -> Iterator[tuple[int, int] | Made]:
        """As `make`: denoising steps done and their number, again and again, then what was made.

        Closing the iterator stops the work.
        """
        said: queue.SimpleQueue = queue.SimpleQueue()
        is_wanted = threading.Event()
        is_wanted.set()

        def progress(done: int, total: int) -> bool:
            said.put((done, total))
            return is_wanted.is_set()

        def work() -> None:
            try:
                said.put(self.make(user, opened, tracks, settings, progress))
            except BaseException as error:
                said.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            while True:
                news = said.get()
                if isinstance(news, BaseException):
                    raise news
                yield news
                if isinstance(news, Made):
                    return
        finally:
            is_wanted.clear()

    def stop(self, user: str) -> None:
        """Lets the video that is being made for a user, or waits to be, end as soon as it can."""
        with self._guard:
            for stop in self._stops.get(user, ()):
                stop.set()

    def leave(self, user: str) -> None:
        """Stops what a user has asked for and removes what they have got."""
        self.stop(user)
        with self._guard:
            folder = self._results.pop(user, None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _keep(
        self,
        user: str,
        stop: threading.Event,
        made: Video,
        opened: Opened,
        tracks: TrackFile,
    ) -> Made:
        """Writes the files of a video in place of the user's last one, unless he has left."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        unwanted = folder
        try:
            files = _write(folder, made, opened, tracks)
            # Whoever leaves says stop before he has his results removed: none is forgotten.
            with self._guard:
                if stop.is_set():
                    raise StoppedError
                unwanted, self._results[user] = self._results.get(user), folder
        finally:
            if unwanted is not None:
                shutil.rmtree(unwanted, ignore_errors=True)
        return files


def _write(folder: Path, made: Video, opened: Opened, tracks: TrackFile) -> Made:
    made.settings.update(image=PICTURE, tracks=TRACKS, camera=None)
    outputs.write(folder / VIDEO, made)
    drawn = video.draw_polylines(made.frames_uint8, made.tracks_px)
    video.write_video(folder / OVERLAY, drawn, made.settings["fps"])
    video.write_image(folder / PICTURE, opened.image_uint8)
    write_tracks(folder / TRACKS, tracks)
    paths = outputs.paths_of(folder / VIDEO)
    others = paths["tracks"], paths["settings"], folder / TRACKS, folder / PICTURE
    return Made(paths["video"], folder / OVERLAY, others)
