"""What a trace of the profiler says."""

from pathlib import Path

import jax


def traced_steps(folder: Path) -> list[int]:
    """Numbers of the steps in the one trace that there is."""
    (trace,) = folder.rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(trace))
    return sorted(
        value
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
        for name, value in event.stats
        if name == "step_num"
    )
