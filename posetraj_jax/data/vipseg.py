"""Real video as the official code expects it: pictures, tracks and perhaps a camera per video.

    ROOT/imgs/<video>/<frame>.jpg                   the original pictures, in plain string sort
    ROOT/trajectory_CoTracker_all/<video>.json      or output_cotracker_all, as it is published
    ROOT/estimated_cam_rt/<video>/camera.npy        if the camera is known
    ROOT/track_visibility/<video>.json              if it is known what is hidden

The videos are the folders in `imgs`; tracks and cameras of others are ignored.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from posetraj_jax.data.camera_file import read_camera
from posetraj_jax.data.lazy_clip import CLEAN, Tracks, no_box
from posetraj_jax.data.track_file import kind_of, read_vipseg, read_visibility
from posetraj_jax.data.transforms import decode_files, image_header
from posetraj_jax.errors import UserError, listed

Array = np.ndarray

FPS = 5.0
"""VIPSeg is annotated at 5 frames per second, and has no other frames."""
PICTURES, CAMERAS = "imgs", "estimated_cam_rt"
TRACKS = ("trajectory_CoTracker_all", "output_cotracker_all")
"""What the official loader reads, and what the official repository calls the same folder."""
VISIBILITY = "track_visibility"
"""What `data_prep.track_videos` knows of occlusion: JSON files as those of the tracks."""
SUFFIXES = (".jpg", ".jpeg", ".png")


def is_vipseg(root: Path) -> bool:
    """Whether a folder is laid out like this."""
    return (root / PICTURES).is_dir() and _track_folder(root) is not None


class VIPSegClip:
    """One video.

    Source: the official loader. Differs: pictures are files with a picture's suffix; cameras come
        out as world to camera, as everywhere in this package.
    """

    frame_kinds = (CLEAN,)

    def __init__(self, root: Path, video: str):
        self.clip_id, self.fps = video, FPS
        folder = root / PICTURES / video
        found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        self._pictures = sorted(found, key=lambda path: path.name)
        self._track_file = (_track_folder(root) or root) / f"{video}.json"
        self._visibility_file = root / VISIBILITY / f"{video}.json"
        self._camera_file = root / CAMERAS / video / "camera.npy"

    @property
    def num_frames(self) -> int:
        """Number of pictures."""
        return len(self._pictures)

    def problems(self) -> list[str]:
        """Says what keeps the video from being read; decodes no picture."""
        found = [] if self._pictures else ["no pictures"]
        readers = [(self._track_file, lambda file: len(read_vipseg(file).points_px))]
        if self._visibility_file.exists():
            readers.append((self._visibility_file, lambda _: len(self._visible())))
        if self.has_camera:
            readers.append((self._camera_file, lambda file: len(read_camera(file).rotations)))
        for file, count_frames in readers:
            try:
                count = count_frames(file)
            except UserError as error:
                found.append(f"{error.what}: {error.got}")
            else:
                if self._pictures and count != self.num_frames:
                    found.append(f"{self.num_frames} pictures but {count} frames in {file}")
        return [f"{self.clip_id}: {problem}" for problem in found]

    def frames(self, start: int, count: int) -> UInt8[Array, "f h w 3"]:
        """Decodes frames."""
        return decode_files(self._pictures[start : start + count])

    def boxed_frames(self, start: int, count: int, thickness: int) -> UInt8[Array, "f h w 3"]:
        """Raises UserError: nobody knows the boxes of real video."""
        raise no_box(self.clip_id, "real video, which has none")

    def tracks(self, start: int, count: int) -> Tracks:
        """One point for each segment of the first frame: 'void', 'stuff' or 'object'.

        `visible` is True inside the picture, unless a file says that the point is hidden there.
        """
        ids, points = read_vipseg(self._track_file)
        points = points[start : start + count]
        first = self._pictures[0]
        height, width, _ = image_header(first.read_bytes(), str(first))
        visible = ((points >= 0) & (points < (width, height))).all(axis=2)
        if self._visibility_file.exists():
            visible &= self._visible()[start : start + count]
        return Tracks(points, visible, tuple(kind_of(panoptic_id) for panoptic_id in ids))

    def _visible(self) -> Bool[Array, "f p"]:
        return read_visibility(self._visibility_file, read_vipseg(self._track_file))

    def drawn_maps(self, start: int, count: int) -> None:
        """None: there are points."""

    def camera(self, start: int, count: int) -> Float32[Array, "f 12"] | None:
        """The inverse of what the file holds, which is camera to world."""
        if not self.has_camera:
            return None
        window = slice(start, start + count)
        rotations, translations = (array[window] for array in read_camera(self._camera_file))
        inverse = rotations.swapaxes(1, 2)
        moved = -(inverse @ translations[:, :, None])[:, :, 0]
        return np.concatenate([inverse.reshape(-1, 9), moved], axis=1).astype(np.float32)

    @property
    def has_camera(self) -> bool:
        """Whether there is a file; a link to nowhere counts, so that reading it is an error."""
        return self._camera_file.exists() or self._camera_file.is_symlink()


class VIPSegSource:
    """The videos below a root.

    Raises:
        UserError: naming every video that cannot be read, or if there is none.
    """

    def __init__(self, root: Path):
        self._root = Path(root)
        videos = sorted(entry.name for entry in (root / PICTURES).iterdir() if entry.is_dir())
        clips = [VIPSegClip(root, video) for video in videos]
        problems = [problem for clip in clips for problem in clip.problems()]
        if problems or not clips:
            raise UserError(
                f"Some videos in {root} cannot be read" if clips else f"No videos in {root}",
                expected=f"pictures in {PICTURES}/<video>, as many points in {TRACKS[0]}/"
                f"<video>.json, and as many cameras in {CAMERAS}/<video>/camera.npy if it is there",
                got=listed(problems) or f"no folder in {PICTURES}",
                fix=f"copy or make these files again, or move the videos out of {PICTURES}; "
                "without its camera.npy, a video counts as one whose camera is unknown",
            )
        self.clip_ids = tuple(videos)
        self.num_frames = tuple(clip.num_frames for clip in clips)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __getitem__(self, index: int) -> VIPSegClip:
        return VIPSegClip(self._root, self.clip_ids[index])


def _track_folder(root: Path) -> Path | None:
    return next((root / name for name in TRACKS if (root / name).is_dir()), None)
