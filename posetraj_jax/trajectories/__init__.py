"""Tracks that steer a video: the file format, curves, motions over the floor, and a preview."""

from posetraj_jax.trajectories.floor_camera import FloorCamera, make_camera
from posetraj_jax.trajectories.floor_motion import (
    FloorMotion,
    FloorTrack,
    arrows_px,
    boxes_px,
    floor_track_file,
    move_over_floor,
)
from posetraj_jax.trajectories.ghost import draw_ghosts
from posetraj_jax.trajectories.preview import draw_preview
from posetraj_jax.trajectories.resampling import resample
from posetraj_jax.trajectories.track import (
    UNIT_SIZE,
    Track,
    TrackFile,
    Trajectories,
    rounded,
)
from posetraj_jax.trajectories.track_file import (
    as_json,
    parse_tracks,
    plain_content,
    read_tracks,
    write_tracks,
)

__all__ = [
    "UNIT_SIZE",
    "FloorCamera",
    "FloorMotion",
    "FloorTrack",
    "Track",
    "TrackFile",
    "Trajectories",
    "arrows_px",
    "as_json",
    "boxes_px",
    "draw_ghosts",
    "draw_preview",
    "floor_track_file",
    "make_camera",
    "move_over_floor",
    "parse_tracks",
    "plain_content",
    "read_tracks",
    "resample",
    "rounded",
    "write_tracks",
]
