"""One picture of a dataset: for some clips four moments of frames, boxes, maps and tracks."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from data_prep.looking.clip_sheet import DARK, FONT, FONT_SCALE, GREY, label
from data_prep.looking.statistics import Facts
from posetraj_jax.data.lazy_clip import BOXED, CLEAN, LazyClip
from posetraj_jax.data.tracks import draw_maps
from posetraj_jax.errors import UserError
from posetraj_jax.video import track_colours

Array = np.ndarray

LARGEST = 4000
"""Pixels along either side of the sheet."""
CELL, SMALLEST_CELL = 288, 96
"""Sides of the square that a picture must fit into."""
MOMENTS = 4
GAP, MARGIN = 4, 24
STRIP, TITLE = 64, 26
"""Left of the rows of a clip, and above them, pixels."""
BOX_WIDTH = 250
"""A picture of so many pixels gets a box one pixel wide more."""
BLACK, LINE, DOT = (0, 0, 0), 1, 3
MOST_OUTLINED = 6
"""Ways with a black outline; more of them would hide the picture."""
FAR = 1 << 14
"""Pixels: OpenCV's whole numbers are safe up to here, and no sheet is as large."""
MAP_KINDS = (("floor",), ("object", "stuff"))
"""What training draws: the first of these that a clip has any track of, else all tracks."""


class Cell(NamedTuple):
    """How large the pictures are, and how many clips lie side by side."""

    side: int
    across: int


def moments(num_frames: int) -> list[int]:
    """Numbers of the frames shown: the first, at a third, at two thirds, the last."""
    places = np.linspace(0, num_frames - 1, MOMENTS)
    return np.unique(np.rint(places).astype(int)).tolist()


def cell_for(num_clips: int) -> Cell:
    """The largest cells with which so many clips fit.

    Raises:
        UserError: they do not fit, however small.
    """
    cells = (_cell(num_clips, across) for across in range(1, num_clips + 1))
    best = max(cells, key=lambda cell: (cell.side, -_longest(cell, num_clips)))
    if best.side < SMALLEST_CELL:
        most = max(n for n in range(1, num_clips) if any(_fits(n, a) for a in range(1, n + 1)))
        raise UserError(
            f"{num_clips} clips do not fit on one sheet",
            expected=f"at most {most} clips on {LARGEST}x{LARGEST} pixels",
            got=f"{num_clips}",
            fix="choose fewer with --num_clips or --clips, or draw a sheet for each: --sheets",
        )
    return best


