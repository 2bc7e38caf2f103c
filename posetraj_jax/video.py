"""Reads and writes short videos, and draws what makes them comparable: paths, rows, sheets.

Frames are uint8 RGB [f h w 3] everywhere. Files appear only when they are whole.
"""

import colorsys
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageSequence, UnidentifiedImageError

from posetraj_jax import picture
from posetraj_jax.errors import UserError
from posetraj_jax.new_files import new_files

Array = np.ndarray

READ_ERRORS = (
    OSError,
    ValueError,
    IndexError,  # a container without a video stream
    SyntaxError,  # Pillow's word for a broken picture
    Image.DecompressionBombError,
    av.FFmpegError,
)
MAX_FRAMES = 2_000
MAX_PIXELS = 64_000_000
"""Of one frame. Files can claim any size; nothing larger than this is decoded."""

SUFFIXES = (".mp4", ".gif", "")
SUFFIXES_IN_WORDS = f"{', '.join(filter(None, SUFFIXES))}, or none for a folder of PNG files"
PICTURE_IN_WORDS = f"a picture ({', '.join(picture.FORMATS)}) of up to 8 or 16 bits a colour"
GIF_DITHER = 10
"""Grey levels from the darkest to the brightest point of the dither pattern."""
SUBPIXEL_BITS = 4
FAR = 1 << 14


def write_video(path: Path | str, frames_uint8: UInt8[Array, "f h w 3"], fps: float | int) -> Path:
    """Writes frames as .mp4 (H.264), .gif, or a folder of PNG files, by the path's suffix.

    MP4 needs even sizes: a row or column is repeated where one is odd. GIF has one palette and one
    fixed dither pattern for all frames, so still parts stay still; its times are in steps of 10 ms,
    and equal frames in a row are stored once. Only PNG is lossless.

    Args:
        path: replaced if it is a file; its folder is made if absent.
        frames_uint8: at least one frame.
        fps: frames per second, above 0.

    Raises:
        UserError: for another suffix, no frames, an fps of 0 or less, or an existing folder.
    """
    path = Path(path)
    writers = dict(zip(SUFFIXES, (_write_mp4, _write_gif, _write_pngs), strict=True))
    if path.suffix.lower() not in writers or path.is_dir():
        raise UserError(
            f"A video cannot be written to {path}",
            expected=f"a path that ends in {SUFFIXES_IN_WORDS}, and is not an existing folder",
            got="an existing folder" if path.is_dir() else f"suffix {path.suffix!r}",
            fix="choose another path",
        )
    if not len(frames_uint8) or not (np.isfinite(fps) and fps > 0):
        raise UserError(
            f"A video cannot be written to {path}",
            expected="at least one frame, and a positive number of frames per second",
            got=f"{len(frames_uint8)} frames at {fps} per second",
            fix="check what made the frames",
        )
    with new_files(path) as (partial,):
        writers[path.suffix.lower()](partial, frames_uint8, fps)
    return path


def write_image(path: Path, image_uint8: UInt8[Array, "h w 3"]) -> Path:
    """Writes one picture; its suffix says how, and its folder is made if absent.

    Raises:
        UserError: for a suffix that is none of `picture.SUFFIXES`.
    """
    if problem := picture_problem(path):
        raise UserError(
            f"A picture cannot be written to {path}",
            expected=f"a path that ends in one of {' '.join(picture.SUFFIXES)}",
            got=problem,
            fix="choose another path",
        )
    with new_files(path) as (partial,):
        Image.fromarray(image_uint8).save(partial)
    return path


def picture_problem(path: Path) -> str | None:
    """What is wrong with the suffix of a picture to write, if anything."""
    if path.suffix.lower() in picture.SUFFIXES:
        return None
    return f"{path}: ends in none of {' '.join(picture.SUFFIXES)}"


def read_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> UInt8[Array, "h w 3"]:
    """Reads one picture as `picture.rgb_of` shows it, of one of `picture.FORMATS`.

    Args:
        path: of the picture.
        max_pixels: how many pixels it may have.

    Raises:
        UserError: if it is absent, no picture of these kinds, damaged, or too large.
    """
    path = Path(path)
    try:
        if not path.is_file():  # a pipe may never end
            raise ValueError("not a file" if path.exists() else "no such file")
        with Image.open(path, formats=picture.FORMATS) as image:
            return rgb_within(image, max_pixels)
    except READ_ERRORS as error:
        raise UserError(
            f"A picture cannot be read: {path}",
            expected=f"{PICTURE_IN_WORDS}, of at most {max_pixels:,} pixels",
            got=str(error),
            fix="check the path, or convert the file with a picture tool",
        ) from error


