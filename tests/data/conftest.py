"""A small dataset, and the options to read it with."""

import pytest
from clips import NUM_CLIPS, make_clip

from posetraj_jax.data.pipeline import DataOptions
from posetraj_jax.data.records import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    """Clips 0..4 of 16..20 frames; frame t of clip c is grey 10 c + t."""
    folder = tmp_path_factory.mktemp("clips")
    write_dataset([make_clip(number, 16 + number) for number in range(NUM_CLIPS)], folder)
    return str(folder)


@pytest.fixture
def options(dataset) -> DataOptions:
    return DataOptions(
        path=dataset,
        height=64,
        width=128,
        batch_size=2,
        draw_box=False,
        condition_on_box=False,
        seed=3,
    )
