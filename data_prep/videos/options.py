"""Command line options that all preparations of real video share."""

import argparse
from pathlib import Path

from data_prep.fanout import options as fanout
from data_prep.videos.pictures import Storage
from posetraj_jax.errors import UserError, listed

HEIGHT, WIDTH = 320, 576
MOST_PX = 8192
TIMEOUT_S = 900.0


def add_options(parser: argparse.ArgumentParser, *, licence: str) -> None:
    """Adds root, out, stored size and checks, and the options of the fan-out."""
    parser.add_argument("root", type=Path, help="folder that the videos lie in")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the datasets")
    group = parser.add_argument_group("what is stored")
    add = group.add_argument
    add("--height", type=int, help=f"of the stored frames ({HEIGHT}); the aspect is not kept")
    add("--width", type=int, help=f"of the stored frames ({WIDTH})")
    add("--short_side", type=int, help="in place of both: keeps the aspect, enlarges nothing")
    add("--original", action="store_true", help="in place of these: the original size")
    add("--jpeg_quality", type=int, default=95, help="1 to 95 (%(default)s)")
    add("--min_frames", type=int, default=14, help="videos with less are left out (%(default)s)")
    add("--licence", default=licence, help="text for every record (%(default)r)")
    fanout.add_options(parser, timeout_s=TIMEOUT_S)


def storage_of(options: argparse.Namespace) -> Storage:
    """How pictures are to be stored.

    Raises:
        UserError: numbers out of their range, or sizes that contradict each other.
    """
    size = [options.height, options.width]
    chosen = [size != [None, None], options.short_side is not None, options.original]
    problems = []
    if sum(chosen) > 1:
        problems = ["give --height and --width, or --short_side, or --original"]
    elif size.count(None) == 1:
        problems.append("give both --height and --width")
    ranges = {"height": MOST_PX, "width": MOST_PX, "short_side": MOST_PX}
    ranges |= {"jpeg_quality": 95, "min_frames": 10**6}
    for name, most in ranges.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= most:
            problems.append(f"--{name} {value}: use 1 to {most}")
    if not options.licence.strip():
        problems.append("--licence: empty")
    require_usable(problems)
    if chosen[1] or chosen[2]:
        height = width = 0
    else:
        height, width = (HEIGHT, WIDTH) if None in size else size
    return Storage(height, width, options.short_side or 0, options.jpeg_quality)


def require_usable(problems: list[str]) -> None:
    """Raises UserError if there are problems with options."""
    if problems:
        raise UserError(
            "The options cannot be used",
            expected="options within their ranges that do not contradict each other",
            got=listed(problems),
            fix="change them; --help lists all",
        )