def rgb_within(image: Image.Image, max_pixels: int = MAX_PIXELS) -> UInt8[Array, "h w 3"]:
    """A picture as `picture.rgb_of` shows it; raises one of READ_ERRORS, also if it is too large.

    Nothing is decoded before the size is known.
    """
    _check_pixels(image.width, image.height, max_pixels)
    return picture.rgb_of(image)


def _write_mp4(path: Path, frames: Array, fps: float | int) -> None:
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _write_gif(path: Path, frames: Array, fps: float | int) -> None:
    sample = np.concatenate(frames[:: max(1, len(frames) // 16)])
    palette = Image.fromarray(sample).quantize(256, Image.Quantize.MEDIANCUT)
    dither = _bayer(*frames.shape[1:3])[..., None] * GIF_DITHER
    pictures = [
        Image.fromarray(np.clip(frame + dither, 0, 255).astype(np.uint8)).quantize(
            palette=palette, dither=Image.Dither.NONE
        )
        for frame in frames
    ]
    # Rounding the times, not the durations, keeps the whole video at its speed.
    times = np.rint(np.arange(len(frames) + 1) * 100 / fps) * 10
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=[int(ms) for ms in np.maximum(np.diff(times), 10)],
        loop=0,
    )


def _bayer(height: int, width: int) -> Array:
    """Bayer's ordered dither, -0.5 .. 0.5, in tiles of 8 x 8: smooths bands and never flickers."""
    tile = np.zeros((1, 1))
    for _ in range(3):
        tile = np.block([[4 * tile, 4 * tile + 2], [4 * tile + 3, 4 * tile + 1]])
    tile = (tile + 0.5) / tile.size - 0.5
    return np.tile(tile, (-(-height // 8), -(-width // 8)))[:height, :width]


def _write_pngs(path: Path, frames: Array, fps: float | int) -> None:
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index:05d}.png")


def read_video(
    path: Path | str,
    max_frames: int = MAX_FRAMES,
    max_pixels: int = MAX_PIXELS,
    *,
    start: int = 0,
    stride: int = 1,
) -> tuple[UInt8[Array, "f h w 3"], float]:
    """Reads frames of a video file, a GIF, or a folder of pictures (sorted by name).

    Args:
        path: the file or folder.
        max_frames: how many frames to read at most; later ones are not decoded.
        max_pixels: how many pixels a frame may have.
        start: the first frame to read.
        stride: 1 = every frame from there on, 2 = every other...

    Returns:
        The frames, and how many of them a second has; 0 where the source does not say (folders).

    Raises:
        UserError: if it is absent, no video, empty, damaged, too large, or changes size.
    """
    path = Path(path)
    frames: list[Array] = []
    try:
        if path.is_dir():
            fps, pictures = 0.0, _read_folder(path, max_pixels)
        elif not path.is_file():  # a pipe may never end
            raise ValueError("not a file" if path.exists() else "no such file")
        elif path.suffix.lower() == ".gif":
            fps, pictures = _read_gif(path, max_pixels)
        else:
            fps, pictures = _read_container(path, max_pixels)
        for frame in itertools.islice(pictures, start, None, stride):
            if frames and frame.shape != frames[0].shape:
                raise ValueError(f"frame {len(frames)} has another size: {frame.shape[:2]}")
            frames.append(frame)
            if len(frames) == max_frames:
                break
        if not frames:
            raise ValueError("no frames")
    except READ_ERRORS as error:
        raise UserError(
            f"A video cannot be read: {path}",
            expected=f"a video or a folder of pictures, of at most {max_pixels} pixels a frame",
            got=f"{error} (after {len(frames)} frames)",
            fix="check the path, or convert the file with a video tool",
        ) from error
    return np.stack(frames), fps / stride


def _read_container(path: Path, max_pixels: int) -> tuple[float, Iterator[Array]]:
    container = av.open(str(path))
    stream = container.streams.video[0]
    _check_pixels(stream.codec_context.width, stream.codec_context.height, max_pixels)
    stream.thread_type = "AUTO"

    def frames() -> Iterator[Array]:
        with container:
            for frame in container.decode(stream):
                _check_pixels(frame.width, frame.height, max_pixels)
                yield frame.to_ndarray(format="rgb24")

    return float(stream.average_rate or 0), frames()


def _read_gif(path: Path, max_pixels: int) -> tuple[float, Iterator[Array]]:
    image = Image.open(path, formats=["GIF"])
    _check_pixels(image.width, image.height, max_pixels)
    frames = itertools.islice(ImageSequence.Iterator(image), MAX_FRAMES)
    durations_ms = [frame.info.get("duration", 0) for frame in frames]
    fps = 1000 * len(durations_ms) / sum(durations_ms) if sum(durations_ms) else 0.0
    return fps, (picture.rgb_of(frame) for frame in ImageSequence.Iterator(image))


def _read_folder(path: Path, max_pixels: int) -> Iterator[Array]:
    for file in sorted(filter(Path.is_file, path.iterdir()), key=lambda p: p.name):
        try:
            image = Image.open(file, formats=picture.FORMATS)
        except (UnidentifiedImageError, IsADirectoryError):
            continue  # a note or a list beside the pictures
        with image:
            yield rgb_within(image, max_pixels)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"{width}x{height} is more than {max_pixels} pixels")


def draw_polylines(
    frames_uint8: UInt8[Array, "f h w 3"],
    tracks_px: Float[Array, "f p 2"],
    *,
    thickness: int = 2,
) -> UInt8[Array, "f h w 3"]:
    """Returns copies of the frames with each point's path so far and a dot where it is now.

    Antialiased, outlined in black, one colour per point: for people, never for the network.

    Args:
        frames_uint8: RGB frames.
        tracks_px: (x, y) in pixels of the frames, pixel centres at 0.5; not finite = not drawn.
        thickness: of the path, pixels; the dot is in proportion.
    """
    drawn = frames_uint8.copy()
    known = np.isfinite(tracks_px).all(axis=-1)
    colours = track_colours(tracks_px.shape[1])
    for t, frame in enumerate(drawn):
        for track, colour in enumerate(colours):
            path = tracks_px[: t + 1, track][known[: t + 1, track]]
            for extra, ink in ((2, (0, 0, 0)), (0, colour)):
                draw_path(frame, path, ink, thickness + extra)
                if known[t, track]:
                    draw_dot(frame, tracks_px[t, track], ink, 2 * thickness + extra // 2)
    return drawn


def track_colours(count: int) -> list[tuple[int, int, int]]:
    """Returns RGB colours that differ as much as `count` bright hues can; the first is orange."""
    hues = ((0.08 + 0.618034 * index) % 1 for index in range(count))  # golden ratio: never close
    bright = (colorsys.hsv_to_rgb(hue, 0.75, 1.0) for hue in hues)
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in bright]


def draw_path(
    picture_uint8: UInt8[Array, "h w 3"],
    points_px: Float[Array, "n 2"],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    """Draws an antialiased line through points (x, y), pixel centres at 0.5, into a picture."""
    points = _subpixels(points_px)
    cv2.polylines(picture_uint8, [points], False, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_dot(
    picture_uint8: UInt8[Array, "h w 3"],
    point_px: Float[Array, "2"],
    colour: tuple[int, int, int],
    radius: int,
) -> None:
    """Draws an antialiased disc at (x, y), pixel centres at 0.5, into a picture."""
    x, y = _subpixels(point_px).tolist()
    radius <<= SUBPIXEL_BITS
    cv2.circle(picture_uint8, (x, y), radius, colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)


def _subpixels(points_px: Float[Array, "*n 2"]) -> Array:
    # OpenCV's whole numbers are pixel centres.
    points = np.clip(points_px, -FAR, FAR) - 0.5
    return np.rint(points * (1 << SUBPIXEL_BITS)).astype(np.int32)


def side_by_side(*videos: UInt8[Array, "_ _ _ 3"], gap: int = 8) -> UInt8[Array, "f h w 3"]:
    """Puts videos of equal length and height into one row, `gap` white columns between them."""
    lengths = {video.shape[:2] for video in videos}
    if len(lengths) != 1:
        raise ValueError(f"videos differ in frames or height: {sorted(lengths)}")
    white = np.full((*lengths.pop(), gap, 3), 255, np.uint8)
    row = [part for video in videos for part in (white, video)][1:]
    return np.concatenate(row, axis=2)


def contact_sheet(
    frames_uint8: UInt8[Array, "f h w 3"], columns: int = 7, gap: int = 4
) -> UInt8[Array, "_ _ 3"]:
    """Lays the frames out row by row on white, as one picture."""
    count, height, width, _ = frames_uint8.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    for index, frame in enumerate(frames_uint8):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = frame
    return sheet
