"""A camera above a floor: which pixel is which place, both ways.

The world has its origin on the floor under the camera: x to the right, y forward, z up, in metres.
Pixels are (x, y), and the picture spans [0, width] x [0, height].
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from posetraj_jax.errors import UserError, listed

Array = np.ndarray

OFFICIAL_HEIGHT_M, OFFICIAL_PITCH_DEG = 2.3, 23.0
OFFICIAL_FOCAL = (1000 / 720, 1000 / 480)
"""In widths and in heights of the picture: the official 720 x 480 view is stretched to any size."""
NEAREST_M = 0.1
"""Along the optical axis; the official camera shows nothing that is nearer."""
FARTHEST_FLOOR_M = 1_000.0


class FloorCamera(NamedTuple):
    """A camera that looks over the floor, upright, in any direction."""

    size: tuple[int, int]
    """(height, width) of the picture, pixels."""
    height_m: float
    """Above the floor."""
    pitch_deg: float
    """Downwards: 0 looks at the horizon, 90 straight down."""
    focal_px: tuple[float, float]
    """Along x and along y; they differ where the picture was stretched."""


def make_camera(
    size: tuple[int, int],
    *,
    height_m: float = OFFICIAL_HEIGHT_M,
    pitch_deg: float = OFFICIAL_PITCH_DEG,
    focal_px: float | None = None,
    hfov_deg: float | None = None,
) -> FloorCamera:
    """A camera with square pixels if its lens is stated; by default, the official one.

    Args:
        size: (height, width) of the picture, pixels.
        height_m: above the floor.
        pitch_deg: downwards.
        focal_px: focal length in pixels.
        hfov_deg: or the angle from the left border of the picture to the right one.

    Raises:
        UserError: naming all numbers that make no camera.

    Source: the official renderer: location (0, -4.7, 2.3), tilt 67 degrees, a lens of 50 mm before
        a sensor 36 mm wide, 720 x 480.
    """
    problems = []
    if not 0 < height_m <= FARTHEST_FLOOR_M:
        problems.append(
            f"camera height {height_m}: not above 0 and up to {FARTHEST_FLOOR_M:,.0f} m"
        )
    if not -90 < pitch_deg <= 90:
        problems.append(f"pitch {pitch_deg}: not above -90 and up to 90 degrees")
    if focal_px is not None and hfov_deg is not None:
        problems.append("a focal length and a field of view: one says the other")
    if focal_px is not None and not 0 < focal_px < np.inf:
        problems.append(f"focal length {focal_px}: not above 0")
    if hfov_deg is not None and not 0 < hfov_deg < 180:
        problems.append(f"field of view {hfov_deg}: not between 0 and 180 degrees")
    if problems:
        raise UserError(
            "There is no such camera",
            expected="a camera above the floor, with a lens",
            got=listed(problems),
            fix="mend these numbers, or leave them out: the default is the camera of PoseTraj-10K",
        )
    height, width = size
    if hfov_deg is not None:
        focal_px = width / 2 / float(np.tan(np.deg2rad(hfov_deg) / 2))
    if focal_px is not None:
        return FloorCamera(size, height_m, pitch_deg, (focal_px, focal_px))
    focal = (OFFICIAL_FOCAL[0] * width, OFFICIAL_FOCAL[1] * height)
    return FloorCamera(size, height_m, pitch_deg, focal)


def axes(camera: FloorCamera) -> Float[Array, "3 3"]:
    """The camera's axes right, down and forward, as rows, in the world."""
    pitch = np.deg2rad(camera.pitch_deg)
    cos, sin = np.cos(pitch), np.sin(pitch)
    return np.array([[1.0, 0.0, 0.0], [0.0, -sin, -cos], [0.0, cos, -sin]])


def project(camera: FloorCamera, world: Float[Array, "*n 3"]) -> Float[Array, "*n 2"]:
    """Pixels of places in the world.

    Raises:
        UserError: a place is behind the camera, or nearer than NEAREST_M.
    """
    seen = (world - [0.0, 0.0, camera.height_m]) @ axes(camera).T
    nearest = seen[..., 2].min()
    if nearest < NEAREST_M:
        raise UserError(
            "The motion leaves what the camera can see",
            expected=f"places at least {NEAREST_M} m before the camera",
            got=f"{-nearest:.2f} m behind it" if nearest < 0 else f"{nearest:.2f} m before it",
            fix="start farther away, choose another direction, or a shorter motion",
        )
    height, width = camera.size
    return seen[..., :2] / seen[..., 2:] * camera.focal_px + [width / 2, height / 2]


def floor_point(camera: FloorCamera, pixel: tuple[float, float]) -> Float[Array, "2"]:
    """The place (x, y) on the floor, in metres, that a pixel shows.

    Raises:
        UserError: the pixel is not in the picture, or shows no floor.
    """
    height, width = camera.size
    if not (0 <= pixel[0] <= width and 0 <= pixel[1] <= height):
        raise UserError(
            "The start is not in the picture",
            expected=f"a pixel of {width} x {height}",
            got=f"({pixel[0]:g}, {pixel[1]:g})",
            fix="choose another start; x comes first",
        )
    ray = np.array([*(np.array(pixel) - [width / 2, height / 2]) / camera.focal_px, 1.0])
    right, forward, up = ray @ axes(camera)
    if not -up * FARTHEST_FLOOR_M > camera.height_m * float(np.hypot(right, forward)):
        raise UserError(
            "The start is not on the floor",
            expected=f"a pixel that shows floor within {FARTHEST_FLOOR_M:,.0f} m: "
            + _horizon(camera),
            got=f"({pixel[0]:g}, {pixel[1]:g})",
            fix="choose a start farther down, or a camera that looks farther down",
        )
    return np.array([right, forward]) * (camera.height_m / -up)


def _horizon(camera: FloorCamera) -> str:
    if camera.pitch_deg in (-90.0, 90.0):
        return "every one does"
    row = camera.size[0] / 2 - camera.focal_px[1] * np.tan(np.deg2rad(camera.pitch_deg))
    return f"y greater than {row:.1f}, where the horizon is"