def _cell(num_clips: int, across: int) -> Cell:
    down = -(-num_clips // across)
    wide = (LARGEST - MARGIN) // across - MARGIN - STRIP - MOMENTS * GAP
    high = (LARGEST - MARGIN) // down - MARGIN - TITLE - MOMENTS * GAP
    # Rows are as high as their pictures, which are rarely squares: they are given 2/3 of that.
    return Cell(int(min(CELL, wide // MOMENTS, 1.5 * high // MOMENTS)), across)


def _fits(num_clips: int, across: int) -> bool:
    return _cell(num_clips, across).side >= SMALLEST_CELL


def _longest(cell: Cell, num_clips: int) -> float:
    """The longer side of the sheet, about; of sheets with equal cells the squarest is the best."""
    down = -(-num_clips // cell.across)
    return MOMENTS * cell.side * max(cell.across, down / 1.5)


def draw_block(clip: LazyClip, facts: Facts, side: int) -> UInt8[Array, "_ _ 3"]:
    """The rows of one clip with their title; every picture fits into `side` x `side` x 2/3.

    Raises:
        UserError: a picture that cannot be decoded.
    """
    height, width = facts.size
    scale = min(side / width, side / 1.5 / height)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    frames = moments(facts.num_frames)
    rows = _rows(clip, facts, frames, size)
    block_width = STRIP + MOMENTS * (side + GAP)
    block = np.full((TITLE + len(rows) * (size[0] + GAP), block_width, 3), DARK, np.uint8)
    label(block, _fitting(_title(clip, facts), block_width), (2, 17))
    for number, (name, pictures) in enumerate(rows.items()):
        top = TITLE + number * (size[0] + GAP)
        label(block, name, (2, top + size[0] // 2))
        for column, (index, picture) in enumerate(pictures):
            left = STRIP + column * (side + GAP)
            label(picture, str(index), (3, 13))
            block[top : top + size[0], left : left + size[1]] = picture
    return block


def join(blocks: Sequence[UInt8[Array, "_ _ 3"]], across: int) -> UInt8[Array, "_ _ 3"]:
    """Blocks of equal widths, row by row."""
    rows = [blocks[start : start + across] for start in range(0, len(blocks), across)]
    heights = [max(len(block) for block in row) for row in rows]
    width = blocks[0].shape[1]
    columns = min(across, len(blocks))
    shape = (sum(heights) + MARGIN * (len(rows) + 1), (width + MARGIN) * columns + MARGIN, 3)
    sheet = np.full(shape, DARK, np.uint8)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, block in enumerate(row):
            left = MARGIN + column * (width + MARGIN)
            sheet[top : top + len(block), left : left + width] = block
        top += height + MARGIN
    return sheet


def _rows(
    clip: LazyClip, facts: Facts, frames: list[int], size: tuple[int, int]
) -> dict[str, list[tuple[int, Array]]]:
    """Name of each row → number of the frame and picture."""
    clean = CLEAN in clip.frame_kinds
    thickness = max(2, round(facts.size[1] / BOX_WIDTH))
    rows: dict[str, list[tuple[int, Array]]] = {}
    if clean:
        rows["frames"] = [(t, _scaled(clip.frames(t, 1)[0], size)) for t in frames]
    if BOXED in clip.frame_kinds:
        boxed = [(t, _scaled(clip.boxed_frames(t, 1, thickness)[0], size)) for t in frames]
        rows["boxes"] = boxed
    rows["maps"] = _maps(clip, facts, frames, size)
    shown = rows["frames" if clean else "boxes"]
    if facts.track_kinds:
        rows["tracks"] = _tracks(clip, facts, [picture for _, picture in shown], frames, size)
    return rows


def _maps(
    clip: LazyClip, facts: Facts, frames: list[int], size: tuple[int, int]
) -> list[tuple[int, Array]]:
    """As the network sees them; the last one is always black, so the one before it is shown."""
    last = max(0, facts.num_frames - 2)
    shown = [min(t, last) for t in frames]
    tracks = clip.tracks(0, facts.num_frames)
    if tracks is None:
        return [(t, _scaled(clip.drawn_maps(t, 2)[0], size)) for t in shown]
    chosen = next(
        (kinds for kinds in MAP_KINDS if any(kind in kinds for kind in tracks.kinds)), tracks.kinds
    )
    points = tracks.points_px[:, [kind in chosen for kind in tracks.kinds]]
    return [(t, draw_maps(points[t : t + 2], facts.size, size)[0]) for t in shown]


def _tracks(
    clip: LazyClip, facts: Facts, pictures: list[Array], frames: list[int], size: tuple[int, int]
) -> list[tuple[int, Array]]:
    """The way of every point so far, and a dot where it is: grey if it is hidden there."""
    tracks = clip.tracks(0, facts.num_frames)
    points = np.clip(tracks.points_px * np.divide(size[::-1], facts.size[::-1]), -FAR, FAR)
    points = np.rint(points).astype(np.int32)
    drawn = [picture.copy() for picture in pictures]
    outline, dot_radius = (2, DOT) if points.shape[1] <= MOST_OUTLINED else (0, DOT - 1)
    for number, colour in enumerate(track_colours(points.shape[1])):
        for t, picture in zip(frames, drawn, strict=True):
            for ink, wider in ((BLACK, outline), (colour, 0)):
                way = [np.ascontiguousarray(points[: t + 1, number, None])]
                cv2.polylines(picture, way, False, ink, LINE + wider, cv2.LINE_AA)
            dot = colour if tracks.visible[t, number] else GREY
            for ink, radius in ((BLACK, dot_radius + 1), (dot, dot_radius)):
                cv2.circle(picture, points[t, number].tolist(), radius, ink, -1, cv2.LINE_AA)
    return list(zip(frames, drawn, strict=True))


def _scaled(picture: UInt8[Array, "h w 3"], size: tuple[int, int]) -> UInt8[Array, "_ _ 3"]:
    small = size[0] < picture.shape[0]
    kind = cv2.INTER_AREA if small else cv2.INTER_LINEAR
    return cv2.resize(picture, size[::-1], interpolation=kind)


def _title(clip: LazyClip, facts: Facts) -> str:
    height, width = facts.size
    parts = [
        clip.clip_id,
        f"{facts.num_frames} frames, {facts.fps:g}/s, {width}x{height}",
        *facts.curves,
        f"camera {facts.camera}",
        f"{len(facts.track_kinds)} tracks" if facts.track_kinds else "drawn maps",
        *facts.parts,
    ]
    return "   ".join(parts)


def _fitting(text: str, width: int) -> str:
    """As much of a text as fits into so many pixels."""
    text = text if text.isascii() else ascii(text)
    short = text
    while short and cv2.getTextSize(short, FONT, FONT_SCALE, 1)[0][0] > width - 8:
        text = text[:-1]
        short = f"{text}..."
    return short
