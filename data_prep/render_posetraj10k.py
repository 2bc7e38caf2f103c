"""Renders PoseTraj-10K from object files and packs it as a dataset of clip records.

    python -m data_prep.render_posetraj10k --objects FOLDER --out DIR

Each object travels on `--paths_per_object` floor paths. The same arguments give the same clips,
however many workers there are. A run that was stopped goes on where it was: finished clips lie in
`--parts` until none is missing. Objects that are no good, or that Blender cannot take, are left out
and named with the reason, and the exit code is then 3. Needs `pip install -e .[prep]`, and for the
engine cycles the render environment (`make render-env`).
"""

import argparse
import functools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.engines.engine import Engine, add_options, engine_of
from data_prep.engines.rendered_clip import Packing
from data_prep.fanout import options as fanout
from data_prep.fanout.clip_files import clips_of
from data_prep.fanout.product import Place, Work, make
from data_prep.fanout.task import Outcome, Task, stamp
from data_prep.objects.found import ObjectEntry, find_objects
from data_prep.scenes import looks, posetraj
from data_prep.scenes.posetraj import SceneOptions
from data_prep.scenes.toys import BUILTIN
from posetraj_jax import errors
from posetraj_jax.data.records import require_name, write_dataset
from posetraj_jax.errors import UserError, listed
from posetraj_jax.trajectories import floor_paths

ALONE = (".glb", ".stl", ".fbx", ".usdz")
"""Objects that are one file."""
BESIDE = (
    ".mtl",
    ".bin",
    *([".png", ".jpg", ".jpeg", ".bmp", ".tga", ".tif", ".tiff", ".webp", ".exr", ".hdr", ".ktx2"]),
)
"""Files that an object may consist of besides its own."""
BUILTIN_OBJECTS = BUILTIN.removesuffix(":")
CC0 = "CC0-1.0"
TIMEOUT_S = 3600.0
MOST_JPEG_QUALITY = 95
COMPANION_CANDIDATES = 4
"""Objects that are tried for each place beside the first, where several share the floor."""
RANGES = {
    "seed": (0, 2**32 - 1),
    "paths_per_object": (1, 1000),
    "frames": (2, 1000),
    "width": (64, 4096),
    "height": (64, 4096),
    "samples": (1, 4096),
    "threads": (1, 1024),
    "objects_per_clip": (1, 5),
    "clips_per_shard": (1, 1_000_000),
    "jpeg_quality": (1, MOST_JPEG_QUALITY),
}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.render_posetraj10k",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--objects",
        default=BUILTIN_OBJECTS,
        help="a folder of object files, a list of them (lines `uid path`, or JSON {uid: path} as "
        "the package objaverse gives), builtin, or some of these as builtin:car,duck (%(default)s)",
    )
    add("--out", type=Path, required=True, help="folder that gets the dataset NAME/VERSION")
    add("--name", default="posetraj10k", help="of the dataset (%(default)s)")
    add("--licence", default="", help=f"of the pictures, for the records (builtin: {CC0})")
    add("--jpeg_quality", type=int, default=90, help=f"1 to {MOST_JPEG_QUALITY} (%(default)s)")
    add("--no_depth", action="store_true", help="store no depth: half the size")
    add("--clips_per_shard", type=int, default=256, help="clips per file (%(default)s)")
    _add_scene_options(parser)
    add_options(parser, SceneOptions().samples)
    fanout.add_options(parser, timeout_s=TIMEOUT_S)
    return parser


def _add_scene_options(parser: argparse.ArgumentParser) -> None:
    add, o = parser.add_argument_group("what is filmed").add_argument, SceneOptions()
    add("--seed", type=int, default=o.seed)
    add("--paths_per_object", type=int, default=o.paths_per_object, help="(%(default)s)")
    add("--curves", nargs="+", choices=floor_paths.CURVES, default=o.curves, help="(S circle)")
    add("--heading", choices=floor_paths.HEADINGS, default=o.heading, help="official: centre")
    add("--objects_per_clip", type=int, default=1, help="on the floor at once (%(default)s)")
    add("--camera", choices=posetraj.CAMERAS, default=o.camera, help="(%(default)s)")
    add("--light", choices=looks.LIGHTS, default=o.light, help="official: overhead (%(default)s)")
    add("--floor", choices=looks.FLOOR_KINDS, default=o.floor, help="(%(default)s)")
    add("--floor_pictures", nargs="+", type=Path, default=[], help="pictures, instead of tiles")
    add(
        "--skies",
        nargs="+",
        type=Path,
        default=[],
        help="panoramas: .hdr, .jpg, .png; cycles: .exr",
    )
    add("--frames", type=int, default=o.frames, help="official: 32 (%(default)s)")
    add("--width", type=int, default=o.width, help="official: 720 (%(default)s)")
    add("--height", type=int, default=o.height, help="official: 480 (%(default)s)")
    add("--fps", type=fanout.positive_number, default=o.fps, help="(%(default)s)")


def check(options: argparse.Namespace) -> None:
    """Refuses options that cannot work.

    Raises:
        UserError: with everything that is wrong.
    """
    wrong = [
        f"--{name} is {getattr(options, name)}, it goes from {least} to {most}"
        for name, (least, most) in RANGES.items()
        if not least <= getattr(options, name) <= most
    ]
    through_centre = sorted({"line", "eight"} & set(options.curves))
    if options.heading == "centre" and through_centre:
        wrong.append(f"--heading centre does not go with curves through it: {through_centre}")
    for path in (*options.floor_pictures, *options.skies):
        if not path.is_file():
            wrong.append(f"there is no picture {path}")
    names = [path.name for path in (*options.floor_pictures, *options.skies)]
    if len(set(names)) < len(names):
        wrong.append(f"two pictures have the same name: {sorted(names)}")
    if wrong:
        raise UserError(
            "The clips cannot be rendered as asked",
            expected="legal options",
            got=listed(wrong),
            fix="change these options (see --help)",
        )


