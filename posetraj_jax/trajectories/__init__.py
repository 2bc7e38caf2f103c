"""Tracks that steer a video: the file format, curves, motions over the floor, and a preview."""

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
    "Track",
    "TrackFile",
    "Trajectories",
    "as_json",
    "from_trajectories",
    "parse_tracks",
    "read_tracks",
    "resample",
    "rounded",
    "write_tracks",
]
