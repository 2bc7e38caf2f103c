"""The scene description: all that a render engine needs to know, as frozen dataclasses and JSON.

Engines read nothing else, so the same description gives the same clip on any of them. Matrices are
nested tuples (row by row), lengths metres, colours linear RGB in [0, 1]. Standard library only: the
render environment reads it too.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

VERSION = 2
Matrix = tuple[tuple[float, ...], ...]
Colour = tuple[float, float, float]


class SceneError(ValueError):
    """A scene description that cannot be rendered."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in one frame; conventions of `posetraj_jax.data.records`."""

    k: Matrix
    """3 x 3 intrinsics in pixels of the rendered picture, without skew."""
    rt: Matrix
    """3 x 4 world to camera."""


@dataclass(frozen=True)
class SceneObject:
    """One moving thing."""

    asset: str
    """What it looks like: 'builtin:NAME', or 'object:UID' for a model that the job brings along."""
    size: float
    """Length of the largest side of its box, metres."""
    poses: tuple[Matrix, ...]
    """Rigid 4 x 4 object to world, one per frame; the object stands on z = 0 of its own frame."""


@dataclass(frozen=True)
class Floor:
    """Square tiles with grout on z = 0."""

    tile: float
    """Side of a tile, metres."""
    grout: float
    """Width of the grout, metres."""
    colours: tuple[Colour, Colour]
    """Every tile has a colour between these two."""
    grout_colour: Colour
    picture: str = ""
    """Name of a picture that the job brings along, to lie there again and again instead; `tile` is
    then its width."""


@dataclass(frozen=True)
class Light:
    """A sun and a sky."""

    sun_elevation_deg: float
    sun_azimuth_deg: float
    """Where the sun stands, counter-clockwise from +x as seen from above."""
    sun_strength: float
    """Watts per square metre across the beam."""
    sky_zenith: Colour
    sky_horizon: Colour
    sky_strength: float
    picture: str = ""
    """Name of a panorama (equirectangular) that the job brings along, to be the sky instead."""


@dataclass(frozen=True)
class Scene:
    """One clip to render."""

    clip_id: str
    width: int
    height: int
    fps: float
    seed: int
    """Of the noise of the picture and of the choice of surface points."""
    samples: int
    """Light paths per pixel, before denoising."""
    surface_points: int
    """Tracked points per object spread over its surface, besides floor, centre and contacts."""
    cameras: tuple[Camera, ...]
    """One per frame."""
    objects: tuple[SceneObject, ...]
    floor: Floor
    light: Light
    about: dict[str, Any]
    """How the scene was made; free JSON, ignored by engines."""
    version: int = VERSION

    def __post_init__(self):
        problems = list(_problems(self))
        if problems:
            raise SceneError(f"scene {self.clip_id!r}: " + "; ".join(problems))

    @property
    def frames(self) -> int:
        """How many frames the clip has."""
        return len(self.cameras)


def _problems(scene: Scene):
    if scene.version != VERSION:
        yield f"version {scene.version}, this code reads {VERSION}"
    if not scene.clip_id or not all(c.isalnum() or c in "-_." for c in scene.clip_id):
        yield "clip_id may hold letters, digits, '-', '_' and '.' only"
    for name in ("width", "height", "fps", "samples"):
        if not getattr(scene, name) > 0:
            yield f"{name} must be positive, got {getattr(scene, name)}"
    if not scene.cameras or not scene.objects:
        yield "needs one camera per frame and one object or more"
    for i, camera in enumerate(scene.cameras):
        if not (_is_matrix(camera.k, 3, 3) and _is_matrix(camera.rt, 3, 4)):
            yield f"camera {i} needs a finite 3 x 3 k and 3 x 4 rt"
        elif not _height(camera) > 0:
            yield f"camera {i} is not above the floor"
    for i, thing in enumerate(scene.objects):
        if len(thing.poses) != scene.frames:
            yield f"object {i} has {len(thing.poses)} poses for {scene.frames} frames"
        if not all(_is_matrix(pose, 4, 4) for pose in thing.poses):
            yield f"object {i} needs finite 4 x 4 poses"
        if not thing.size > 0:
            yield f"object {i} needs a positive size"


def _height(camera: Camera) -> float:
    """Of the camera's centre, -R^T T, above z = 0."""
    return -sum(row[2] * row[3] for row in camera.rt)


def _is_matrix(value: Any, rows: int, columns: int) -> bool:
    try:
        return len(value) == rows and all(
            len(row) == columns and all(math.isfinite(x) for x in row) for row in value
        )
    except TypeError:
        return False


def as_matrix(array: Any) -> Matrix:
    """Nested tuples of floats from a NumPy matrix, exact and ready for JSON."""
    return tuple(tuple(float(x) for x in row) for row in array)


def to_json(scene: Scene) -> str:
    """One scene as JSON text; equal scenes give equal text."""
    return json.dumps(asdict(scene), sort_keys=True, allow_nan=False)


def from_json(text: str) -> Scene:
    """Reads what `to_json` wrote.

    Raises:
        SceneError: not JSON, a missing or unknown key, or values that make no scene.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise SceneError(f"not JSON: {error}") from error
    data = _checked(Scene, data)
    data["cameras"] = tuple(Camera(**_checked(Camera, c)) for c in data["cameras"])
    data["objects"] = tuple(SceneObject(**_checked(SceneObject, o)) for o in data["objects"])
    data["floor"] = Floor(**_checked(Floor, data["floor"]))
    data["light"] = Light(**_checked(Light, data["light"]))
    return Scene(**data)


def _checked(cls: type, data: Any) -> dict[str, Any]:
    """The fields of a dataclass from JSON: exactly its keys, lists as tuples."""
    if not isinstance(data, dict):
        raise SceneError(f"{cls.__name__}: expected a JSON object, got {type(data).__name__}")
    wanted = {field.name for field in fields(cls)}
    if wanted != set(data):
        missing, unknown = sorted(wanted - set(data)), sorted(set(data) - wanted)
        raise SceneError(f"{cls.__name__}: missing keys {missing}, unknown keys {unknown}")
    return {k: v if k == "about" else _tuples(v) for k, v in data.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