def tasks_of(options: argparse.Namespace) -> tuple[list[Task], list[str]]:
    """One task for each object, and the objects' names.

    Raises:
        UserError: no objects, pictures that cannot be read, or no Blender for the engine cycles.
    """
    engine = engine_of(options)
    engine.require_pictures(options.floor_pictures, options.skies)
    entries = _entries(options.objects, engine)
    job = {
        "scenes": asdict(scene_options(options)),
        "companions": options.objects_per_clip - 1,
        "engine_name": engine.name,
        "packing": _packing(options)._asdict(),
        "pictures_made_of": [stamp([p]) for p in (*options.floor_pictures, *options.skies)],
    }
    how = {
        "engine": asdict(engine),
        "pictures": {p.name: str(p.absolute()) for p in (*options.floor_pictures, *options.skies)},
    }
    tasks = []
    for number, entry in enumerate(entries):
        shown = [entry, *_companions(entries, number, options.objects_per_clip - 1)]
        tasks.append(
            Task(
                key=entry.uid,
                work="data_prep.engines.object_clips:render",
                job=job | {"made_of": [_stamp(each) for each in shown]},
                how=how | {"objects": [_described(each) for each in shown]},
                results=options.paths_per_object,
            )
        )
    return tasks, [entry.name for entry in entries]


def _entries(objects: str, engine: Engine) -> list[ObjectEntry]:
    kind, _, chosen = objects.partition(":")
    if kind != BUILTIN_OBJECTS:
        return find_objects(Path(objects))
    names = [asset.removeprefix(BUILTIN) for asset in engine.toys]
    wanted = chosen.split(",") if chosen else names
    if unknown := [name for name in wanted if name not in names]:
        raise UserError(
            f"The engine {engine.name} has no built-in object {unknown[0]!r}",
            expected=f"some of {', '.join(names)}",
            got=objects,
            fix="change --objects",
        )
    return [ObjectEntry(name, Path(), f"{BUILTIN}{name}") for name in dict.fromkeys(wanted)]


def _companions(entries: Sequence[ObjectEntry], number: int, count: int) -> list[ObjectEntry]:
    """Those that follow in the list, round and round: enough to choose from."""
    ahead = min(len(entries) - 1, count * COMPANION_CANDIDATES)
    return [entries[(number + step) % len(entries)] for step in range(1, ahead + 1)]


def _described(entry: ObjectEntry) -> dict[str, str]:
    path = "" if entry.path == Path() else str(entry.path.absolute())
    return {"uid": entry.uid, "name": entry.name, "path": path}


def _stamp(entry: ObjectEntry) -> list[Any]:
    """What tells whether an object is the one that was rendered before."""
    if entry.path == Path():
        return [entry.uid]
    # An object may be in several files: textures, .mtl, .bin. They lie in its folder.
    beside = () if entry.path.suffix.lower() in ALONE else _files_beside(entry.path.parent)
    return [entry.uid, stamp([entry.path, *beside])]


@functools.cache
def _files_beside(folder: Path) -> tuple[Path, ...]:
    """All files in and below a folder that its objects may consist of."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in BESIDE)
    return tuple(sorted(path for path in files if path.is_file()))


def scene_options(options: argparse.Namespace) -> SceneOptions:
    """What all scenes have in common."""
    same = ("seed", "paths_per_object", "heading", "camera", "light", "floor", "samples")
    return SceneOptions(
        **{name: getattr(options, name) for name in (*same, "frames", "width", "height", "fps")},
        curves=tuple(options.curves),
        floor_pictures=tuple(path.name for path in options.floor_pictures),
        sky_pictures=tuple(path.name for path in options.skies),
    )


def _packing(options: argparse.Namespace) -> Packing:
    builtin = options.objects.partition(":")[0] == BUILTIN_OBJECTS
    licence = options.licence or (CC0 if builtin else "that of the objects, see their source")
    return Packing(options.jpeg_quality, not options.no_depth, licence, "posetraj10k")


def main(arguments: Sequence[str] | None = None) -> int:
    """Renders, checks and packs; 0, or 3 if objects were left out."""
    options, beam = fanout.parse(make_parser(), arguments)
    require_name(options.name)
    check(options)
    tasks, names = tasks_of(options)
    place = Place.of_dataset(options.out, options.name, options.parts)
    objects = Path(options.objects)
    work = Work(
        tasks,
        names,
        reads=[objects] if objects.is_dir() else [],
        layout=f"{options.clips_per_shard} clips per file",
    )

    def write(outcomes: Sequence[Outcome]) -> None:
        clips = clips_of(tasks, outcomes, place.parts)
        per_shard = options.clips_per_shard
        write_dataset(clips, options.out, name=options.name, clips_per_shard=per_shard)
        count = sum(len(outcome.results) for outcome in outcomes)
        size = sum(path.stat().st_size for path in place.folder.iterdir()) / 1e6
        print(f"{count} clips of {len(tasks)} objects, {size:.1f} MB: {place.folder}")

    return make(place, work, options, beam, write)


if __name__ == "__main__":
    errors.run(main)
