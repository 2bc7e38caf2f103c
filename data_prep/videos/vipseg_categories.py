"""Reads the names of VIPSeg's classes from `panoVIPSeg_categories.json`."""

import json
from pathlib import Path

from data_prep.videos.text_file import read_text
from posetraj_jax.errors import UserError

NUM_CLASSES = 124


def read_categories(path: Path) -> dict[str, str]:
    """Number of a class, as a panoptic id has it (1..124) and as text, to its name.

    The file counts classes from 0, the masks from 1, because their 0 is void: VIPSeg's own script
    (`create_panoptic_video_labels.py`) subtracts one.

    Raises:
        UserError: no such file, or no list of objects with an id of 0..123 and a name.
    """
    try:
        found = json.loads(read_text(path))
        if type(found) is not list or not found:
            raise ValueError("no list")
        names = dict(_class(entry) for entry in found)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"The categories cannot be used: {path}",
            expected=f"a list of objects with 'id' (0 to {NUM_CLASSES - 1}) and 'name'",
            got=f"{type(error).__name__}: {error}",
            fix="take panoVIPSeg_categories.json from VIPSeg, or leave --categories out",
        ) from error
    return {str(number + 1): name for number, name in sorted(names.items())}


def _class(entry: object) -> tuple[int, str]:
    match entry:
        case {"id": int(number), "name": str(name)}:
            if type(number) is int and 0 <= number < NUM_CLASSES:
                return number, name
    raise ValueError(f"an entry such as {str(entry)[:60]}")
