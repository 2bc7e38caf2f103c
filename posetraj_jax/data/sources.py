"""Opens clips wherever they lie: our records, or folders of PoseTraj-10K or VIPSeg as they are."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from posetraj_jax.data.clip import Array, Clip
from posetraj_jax.data.lazy_clip import BOXED, CLEAN, LazyClip, Source, Tracks, no_box
from posetraj_jax.data.records import MAKE_DATA, ClipRecords, find_datasets, open_dataset
from posetraj_jax.data.tracks import draw_boxes
from posetraj_jax.data.transforms import decode_files, decode_frames, image_header
from posetraj_jax.data.vipseg import VIPSegSource, is_vipseg
from posetraj_jax.errors import UserError, listed

__all__ = ["LazyClip", "OfficialSource", "RecordSource", "Source", "Tracks", "open_source"]

OFFICIAL_FPS = 5.0
"""Frames per second at which the official renderer writes its movies."""

BOXES = "bbox.npy"

OFFICIAL_CORNERS = (0, 2, 3, 1, 4, 6, 7, 5)
"""Corner i of our boxes is corner OFFICIAL_CORNERS[i] of `bbox.npy`.

Official corners 0-1 and 2-3 are the two diagonals of the floor and 4..7 lie above 0..3, so the
floor's ring is 0-2-1-3; ours is 0-1-3-2.
"""


class RecordClip:
    """A clip of a records dataset: its pictures are still JPEG bytes."""

    def __init__(self, clip: Clip):
        self._clip, self.clip_id, self.fps = clip, clip.clip_id, clip.fps

    @property
    def frame_kinds(self) -> tuple[str, ...]:
        """Boxed too, if there is an object."""
        return (CLEAN, BOXED) if self._clip.box_px.shape[1] else (CLEAN,)

    def frames(self, start: int, count: int) -> UInt8[Array, "f h w 3"]:
        """Decodes frames."""
        chosen = self._clip.frames_jpeg[start : start + count]
        return decode_frames(
            {f"frame {start + i} of {self.clip_id}": data for i, data in enumerate(chosen)}
        )

    def boxed_frames(self, start: int, count: int, thickness: int) -> UInt8[Array, "f h w 3"]:
        """Decodes frames and draws the boxes."""
        if not self._clip.box_px.shape[1]:
            raise no_box(self.clip_id, "a record without boxes")
        box_px = self._clip.box_px[start : start + count]
        return draw_boxes(self.frames(start, count), box_px, thickness)

    def tracks(self, start: int, count: int) -> Tracks:
        """The tracked points."""
        window = slice(start, start + count)
        clip = self._clip
        return Tracks(clip.tracks_px[window], clip.tracks_visible[window], clip.track_kinds)

    def drawn_maps(self, start: int, count: int) -> None:
        """None: records have points."""

    @property
    def has_camera(self) -> bool:
        """As recorded."""
        return bool(self._clip.camera_known)

    def camera(self, start: int, count: int) -> Float32[Array, "f 12"] | None:
        """The extrinsics as recorded."""
        if not self.has_camera:
            return None
        rt = self._clip.camera_rt[start : start + count]
        return np.concatenate([rt[:, :, :3].reshape(-1, 9), rt[:, :, 3]], axis=1)


class RecordSource:
    """The clips of a records dataset."""

    def __init__(self, records: ClipRecords):
        self._records = records
        self.clip_ids, self.num_frames = records.clip_ids, records.num_frames

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> RecordClip:
        return RecordClip(self._records[index])


class OfficialClip:
    """A folder `<uid>_<k>_<curve>` of PoseTraj-10K.

    Pictures are `images/*` (clean) and `images_bbox/*` (boxed; or `bbox.npy`, float [t 8 2]); the
    trajectory is `traj.npy` (float [t 2], pixels) or the drawn maps `traj_vid_enhanced/*`.

    Source: the official loader and renderer. Files are ordered by plain string sort.
    Differs: `traj.npy` is preferred to drawn maps, because maps are then drawn at the size of
        training; the official loader only knows drawn maps and scales them.
    """

    def __init__(self, folder: Path):
        self.folder, self.clip_id, self.fps = folder, folder.name, OFFICIAL_FPS
        self._clean = _files(folder / "images")
        self._boxed = _files(folder / "images_bbox")
        self._maps = _files(folder / "traj_vid_enhanced")

    @property
    def num_frames(self) -> int:
        """Frames that a window may use. The last drawn map is beyond the last usable frame."""
        count = len(self._clean or self._boxed)
        return count if self._has_points() else min(count, max(0, len(self._maps) - 1))

    @property
    def frame_kinds(self) -> tuple[str, ...]:
        """Those that are there, or that boxes can be drawn into."""
        boxed = self._boxed or (self._clean and (self.folder / BOXES).is_file())
        return (CLEAN,) * bool(self._clean) + (BOXED,) * bool(boxed)

    def problems(self) -> list[str]:
        """Says what keeps the clip from being read; empty if nothing does."""
        found = []
        if not (self._clean or self._boxed):
            found.append("no pictures in images or images_bbox")
        if not (self._has_points() or self._maps):
            found.append("neither traj.npy nor pictures in traj_vid_enhanced")
        if self._clean and self._boxed and len(self._clean) != len(self._boxed):
            found.append(f"{len(self._clean)} images but {len(self._boxed)} images_bbox")
        first = (self._clean or self._boxed)[:1]
        if first and self._maps and not self._has_points() and self._maps[0].name != first[0].name:
            found.append(f"first map {self._maps[0].name}, first image {first[0].name}")
        return [f"{self.clip_id}: {problem}" for problem in found]

    def frames(self, start: int, count: int) -> UInt8[Array, "f h w 3"]:
        """Decodes clean frames."""
        if not self._clean:
            raise UserError(
                f"Clip {self.folder} has no clean frames",
                expected="pictures in its folder images",
                got="only images_bbox",
                fix="set data.condition_on_box=True to condition on the boxed first frame",
            )
        return decode_files(self._clean[start : start + count])

    def boxed_frames(self, start: int, count: int, thickness: int) -> UInt8[Array, "f h w 3"]:
        """Decodes frames with the box drawn in, or draws it from `bbox.npy`."""
        if self._boxed:
            return decode_files(self._boxed[start : start + count])
        path = self.folder / BOXES
        if not path.is_file():
            raise no_box(str(self.folder), "neither images_bbox nor bbox.npy")
        box_px = _load_array(path, (len(self._clean), 8, 2))[start : start + count]
        return draw_boxes(self.frames(start, count), box_px[:, None, OFFICIAL_CORNERS], thickness)

    def tracks(self, start: int, count: int) -> Tracks | None:
        """The one point on the floor under the object."""
        if not self._has_points():
            return None
        pictures = self._clean or self._boxed
        points = _load_array(self.folder / "traj.npy", (len(pictures), 2))[start : start + count]
        height, width, _ = image_header(pictures[0].read_bytes(), str(pictures[0]))
        inside = ((points >= 0) & (points < (width, height))).all(axis=1)
        return Tracks(points[:, None], inside[:, None], ("floor",))

    def drawn_maps(self, start: int, count: int) -> UInt8[Array, "f h w 3"] | None:
        """Decodes count - 1 maps and adds a black one."""
        if self._has_points():
            return None
        maps = decode_files(self._maps[start : start + count - 1])
        return np.concatenate([maps, np.zeros_like(maps[:1])])

    has_camera = False

    def camera(self, start: int, count: int) -> None:
        """None: the renderer does not write its camera."""

    def _has_points(self) -> bool:
        return (self.folder / "traj.npy").is_file()


class OfficialSource:
    """The clip folders below a root; whatever else lies there is ignored.

    Raises:
        UserError: naming every clip folder that cannot be read.
    """

    def __init__(self, root: Path):
        self._folders = clip_folders(root)
        clips = [OfficialClip(folder) for folder in self._folders]
        problems = [problem for clip in clips for problem in clip.problems()]
        if problems:
            raise UserError(
                f"Some clip folders in {root} cannot be read",
                expected="images or images_bbox, and traj.npy or traj_vid_enhanced, in each",
                got=listed(problems),
                fix="unpack or render these clips again, or move them out of the folder",
            )
        self.clip_ids = tuple(clip.clip_id for clip in clips)
        self.num_frames = tuple(clip.num_frames for clip in clips)

    def __len__(self) -> int:
        return len(self._folders)

    def __getitem__(self, index: int) -> OfficialClip:
        return OfficialClip(self._folders[index])


def open_source(path: Path | str, min_frames: int = 1) -> Source:
    """Opens a dataset of clip records, a folder of official clips, or VIPSeg: whichever is there.

    Args:
        path: the folder.
        min_frames: how many frames a clip must have.

    Raises:
        UserError: if it is none of them, cannot be read, or has clips that are too short; these are
            listed, because leaving them out silently would change what is trained on.
    """
    path = Path(path)
    source: Source
    if find_datasets(path) or not path.is_dir():
        source = RecordSource(open_dataset(path))
    elif is_vipseg(path):
        source = VIPSegSource(path)
    elif clip_folders(path):
        source = OfficialSource(path)
    else:
        raise UserError(
            f"There are no clips in {path}",
            expected="a dataset of clip records (with dataset_info.json), or official clip folders "
            "<uid>_<k>_<curve>/ with images and traj.npy or traj_vid_enhanced, or VIPSeg's folders "
            "imgs/<video>/ and trajectory_CoTracker_all/",
            got=listed(sorted(entry.name for entry in path.iterdir())) or "an empty folder",
            fix=f"correct the path, or make data: {MAKE_DATA}",
        )
    lengths = zip(source.clip_ids, source.num_frames, strict=True)
    short = [f"{clip_id}: {count} frames" for clip_id, count in lengths if count < min_frames]
    if short:
        raise UserError(
            f"Clips in {path} are too short",
            expected=f"at least {min_frames} frames in every clip",
            got=f"{len(short)} of {len(source)} clips:{listed(short)}",
            fix="remove these clips from the data, or set data.num_frames lower",
        )
    return source


def clip_folders(root: Path) -> list[Path]:
    """The folders of official clips right below a folder."""
    parts = ("images", "images_bbox", "traj_vid_enhanced", "traj.npy")
    folders = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda e: e.name)
    return [folder for folder in folders if any((folder / part).exists() for part in parts)]


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_file()), key=lambda p: p.name)


def _load_array(path: Path, shape: tuple[int, ...]) -> Float32[Array, "..."]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        array, got = None, f"{type(error).__name__}: {error}"
    else:
        got = f"{array.dtype} {array.shape}"
    if array is None or array.shape != shape or array.dtype.kind not in "fiu":
        raise _bad_array(path, shape, got)
    if not np.isfinite(array).all():
        raise _bad_array(path, shape, "numbers that are not finite")
    return array.astype(np.float32)


def _bad_array(path: Path, shape: tuple[int, ...], got: str) -> UserError:
    return UserError(
        f"An annotation cannot be used: {path}",
        expected=f"finite numbers of shape {shape}, one row per picture",
        got=got,
        fix="render this clip again, or move it out of the folder",
    )
