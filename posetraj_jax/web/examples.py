"""Pictures to begin with: first frames of the clips that come with the package."""

from pathlib import Path

from posetraj_jax import data
from posetraj_jax.data.records import open_dataset

CLIPS = Path(data.__file__).parent / "clips"


def write_examples(folder: Path) -> list[Path]:
    """Writes one picture of each object into a folder, as the clips have it."""
    clips = open_dataset(CLIPS)
    paths = {}
    for number in range(len(clips)):
        clip = clips[number]
        path = folder / f"{clip.provenance['object']}.jpg"
        if path.name not in paths:
            path.write_bytes(clip.frames_jpeg[0])
            paths[path.name] = path
    return list(paths.values())
