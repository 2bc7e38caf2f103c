"""Tracks that steer a video: the file format, curves, motions over the floor, and a preview."""

from posetraj_jax.trajectories.floor_camera import FloorCamera, make_camera
from posetraj_jax.trajectories.floor_motion import (
    FloorTrack,
    Motion,
    arrows_px,
    as_track_file,
    boxes_px,
    move,
)
from posetraj_jax.trajectories.ghost import draw_ghosts
from posetraj_jax.trajectories.preview import draw_preview
from posetraj_jax.trajectories.resampling import resample
from posetraj_jax.trajectories.track import (
    UNIT_SIZE,
    Track,
    TrackFile,
    Trajectories,
    from_trajectories,
    rounded,
)
from posetraj_jax.trajectories.track_file import as_json, parse_tracks, read_tracks, write_tracks

__all__ = [
    "UNIT_SIZE",
    "FloorCamera",
    "FloorTrack",
    "Motion",
    "Track",
    "TrackFile",
    "Trajectories",
    "arrows_px",
    "as_json",
    "as_track_file",
    "boxes_px",
    "draw_ghosts",
    "draw_preview",
    "from_trajectories",
    "make_camera",
    "move",
    "parse_tracks",
    "read_tracks",
    "resample",
    "rounded",
    "write_tracks",
]
