"""Cameras, poses, boxes and projection in NumPy; shared by the main and the render environment.

Conventions are those of `posetraj_jax.data.records`: world z up, camera axes as in OpenCV, pixels
(x, y) with the picture spanning [0, width] x [0, height]. An object stands on z = 0 of its own
frame, centred in x and y, and looks along its -y axis, as Blender's and imported glTF models do.
Arrays are float64. NumPy only: the render environment has nothing else.
"""

import numpy as np

# Bit 0 of a corner's number is x, bit 1 is y, bit 2 is z (records.Clip.box_world).
CORNER_BITS = np.array([[n & 1, n >> 1 & 1, n >> 2 & 1] for n in range(8)])
BOX_EDGES = tuple((a, a | bit) for bit in (1, 2, 4) for a in range(8) if not a & bit)
BOX_FACES = tuple(
    tuple(n for n in range(8) if (n >> axis & 1) == side) for axis in range(3) for side in (0, 1)
)
"""Corner numbers of the six faces in the order x low, x high, y low, y high, z low, z high."""

OFFICIAL_CAMERA_LOCATION = (0.0, -4.7, 2.3)
OFFICIAL_CAMERA_TILT_DEG = 67.0
OFFICIAL_LENS_MM, OFFICIAL_SENSOR_MM = 50.0, 36.0
OFFICIAL_SIZE = (720, 480)


def official_k(width: int, height: int) -> np.ndarray:
    """Intrinsics [3 3] in pixels of the official camera at any picture size.

    The whole 720 x 480 view is stretched onto width x height (as training does), so pixels of
    another aspect are not square: 576 x 320 gives fx = 800 and fy = 666.7.
    """
    focal = OFFICIAL_LENS_MM / OFFICIAL_SENSOR_MM * OFFICIAL_SIZE[0]
    fx, fy = focal * width / OFFICIAL_SIZE[0], focal * height / OFFICIAL_SIZE[1]
    return np.array([[fx, 0.0, width / 2], [0.0, fy, height / 2], [0.0, 0.0, 1.0]])


def square_pixel_k(width: int, height: int, lens_mm: float) -> np.ndarray:
    """Intrinsics [3 3] in pixels of a lens before a sensor 36 mm wide; pixels are square."""
    focal = lens_mm / OFFICIAL_SENSOR_MM * width
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def tilted_camera_rt(location: tuple[float, float, float], tilt_deg: float) -> np.ndarray:
    """World-to-camera [3 4] of a camera looking along +y, tilted about x.

    `tilt_deg` is Blender's first Euler angle: 0 looks straight down, 90 at the horizon.
    """
    tilt = np.deg2rad(tilt_deg)
    cos, sin = np.cos(tilt), np.sin(tilt)
    # Rows are the camera's x, y (down) and z (forward) axes in the world.
    rotation = np.array([[1.0, 0.0, 0.0], [0.0, -cos, -sin], [0.0, sin, -cos]])
    return np.concatenate([rotation, -rotation @ np.array(location)[:, None]], axis=1)


def looking_at_rt(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """World-to-camera [3 4] of an upright camera at `eye` [3] with `target` [3] in its middle.

    Raises:
        ValueError: the view is vertical, so nothing says what is upright, or has no direction.
    """
    forward = np.asarray(target, np.float64) - eye
    right = np.array([forward[1], -forward[0], 0.0])
    if not np.linalg.norm(right) > 0:
        raise ValueError(f"no upright view from {eye} to {target}")
    rotation = np.stack([right, np.cross(forward, right), forward])
    rotation /= np.linalg.norm(rotation, axis=1, keepdims=True)
    return np.concatenate([rotation, -rotation @ np.asarray(eye)[:, None]], axis=1)


def official_rt() -> np.ndarray:
    """World-to-camera [3 4] of the official static camera."""
    return tilted_camera_rt(OFFICIAL_CAMERA_LOCATION, OFFICIAL_CAMERA_TILT_DEG)


def project(points: np.ndarray, k: np.ndarray, rt: np.ndarray) -> np.ndarray:
    """Pixels [... 2] of world points [... 3]; meaningless for points behind the camera."""
    camera = points @ rt[:, :3].T + rt[:, 3]
    homogeneous = camera @ k.T
    return homogeneous[..., :2] / homogeneous[..., 2:]


def depth(points: np.ndarray, rt: np.ndarray) -> np.ndarray:
    """Distance [...] along the optical axis of world points [... 3], in metres."""
    return points @ rt[2, :3] + rt[2, 3]


def camera_centre(rt: np.ndarray) -> np.ndarray:
    """World position [3] of a camera given by its world-to-camera [3 4]."""
    return -rt[:, :3].T @ rt[:, 3]


def standing_pose(xy: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Object-to-world [4 4] of an object on the floor at `xy`, its front (-y) along `direction`.

    Raises:
        ValueError: `direction` has no length.
    """
    length = float(np.hypot(*direction))
    if not length > 0:
        raise ValueError(f"a heading needs a length, got direction {direction}")
    dx, dy = np.asarray(direction) / length
    pose = np.eye(4)
    # The columns of the rotation are the images of the object's axes; -y goes to (dx, dy).
    pose[:2, 0] = -dy, dx
    pose[:2, 1] = -dx, -dy
    pose[:2, 3] = xy
    return pose


def transform(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [... 3] moved by a rigid [4 4]."""
    return points @ pose[:3, :3].T + pose[:3, 3]


def box_corners(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Corners [8 3] of the axis-aligned box from `low` to `high`; corner 4 z + 2 y + x."""
    return np.where(CORNER_BITS == 1, high, low).astype(np.float64)


def inside_picture(pixels: np.ndarray, width: int, height: int, margin: float = 0.0) -> np.ndarray:
    """True [...] where pixel positions [... 2] lie in the picture, `margin` px off its border."""
    limit = np.array([width, height]) - margin
    return np.all((pixels >= margin) & (pixels <= limit), axis=-1)
