"""What turns scenes into clips: Blender with Cycles, or our own NumPy. Same scenes and records."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.engines import annotations, cycles, fast, picture_files, render_env, verify
from data_prep.engines.rendered_clip import Packing, make_clip
from data_prep.objects.model import Model, sides
from data_prep.objects.toy_models import TOYS, toy_model
from data_prep.scenes.scene import Scene
from data_prep.scenes.toys import BUILTIN_ASSETS
from posetraj_jax.data.clip import Clip
from posetraj_jax.data.transforms import MAX_PIXELS
from posetraj_jax.errors import UserError, listed

CYCLES, FAST = ENGINES = ("cycles", "fast")

PICTURES = {
    CYCLES: "pictures that Blender reads: .png, .jpg, .hdr, .exr",
    FAST: f"PNG or JPEG, for skies also .hdr (Radiance), of at most {MAX_PIXELS:,} pixels",
}
Sides = tuple[float, float, float]


@dataclass(frozen=True)
class Engine:
    """Which engine, and how Cycles is run."""

    name: str
    python: str
    """Of the render environment."""
    threads: int
    """Of each Blender."""
    device: str
    """One of `render_env.DEVICES`."""

    @property
    def toys(self) -> tuple[str, ...]:
        """The built-in assets it has."""
        return TOYS if self.name == FAST else BUILTIN_ASSETS

    def measure(self, assets: Sequence[str]) -> dict[str, Sides]:
        """Side lengths (x, y, z) of built-in assets when their largest side is 1."""
        if self.name == FAST:
            return {asset: sides(toy_model(asset)) for asset in assets}
        return render_env.measure(Path(self.python), assets)

    def require_pictures(self, floors: Sequence[Path], skies: Sequence[Path]) -> None:
        """Refuses pictures that this engine cannot read, from their headers: no pixel is decoded.

        Raises:
            UserError: naming all of them, each with what is wrong.
        """
        wrong = [
            f"{path}: {problem}"
            for paths, sky in ((floors, False), (skies, True))
            for path in paths
            if (problem := self._problem_of_picture(path, sky))
        ]
        if wrong:
            raise UserError(
                f"The engine {self.name} cannot read {len(wrong)} of the pictures",
                expected=PICTURES[self.name],
                got=listed(wrong),
                fix="give other pictures, or convert them",
            )

    def _problem_of_picture(self, path: Path, sky: bool) -> str:
        if self.name == CYCLES:
            return picture_files.problem_for_cycles(path)
        return picture_files.problem_for_fast(path, sky=sky)

    def render(
        self,
        scenes: Sequence[Scene],
        models: Mapping[str, Model],
        pictures: Mapping[str, Path],
        packing: Packing,
        on_clip: Callable[[Clip], None],
    ) -> None:
        """Renders scenes one after the other.

        Args:
            scenes: what.
            models: of all assets that are no built-in ones.
            pictures: files of the pictures that the scenes name.
            packing: how clips are stored.
            on_clip: called with each clip as soon as it is there.

        Raises:
            UserError: Blender fails, or a picture cannot be read.
        """
        if self.name == CYCLES:
            blender = cycles.Cycles(Path(self.python), self.threads, self.device)
            cycles.render(blender, scenes, models, pictures, packing, on_clip)
            return
        for scene in scenes:
            shown = [models.get(o.asset) or toy_model(o.asset) for o in scene.objects]
            notes = annotations.annotate(scene, fast.surfaces(scene, shown), fast.ENGINE)
            on_clip(make_clip(scene, notes, list(fast.render(scene, shown, pictures)), packing))


def add_options(parser: argparse.ArgumentParser, samples: int) -> None:
    """Adds the options of `engine_of`, and `--samples` with this default."""
    add = parser.add_argument_group("how it is rendered").add_argument
    add("--engine", choices=ENGINES, default=CYCLES, help="fast needs no Blender")
    add("--samples", type=int, default=samples, help="light paths per pixel (%(default)s)")
    add("--device", choices=render_env.DEVICES, default="auto", help="of cycles (%(default)s)")
    add("--threads", type=int, default=1, help="of each Blender (%(default)s)")
    add("--render_python", type=Path, help="Python with bpy (default: that of .venv-render)")


def engine_of(options: argparse.Namespace) -> Engine:
    """The engine that the options name.

    Raises:
        UserError: it is Cycles, and there is no render environment.
    """
    python = options.render_python or render_env.DEFAULT_PYTHON
    if options.engine == CYCLES:
        render_env.find_python(python)
    return Engine(options.engine, str(python), options.threads, options.device)


def require_sound(clip: Clip, problems_of: Callable[[Clip], list[str]] = verify.problems) -> None:
    """Refuses a rendered clip whose annotations and pixels disagree.

    Raises:
        UserError: naming what is wrong.
    """
    wrong = problems_of(clip)
    if wrong:
        raise UserError(
            f"Clip {clip.clip_id!r} is not sound",
            expected="annotations that agree with the pictures",
            got=listed(wrong),
            fix="start again; if it comes again, report a defect with the scene",
        )
