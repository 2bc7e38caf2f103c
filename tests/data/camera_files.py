"""Camera files for tests: as old and new versions of numpy write them."""

import io
import pickle
from pathlib import Path

import numpy as np

HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"


def turning(num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """A camera that turns about two axes and moves; camera to world."""
    angles = np.linspace(0.1, 0.9, num_frames)
    cos, sin, zero, one = np.cos(angles), np.sin(angles), 0 * angles, 1 + 0 * angles
    about_z = np.array([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])
    about_x = np.array([[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]])
    rotations = about_z.transpose(2, 0, 1) @ about_x.transpose(2, 0, 1)
    return rotations, np.stack([angles, 2 - angles, 3 * angles], axis=1)


def contents(num_frames: int = 5) -> dict:
    """All that TRAM saves, in the types it has."""
    rotations, translations = turning(num_frames)
    return {
        "pred_cam_R": rotations.astype(np.float32),
        "pred_cam_T": translations,
        "world_cam_R": rotations.astype(np.float32),
        "world_cam_T": translations.astype(np.float32),
        "img_focal": np.float64(600.0),
        "img_center": np.array([320.0, 180.0]),
        "spec_focal": 512.5,
    }


class _Pickler(pickle._Pickler):
    """Names numpy's functions as another version of numpy does."""

    def __init__(self, file, protocol: int, core: str):
        super().__init__(file, protocol)
        self.core = core

    def save_global(self, obj, name=None):
        name = name or obj.__qualname__
        module = pickle.whichmodule(obj, name).replace("numpy._core", self.core)
        if self.proto < 4:
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        else:
            self.save(module)
            self.save(name)
            self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)


def packed(program: bytes) -> bytes:
    """A pickle behind the header that np.save writes for a dict."""
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + HEADER.ljust(117) + b"\n" + program


def saved(content, protocol: int = 4, core: str = "numpy._core") -> bytes:
    """The file that np.save makes of a dict with a protocol of pickle and a version of numpy."""
    data = io.BytesIO()
    array = np.empty((), dtype=object)
    array[()] = content
    _Pickler(data, protocol, core).dump(array)
    return packed(data.getvalue())


def write_camera(path: Path, num_frames: int, **changes) -> None:
    """Writes a good camera file with np.save, or one with other fields; None leaves one out."""
    content = {k: v for k, v in (contents(num_frames) | changes).items() if v is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content, allow_pickle=True)
