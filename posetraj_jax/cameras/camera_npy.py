"""Writes the cameras of a video as `camera.npy`, as TRAM does and `posetraj_jax.data` reads it."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from posetraj_jax.cameras.estimate import Estimate
from posetraj_jax.data.camera_file import ROTATION, TRANSLATION
from posetraj_jax.errors import UserError

METHOD = "posetraj_jax.cameras: corners, bundle adjustment"


def fields(estimate: Estimate) -> dict[str, Any]:
    """What the file holds: TRAM's keys, then our own, of kinds that a reader can skip unread."""
    return {
        ROTATION: np.ascontiguousarray(estimate.rotations, np.float32),
        TRANSLATION: np.ascontiguousarray(estimate.translations, np.float32),
        # TRAM's names and types for the same quantities.
        "img_focal": np.float32(estimate.k[0, 0]),
        "img_center": np.ascontiguousarray(estimate.k[:2, 2], np.float32),
        "intrinsics": np.ascontiguousarray(estimate.k, np.float64),
        "focal_source": estimate.focal_source,
        "motion": estimate.motion,
        "scale": estimate.scale,
        "method": METHOD,
        "rms_px": float(estimate.quality.rms_px),
        "explained": float(estimate.quality.explained),
        "parallax_deg": float(estimate.quality.parallax_deg),
        "weak_frames": np.array(estimate.weak_frames, np.int64),
    }


def write_camera(path: Path, estimate: Estimate) -> None:
    """Writes `camera.npy`; it appears only when it is whole, and replaces one that is there.

    Raises:
        UserError: the system refuses to write there.
    """
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            partial = Path(file.name)
            np.save(file, fields(estimate), allow_pickle=True)
        partial.chmod(0o644)  # temporary files are made for their owner alone
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"A camera cannot be written: {path}",
            expected="a folder where you may write, with room for a few kilobytes",
            got=str(error),
            fix="make room, or choose another folder",
        ) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
