"""A folder of cached latents: a file for every clip, and a fingerprint of what made them.

    FOLDER/encoded.json               format, settings, digest of the encoders' weights
    FOLDER/<clip_id>.safetensors      see `latent_file`

Training reads frames' latents from here in place of their pixels. It refuses a folder whose numbers
are not those that it would compute itself.
"""

import fcntl
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from posetraj_jax import json_file
from posetraj_jax.data import latent_file
from posetraj_jax.data.latent_file import MAKE_LATENTS, Contents, EncodedFrames
from posetraj_jax.errors import UserError, listed

FINGERPRINT = "encoded.json"
ENCODERS = "encoders"
"""The field of the fingerprint with the digest of the encoders' weights."""
FORMAT = 1
"""Changes when what is written does."""

Array = np.ndarray


@dataclass(frozen=True)
class EncoderOptions:
    """How the frozen encoders are run, as far as their numbers depend on it."""

    clip_range: str
    """What CLIP sees of a frame: `conditioning.clip_range` of the config."""
    image_mean: tuple[float, float, float]
    """Of CLIP's images, with the next field: from the weights' preprocessor."""
    image_std: tuple[float, float, float]
    dtype: str
    """Of weights and activations."""


def fingerprint(settings: Mapping[str, Any], encoders: str | None = None) -> dict[str, Any]:
    """What `encoded.json` holds.

    Args:
        settings: all that the numbers depend on besides the pictures and the encoders' weights.
        encoders: the digest of these weights; left out while it is not known.
    """
    fields = {"format": FORMAT, **settings}
    fields |= {} if encoders is None else {ENCODERS: encoders}
    return json.loads(json.dumps(fields))  # tuples are lists, as in the file


def clip_file(folder: Path | str, clip_id: str) -> Path:
    """Where the latents of a clip lie.

    Raises:
        UserError: an id that names no file in this folder; ids may come from a stranger's dataset.
    """
    if "/" in clip_id or "\0" in clip_id:
        raise UserError(
            f"Clip {clip_id!r} cannot have a file of latents",
            expected="an id that can be the name of a file",
            got=repr(clip_id),
            fix="mend what made the clip",
        )
    return Path(folder) / f"{clip_id}.safetensors"


def require_settings(folder: Path | str, wanted: Mapping[str, Any]) -> None:
    """Refuses a folder that was encoded in another way.

    Args:
        wanted: a fingerprint; the encoders' weights are compared if they are in it.

    Raises:
        UserError: no readable fingerprint, or one with other fields, all named.
    """
    problems = _differences(Path(folder), wanted)
    if problems:
        raise UserError(
            f"The latents in {folder} were encoded in another way",
            expected="the settings and the encoders' weights of this config",
            got=listed(problems),
            fix="change these fields, or give the weights of then (encoders); or encode into "
            f"another folder: {MAKE_LATENTS} and --out FOLDER",
        )


def require_clips(
    folder: Path | str,
    settings: Mapping[str, Any],
    clips: Mapping[str, int],
    kinds: frozenset[str],
) -> None:
    """Refuses a folder that a run cannot read all its clips from.

    Args:
        settings: as for `fingerprint`, frame sizes among them.
        clips: id → number of frames.
        kinds: which frames the run reads: clean, boxed or both.

    Raises:
        UserError: no such folder, other settings, or clips that are missing, damaged, of another
            length, or without these kinds of frames; all at once.
    """
    folder = Path(folder)
    problems = _differences(folder, fingerprint(settings))
    size = settings["height"], settings["width"]
    for clip_id, num_frames in clips.items():
        try:
            contents = latent_file.read_contents(clip_file(folder, clip_id))
        except UserError as error:
            problems.append(f"{clip_id}: {error.got}")
        else:
            problems += _misfits(clip_id, contents, Contents(tuple(kinds), num_frames, size))
    if problems:
        raise UserError(
            f"The latents in {folder} are not what this config needs",
            expected=f"the {' and the '.join(sorted(kinds))} frames of {len(clips)} clips, encoded "
            "with its settings",
            got=listed(problems),
            fix=f"make what is missing: {MAKE_LATENTS}, and --out FOLDER if settings differ; or "
            "set data.latents to another folder, or to nothing",
        )


def read(folder: Path | str, clip_id: str, kind: str, start: int, count: int) -> EncodedFrames:
    """Reads a window of one kind of frames.

    Raises:
        UserError: as `latent_file.read`.
    """
    return latent_file.read(clip_file(folder, clip_id), kind, start, count)


