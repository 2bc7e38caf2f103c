"""Draws every frame of a clip with its annotations on one picture, for people to look at.

    python -m data_prep.contact_sheet DATA --out FOLDER [--clips ID ...]

Clip records. Red: the 3D box. Yellow: the edge of the mask. Blue: the floor track, a green dot
where it is now. White: where the object looks. Dots: other tracked points, green if visible, else
grey. All other clips, such as VIPSeg's: every track, a green dot where it is now, or a grey one
outside the picture; blue for objects, yellow for stuff, white for void, and red for other kinds.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data_prep.engines.verify import decode
from data_prep.scenes import geometry
from posetraj_jax import errors
from posetraj_jax.data.lazy_clip import LazyClip
from posetraj_jax.data.records import Clip, find_datasets, open_dataset
from posetraj_jax.data.sources import open_source
from posetraj_jax.data.tracks import RED, draw_boxes, draw_line
from posetraj_jax.errors import UserError

COLUMNS = 4
YELLOW, BLUE, GREEN, GREY, WHITE = (
    (255, 255, 0), (40, 90, 255), (0, 255, 0), (90, 90, 90), (255, 255, 255),
)  # fmt: skip
KIND_COLOURS = {"object": BLUE, "stuff": YELLOW, "void": WHITE}


def draw_sheet(clip: Clip, *, plain: bool = False) -> np.ndarray:
    """All frames of a clip, four in a row, as RGB [h w 3] uint8; `plain` draws nothing on them."""
    frames = np.stack([decode(jpeg) for jpeg in clip.frames_jpeg])
    if not plain:
        frames = draw_boxes(frames, clip.box_px, thickness=1)
        for index, frame in enumerate(frames):
            _annotate(clip, index, frame)
    return _grid(frames)


def draw_tracks_sheet(clip: LazyClip, num_frames: int, *, plain: bool = False) -> np.ndarray:
    """All frames of a clip that has only tracks, four in a row, as RGB [h w 3] uint8."""
    frames, tracks = clip.frames(0, num_frames).copy(), clip.tracks(0, num_frames)
    for index, frame in enumerate(() if plain or tracks is None else frames):
        for number, kind in enumerate(tracks.kinds):
            points = np.trunc(tracks.points_px[:, number].astype(np.float64))
            for start, end in itertools.pairwise(points):
                draw_line(frame, start, end, KIND_COLOURS.get(kind, RED), 1)
            dot = GREEN if tracks.visible[index, number] else GREY
            here = np.clip(points[index], 0, np.array(frame.shape[1::-1]) - 1)
            cv2.circle(frame, here.astype(int).tolist(), 4, dot, -1)
        _label(frame, f"{clip.clip_id} {index}")
    return _grid(frames)


def _grid(frames: np.ndarray) -> np.ndarray:
    blanks = np.zeros((-len(frames) % COLUMNS, *frames.shape[1:]), np.uint8)
    grid = np.concatenate([frames, blanks])
    return np.concatenate(
        [np.concatenate(list(row), axis=1) for row in grid.reshape(-1, COLUMNS, *frames.shape[1:])]
    )


def _annotate(clip: Clip, index: int, frame: np.ndarray) -> None:
    mask = (decode(clip.masks_png[index]) > 0).astype(np.uint8)
    edges, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(frame, edges, -1, YELLOW, 1)
    for point, kind in enumerate(clip.track_kinds):
        track = clip.tracks_px[:, point].astype(np.int32)
        if kind == "floor":
            cv2.polylines(frame, [track], False, BLUE, 1, cv2.LINE_AA)
        colour = GREEN if clip.tracks_visible[index, point] else GREY
        cv2.circle(frame, track[index].tolist(), 3 if kind == "floor" else 1, colour, -1)
    for pose in clip.object_pose[index].astype(np.float64):
        _arrow(frame, pose, clip.camera_k[index], clip.camera_rt[index])
    _label(frame, f"{clip.clip_id} {index}")


def _label(frame: np.ndarray, text: str) -> None:
    cv2.putText(frame, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, WHITE, 1)


def _arrow(frame: np.ndarray, pose: np.ndarray, k: np.ndarray, rt: np.ndarray) -> None:
    ahead = geometry.transform(pose, np.array([[0.0, 0.0, 0.0], [0.0, -0.8, 0.0]]))
    start, end = geometry.project(ahead, k, rt).astype(int).tolist()
    cv2.arrowedLine(frame, start, end, WHITE, 1, cv2.LINE_AA, tipLength=0.15)


def _open(path: Path, plain: bool) -> tuple[tuple[str, ...], Callable[[int], np.ndarray]]:
    """The ids of the clips in a folder, and what draws the sheet of a clip by its number."""
    if find_datasets(path):
        records = open_dataset(path)
        return records.clip_ids, lambda n: draw_sheet(records[n], plain=plain)
    source = open_source(path)
    return source.clip_ids, lambda n: draw_tracks_sheet(
        source[n], source.num_frames[n], plain=plain
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the sheets of a folder of clips.

    Raises:
        UserError: no such clips.
    """
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.contact_sheet", description=__doc__.splitlines()[0]
    )
    parser.add_argument("data", type=Path, help="clip records, or any other folder of clips")
    parser.add_argument("--out", type=Path, required=True, help="folder for one PNG per clip")
    parser.add_argument("--clips", nargs="*", help="ids of the clips (default: all)")
    parser.add_argument("--plain", action="store_true", help="without annotations")
    options = parser.parse_args(arguments)
    clip_ids, draw = _open(options.data, options.plain)
    chosen = options.clips or clip_ids
    unknown = sorted(set(chosen) - set(clip_ids))
    if unknown:
        raise UserError(
            "These clips are not in the data",
            expected=f"ids such as {', '.join(clip_ids[:3])}",
            got=", ".join(unknown),
            fix="change --clips",
        )
    options.out.mkdir(parents=True, exist_ok=True)
    for clip_id in tqdm(chosen, unit="clip"):
        sheet = draw(clip_ids.index(clip_id))
        cv2.imwrite(str(options.out / f"{clip_id}.png"), sheet[..., ::-1])


if __name__ == "__main__":
    errors.run(main)
