"""The folders that tests of the converters read."""

import json
import shutil

import pytest

from convert_weights import oracle
from tests.convert_weights.published_folder import CONFIGS, twin
from tests.published import write_published


@pytest.fixture(scope="session")
def modules():
    """The PyTorch networks, every parameter redrawn."""
    return {name: oracle.redraw(twin(name), seed) for seed, name in enumerate(CONFIGS)}


@pytest.fixture(scope="session")
def published(modules, tmp_path_factory):
    """A folder as diffusers saves it; the UNet in shards."""
    folder = write_published(tmp_path_factory.mktemp("published"))
    for name, module in modules.items():
        module.save_pretrained(folder / name, max_shard_size="2MB" if name == "unet" else "1GB")
    index = {"_class_name": "StableVideoDiffusionPipeline", "unet": ["diffusers", "UNet"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def source(published, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(published, tmp_path / "source")
