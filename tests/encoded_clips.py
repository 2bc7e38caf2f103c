"""A small dataset whose frames all differ, and the config of a run on it, for latents."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from posetraj_jax import config_file
from posetraj_jax.data.records import write_dataset
from tests.data.clips import HEIGHT, WIDTH, jpeg, make_clip

WITHOUT_BOX = 2
"""The number of the clip that has no object."""
OBJECT_FIELDS = ("box_world", "box_px", "object_pose")


def textured(rng: np.random.Generator) -> np.ndarray:
    """A picture of large random patches: JPEG and the encoders keep what tells it apart."""
    patches = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    return patches.repeat(16, axis=0).repeat(16, axis=1)


def write_clips(folder: Path, lengths: tuple[int, ...], seed: int = 0) -> Path:
    """Clips clip-000 … of these lengths, 64 x 128."""
    rng = np.random.default_rng(seed)
    clips = []
    for number, length in enumerate(lengths):
        clip = make_clip(0, length, clip_id=f"clip-{number:03d}")
        if number == WITHOUT_BOX:
            clip = clip._replace(**{name: getattr(clip, name)[:, :0] for name in OBJECT_FIELDS})
        frames = tuple(jpeg(textured(rng)) for _ in range(length))
        clips.append(clip._replace(frames_jpeg=frames))
    return write_dataset(clips, folder)


def config(folder: Path, spec: str = "stage1:micro", **fields: Any) -> ConfigDict:
    """The smallest run on these clips; 64 x 64, so that frames are resized too."""
    overrides = {"data.path": folder, "init_from": "", **fields}
    return config_file.load(spec, {name: str(value) for name, value in overrides.items()})
