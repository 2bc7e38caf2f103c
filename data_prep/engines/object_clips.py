"""The clips of one object: reads it, puts it on its paths, renders, checks and stores each clip.

One task of `render_posetraj10k`; it runs in a worker process.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.engines.engine import Engine, require_sound
from data_prep.engines.rendered_clip import Packing
from data_prep.engines.verify import MIN_OBJECT_PIXELS
from data_prep.fanout.clip_files import clip_path, write_clip
from data_prep.fanout.task import Rejected
from data_prep.objects.convert import convert
from data_prep.objects.model import Model, sides
from data_prep.objects.object_file import read_object
from data_prep.objects.rejections import NeedsConversion
from data_prep.scenes.posetraj import SceneOptions, Thing, make_scene
from data_prep.scenes.scene import SceneError
from data_prep.scenes.toys import BUILTIN
from posetraj_jax.data.clip import Clip
from posetraj_jax.errors import UserError

CONVERSION_SECONDS = 120.0


class Loaded(NamedTuple):
    """An object that is fit for clips."""

    thing: Thing
    model: Model | None
    """None for a built-in toy, which engines make themselves."""
    note: dict[str, Any]
    """What the record says of it."""


def render(job: dict[str, Any], folder: Path) -> None:
    """Renders the clips of `job["objects"][0]` that are not in the folder yet.

    Args:
        job: "objects": {"uid", "name", "path"} of the object and then of those that may share its
            floor ("path" is empty for built-in toys); "companions": how many of these do;
            "pictures": name to path; and the fields of SceneOptions in "scenes", of Engine in
            "engine" and of Packing in "packing".
        folder: of the task.

    Raises:
        Rejected: the object is no good, or no path keeps it in the picture.
        UserError: a clip is not sound, or Blender fails.
    """
    loaded = _load_all(job)
    options = SceneOptions(**{k: _as_tuple(v) for k, v in job["scenes"].items()})
    try:
        scenes = [
            make_scene(options, [each.thing for each in loaded], number)
            for number in range(options.paths_per_object)
        ]
    except SceneError as error:
        raise Rejected(str(error)) from error
    missing = [scene for scene in scenes if not clip_path(folder, scene.clip_id).exists()]
    notes = [each.note for each in loaded]

    def store(clip: Clip) -> None:
        pixels = min(map(min, clip.provenance["alone_pixels"]))
        if pixels < MIN_OBJECT_PIXELS:
            raise Rejected(f"only {pixels} pixels of it are seen, fewer than {MIN_OBJECT_PIXELS}")
        require_sound(clip)
        write_clip(folder, clip._replace(provenance=clip.provenance | {"object_files": notes}))

    models = {each.thing.asset: each.model for each in loaded if each.model is not None}
    pictures = {name: Path(path) for name, path in job["pictures"].items()}
    Engine(**job["engine"]).render(missing, models, pictures, Packing(**job["packing"]), store)


def _load_all(job: dict[str, Any]) -> list[Loaded]:
    """The object and its companions: the first of those offered that are fit."""
    first, *others = job["objects"]
    loaded = [_load(first, job)]
    for other in others:
        if len(loaded) > job["companions"]:
            break
        try:
            loaded.append(_load(other, job))
        except Rejected:
            continue  # it is named where it is the first
    if len(loaded) <= job["companions"]:
        raise Rejected(f"only {len(loaded) - 1} other objects are fit to share its floor")
    return loaded


def _load(described: dict[str, str], job: dict[str, Any]) -> Loaded:
    uid = described["uid"]
    if not described["path"]:
        return _load_toy(uid, job)
    path = Path(described["path"])
    try:
        model = _read(path, job["engine"]["python"])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise Rejected("there is no such file") from error
    note = {"uid": uid, "name": described["name"], "sha256": digest}
    return Loaded(Thing(f"object:{uid}", uid, sides(model)), model, note)


def _load_toy(uid: str, job: dict[str, Any]) -> Loaded:
    asset = f"{BUILTIN}{uid}"
    measured = Engine(**job["engine"]).measure([asset])[asset]
    return Loaded(Thing(asset, uid, measured), None, {"uid": uid, "name": asset})


def _read(path: Path, python: str) -> Model:
    """The model in a file, by way of Blender where only Blender reads it."""
    try:
        return read_object(path)
    except NeedsConversion as error:
        if not Path(python).is_file():
            raise UserError(
                f"{path.name} needs Blender",
                expected="the render environment, to convert it",
                got=f"no {python}",
                fix="run `make render-env`, or give --render_python",
            ) from error
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "converted.glb"
        convert(Path(python), path, converted, CONVERSION_SECONDS)
        return read_object(converted)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