def require_same_picture(
    folder: Path | str, clip_id: str, encoded: EncodedFrames, frame: UInt8[Array, "h w 3"]
) -> None:
    """Refuses latents of a clip that has been made again since.

    Args:
        encoded: its first frame is compared.
        frame: that frame, resized.

    Raises:
        UserError: they do not look alike.
    """
    seen = latent_file.thumbnails(frame[None])[0]
    if not latent_file.is_same_picture(seen, encoded.thumbnail[0]):
        raise UserError(
            f"The latents of clip {clip_id} are of other pictures",
            expected="latents of the pictures that are in the data now",
            got=f"others in {clip_file(folder, clip_id)}",
            fix=f"delete the folder of latents and make it again: {MAKE_LATENTS}",
        )


@contextmanager
def writing(folder: Path, wanted: Mapping[str, Any]) -> Iterator[None]:
    """Keeps the folder, new or one with this fingerprint, for this process alone.

    Raises:
        UserError: another fingerprint, other files, another process, or the system refuses.
    """
    with _writes_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with _writes_to(folder):
            _lock(descriptor, folder)
            _claim(folder, wanted)
        yield
    finally:
        os.close(descriptor)


def write(folder: Path, clip_id: str, kinds: Mapping[str, EncodedFrames]) -> None:
    """Writes the latents of a clip.

    Raises:
        UserError: the system refuses; the files of other clips are untouched.
    """
    with _writes_to(folder):
        latent_file.write(clip_file(folder, clip_id), kinds)


def is_finished(folder: Path, clip_id: str, num_frames: int) -> bool:
    """Whether the folder has the latents of this clip."""
    try:
        return latent_file.read_contents(clip_file(folder, clip_id)).num_frames == num_frames
    except UserError:
        return False


def _differences(folder: Path, wanted: Mapping[str, Any]) -> list[str]:
    if not (folder / FINGERPRINT).exists():
        raise UserError(
            f"There are no latents in {folder}",
            expected=f"a folder with {FINGERPRINT}, and a file for every clip",
            got=f"a folder without {FINGERPRINT}" if folder.is_dir() else "no such folder",
            fix=f"make it: {MAKE_LATENTS}; or set data.latents to nothing",
        )
    stored = json_file.read_object(folder / FINGERPRINT, f"make it again: {MAKE_LATENTS}")
    names = sorted(wanted.keys() | stored.keys() - {ENCODERS})
    return [
        f"{name}: {reprlib.repr(stored.get(name))}, not {wanted.get(name)!r}"
        for name in names
        if stored.get(name) != wanted.get(name)
    ]


def _misfits(clip_id: str, got: Contents, wanted: Contents) -> list[str]:
    problems = [f"no {kind} frames" for kind in wanted.kinds if kind not in got.kinds]
    if got.num_frames != wanted.num_frames:
        problems.append(f"{got.num_frames} frames, not {wanted.num_frames}")
    if got.size != wanted.size:
        problems.append(f"frames of {got.size[1]}x{got.size[0]} pixels")
    return [f"{clip_id}: {problem}" for problem in problems]


def _claim(folder: Path, wanted: Mapping[str, Any]) -> None:
    path = folder / FINGERPRINT
    for left in folder.glob(latent_file.partial_of(folder / "*").name):  # by a killed process
        left.unlink()
    if path.exists():
        require_settings(folder, wanted)
        return
    if others := sorted(entry.name for entry in folder.iterdir()):
        raise UserError(
            f"Latents cannot be written to {folder}",
            expected=f"a new or empty folder, or one with {FINGERPRINT}",
            got=listed(others),
            fix="choose another folder with --out",
        )
    partial = latent_file.partial_of(path)
    partial.write_text(json.dumps(wanted, indent=2) + "\n")
    partial.replace(path)


def _lock(descriptor: int, folder: Path) -> None:
    """Keeps other processes away for as long as the descriptor is open."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"Latents cannot be written to {folder}",
            expected="to be the only one who does",
            got="another process that is writing them",
            fix="wait for that process, or choose another folder with --out",
        ) from error


@contextmanager
def _writes_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Latents cannot be written to {folder}",
            expected="a disk with enough room, where you may write",
            got=str(error),
            fix="make room and run the same command again: what is finished is kept; or choose "
            "another folder with --out",
        ) from error
