"""Which videos VIPSeg has, which of their files there are, and which videos are held out.

ROOT/imgs/<video>/<frame>.jpg                 ROOT/panomasks/<video>/<frame>.png
ROOT/trajectory_CoTracker_all/<video>.json    ROOT/estimated_cam_rt/<video>/camera.npy
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data_prep.fanout.task import stamp
from data_prep.videos.pictures import pictures_in
from data_prep.videos.text_file import read_text
from posetraj_jax.data.vipseg import CAMERAS, PICTURES, TRACKS, VISIBILITY
from posetraj_jax.errors import UserError, listed

MASKS = "panomasks"
TRAIN, VAL = "train", "val"


class VideoFiles(NamedTuple):
    """The files of one video."""

    pictures: list[Path]
    masks: list[Path]
    """None if the video has no folder of masks."""
    tracks: Path
    """May be missing."""
    camera: Path
    """May be missing."""
    visibility: Path
    """Is missing unless `data_prep.track_videos` made the tracks."""

    @property
    def has_camera(self) -> bool:
        """Whether there is a file; a link to nowhere counts, so that it is not overlooked."""
        return self.camera.exists() or self.camera.is_symlink()

    def stamp(self) -> str:
        """Another one if any of the files changes."""
        return stamp((*self.pictures, *self.masks, self.tracks, self.camera, self.visibility))


def files_of(root: Path, video: str) -> VideoFiles:
    """The files of a video; opens none."""
    tracks = (track_folder(root) or root / TRACKS[0]) / f"{video}.json"
    camera = root / CAMERAS / video / "camera.npy"
    visibility = root / VISIBILITY / f"{video}.json"
    pictures, masks = (pictures_in(root / name / video) for name in (PICTURES, MASKS))
    return VideoFiles(pictures, masks, tracks, camera, visibility)


def track_folder(root: Path) -> Path | None:
    """The folder of the tracks by either of its names; the root itself if it holds nothing else."""
    named = next((root / name for name in TRACKS if (root / name).is_dir()), None)
    if named is None and not (root / PICTURES).is_dir() and json_names(root):
        return root
    return named


def videos_in(root: Path) -> list[str]:
    """Names of the videos that have a folder of pictures, sorted."""
    entries = (root / PICTURES).iterdir()
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def sources(root: Path) -> list[Path]:
    """Folders in which everything belongs to a video."""
    return [root / name for name in (PICTURES, MASKS, CAMERAS, VISIBILITY, *TRACKS)]


def json_names(folder: Path) -> list[str]:
    """Names of the videos whose tracks lie in a folder, sorted."""
    found = (path.stem for path in folder.glob("*.json") if path.is_file())
    return sorted(name for name in found if not name.startswith("."))


def require_layout(root: Path) -> None:
    """Raises UserError for a folder that has no tracks."""
    if track_folder(root) is None:
        if not root.is_dir():
            got = "a file" if root.exists() else "no such folder"
        else:
            names = sorted(entry.name for entry in root.iterdir())
            got = listed(names) or "an empty folder"
        raise UserError(
            f"There is no VIPSeg in {root}",
            expected=f"the folders {PICTURES}/<video> and {TRACKS[0]} (or {TRACKS[1]}), or a "
            "folder of <video>.json for statistics of the tracks",
            got=got,
            fix="give the folder that these lie in; the tracks are published by the official "
            "repository, the pictures by VIPSeg",
        )


def held_out(path: Path) -> frozenset[str]:
    """Names of the validation videos: of the JSON files below a folder, or the lines of a file.

    Source: the 343 tracks in the archive of DragAnything that the official inference reads.

    Raises:
        UserError: it cannot be read or names nothing.
    """
    try:
        if path.is_dir():
            names = [found.stem for found in path.rglob("*.json")]
        else:
            lines = (line.strip() for line in read_text(path).splitlines())
            names = [line.removesuffix(".json") for line in lines if line]
    except (OSError, ValueError) as error:
        names, got = [], f"{type(error).__name__}: {error}"
    else:
        got = "no names"
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise UserError(
            f"The list of validation videos cannot be used: {path}",
            expected="a folder with a <video>.json for each, or a text file with a name in a line",
            got=got,
            fix="give the unpacked trajectories.zip of DragAnything, or a list of names",
        )
    return frozenset(names)


def split_of(video: str, validation: Iterable[str]) -> str:
    """Which split a video belongs to."""
    return VAL if video in validation else TRAIN
