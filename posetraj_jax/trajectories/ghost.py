"""Draws an object as a box where a motion over the floor puts it, with an arrow to its front."""

import numpy as np
from jaxtyping import UInt8

from posetraj_jax.trajectories.floor_camera import Array, FloorCamera
from posetraj_jax.trajectories.floor_motion import FloorTrack, arrows_px, boxes_px
from posetraj_jax.trajectories.preview import BLACK, WHITE, unit_of
from posetraj_jax.video import draw_path

BLUE = (120, 200, 255)
OUTLINE = (0, 1, 3, 2, 0, 4, 5, 7, 6, 4, 5, 1, 3, 7, 6, 2)
"""Corners in an order that runs along all 12 edges of a box."""
FRONT = (0, 1, 5, 4, 0)
"""Around the face whose y is low."""
AHEAD = 1.0
"""From the middle of the box to the tip of the arrow, in depths of the box."""


def draw_ghosts(
    image_uint8: UInt8[Array, "h w 3"],
    camera: FloorCamera,
    track: FloorTrack,
    sides_m: tuple[float, float, float],
    most: int = 4,
) -> UInt8[Array, "h w 3"]:
    """The picture with the boxes of some frames, the first and the last one among them.

    Args:
        image_uint8: RGB, of the camera's size.
        camera: that sees it.
        track: of the object.
        sides_m: of the box: width, depth and height; its front is white.
        most: how many boxes to draw.

    Raises:
        UserError: a box reaches behind the camera.
    """
    drawn, thickness = image_uint8.copy(), max(1, unit_of(camera.size) // 2)
    frames = np.unique(np.linspace(0, len(track.places) - 1, most).round().astype(int))
    boxes = boxes_px(camera, track, sides_m)[frames]
    arrows = arrows_px(camera, track, AHEAD * sides_m[1])[frames]
    for box, arrow in zip(boxes, arrows, strict=True):
        for line, ink in ((box[list(OUTLINE)], BLUE), (box[list(FRONT)], WHITE), (arrow, WHITE)):
            draw_path(drawn, line, BLACK, thickness + 2)
            draw_path(drawn, line, ink, thickness)
    return drawn
