"""The Cycles engine, seen from the package: Blender in a process of its own renders to a folder."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.engines import render_env
from data_prep.engines.rendered_clip import Frame, Packing, make_clip
from data_prep.objects.model import Model
from data_prep.objects.model_file import save_model
from data_prep.scenes.scene import Scene
from posetraj_jax.data.clip import Clip


@dataclass(frozen=True)
class Cycles:
    """How Blender is run."""

    python: Path
    """Of the render environment."""
    threads: int = 1
    device: str = "CPU"
    """One of `render_env.DEVICES`."""


def render(
    cycles: Cycles,
    scenes: Sequence[Scene],
    models: Mapping[str, Model],
    pictures: Mapping[str, Path],
    packing: Packing,
    on_clip: Callable[[Clip], None],
) -> None:
    """Renders scenes one after the other, as `Engine.render` says.

    Raises:
        UserError: the worker failed.
    """
    by_id = {scene.clip_id: scene for scene in scenes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {asset: folder / f"model_{number}.npz" for number, asset in enumerate(models)}
        for asset, file in files.items():
            save_model(models[asset], file)

        def on_report(report: dict) -> None:
            if "done" in report:
                scene = by_id[report["clip"]]
                on_clip(load_clip(folder / scene.clip_id, scene, packing))
                shutil.rmtree(folder / scene.clip_id)

        render_env.render(
            cycles.python,
            scenes,
            folder,
            brought={
                "models": {asset: str(file) for asset, file in files.items()},
                "pictures": {name: str(path) for name, path in pictures.items()},
            },
            threads=cycles.threads,
            device=cycles.device,
            on_report=on_report,
        )


def load_clip(folder: Path, scene: Scene, packing: Packing) -> Clip:
    """The record of a clip that the worker finished."""
    with np.load(folder / "annotations.npz") as stored:
        notes = dict(stored)
    frames = [
        Frame(
            _pixels(folder / f"frame_{number:03d}.png", "RGB"),
            _pixels(folder / f"mask_{number:03d}.png", "L"),
            np.load(folder / f"depth_{number:03d}.npy"),
        )
        for number in range(scene.frames)
    ]
    return make_clip(scene, notes, frames, packing)


def _pixels(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert(mode))
