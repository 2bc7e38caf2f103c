"""What is written of a video: itself, beside its tracks, and all settings."""

import json
from pathlib import Path

import numpy as np

from posetraj_jax import video
from posetraj_jax.errors import UserError, listed
from posetraj_jax.sampling.generate import Video

SUFFIXES = (".mp4", ".gif", "")


def paths_of(out: Path) -> dict[str, Path]:
    """Where the files of a video go, by what they are."""
    return {
        "video": out,
        "tracks": out.with_name(f"{out.stem}_tracks{out.suffix}"),
        "settings": out.with_name(f"{out.stem}.json"),
    }


def require_writable(outs: list[Path]) -> None:
    """Refuses places that a video cannot be written to, before it is made.

    Raises:
        UserError: all that is wrong.
    """
    wrong = [f"{path}: given twice" for path in sorted(set(outs)) if outs.count(path) > 1]
    for out in outs:
        if out.suffix.lower() not in SUFFIXES or not out.name:
            wrong.append(f"{out}: ends in none of {video.SUFFIXES}")
        for path in paths_of(out).values():
            there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
            if there.is_dir() if there == path.absolute() else not there.is_dir():
                wrong.append(f"{path}: {there} is {'a folder' if there.is_dir() else 'a file'}")
    if wrong:
        raise UserError(
            "The video cannot be written there",
            expected=f"new files, or files to replace, that end in {video.SUFFIXES}",
            got=listed(list(dict.fromkeys(wrong))),
            fix="choose another --out",
        )


def write(out: Path, made: Video) -> list[Path]:
    """Writes a video, the same beside itself with its tracks drawn, and the settings as JSON.

    The settings come last: where they are, all is there.
    """
    paths, fps = paths_of(out), made.settings["fps"]
    first = np.repeat(made.frames_uint8[:1], len(made.frames_uint8), axis=0)
    drawn = [video.draw_polylines(each, made.tracks_px) for each in (first, made.frames_uint8)]
    video.write_video(paths["video"], made.frames_uint8, fps)
    video.write_video(paths["tracks"], video.side_by_side(*drawn), fps)
    with video.appearing_whole(paths["settings"]) as partial:
        partial.write_text(json.dumps(made.settings, indent=2) + "\n")
    return list(paths.values())
