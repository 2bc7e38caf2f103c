"""What is written of a video: itself, beside its tracks, and all settings."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posetraj_jax import video
from posetraj_jax.new_files import new_files, require_places
from posetraj_jax.sampling.generate import Video


def paths_of(out: Path) -> dict[str, Path]:
    """Where the files of a video go, by what they are."""
    return {
        "video": out,
        "tracks": out.parent / f"{out.stem}_tracks{out.suffix}",
        "settings": out.parent / f"{out.stem}_settings.json",
    }


def require_writable(outs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Refuses places that videos cannot be written to, before they are made.

    Args:
        outs: of the videos.
        inputs: all that they are made of.

    Raises:
        UserError: all that is wrong.
    """
    require_places(
        "The video cannot be written there",
        [path for out in outs for path in paths_of(out).values()],
        inputs,
        [
            f"{out}: ends in none of {video.SUFFIXES_IN_WORDS}"
            for out in outs
            if out.suffix.lower() not in video.SUFFIXES
        ],
    )


def write(out: Path, made: Video) -> list[Path]:
    """Writes a video, the same beside itself with its tracks drawn, and the settings as JSON.

    They appear together, the settings last: where they are, all is there.
    """
    paths, fps = paths_of(out), made.settings["fps"]
    first = np.repeat(made.frames_uint8[:1], len(made.frames_uint8), axis=0)
    drawn = [video.draw_polylines(each, made.tracks_px) for each in (first, made.frames_uint8)]
    with new_files(*paths.values()) as (plain, beside, settings):
        video.write_video(plain, made.frames_uint8, fps)
        video.write_video(beside, video.side_by_side(*drawn), fps)
        settings.write_text(json.dumps(made.settings, indent=2) + "\n")
    return list(paths.values())
