"""A published folder in small, what a test does with it, and what must come of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from convert_weights import mapping, oracle, svd_to_flax
from posetraj_jax import tree, weights
from posetraj_jax.errors import UserError
from posetraj_jax.models.clip import CLIPVisionConfig
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.models.vae import VAEConfig
from posetraj_jax.nn.build import build
from posetraj_jax.published import PREPROCESSOR, SCHEDULER
from tests.parity import CLASSES, SMALL

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "unet": UNetConfig(**SMALL),
    "vae": VAEConfig.tiny(block_out_channels=(32, 64)),
    "image_encoder": CLIPVisionConfig.tiny(),
}
KEYS = {"unet": "unet", "vae": "vae", "image_encoder": "clip"}
NETWORKS = {name: build(CLASSES[KEYS[name]], config) for name, config in CONFIGS.items()}
SETTINGS = {"unet": SCHEDULER, "image_encoder": PREPROCESSOR}
UNET_INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"


def twin(name):
    """The PyTorch network of a component, as it is initialised."""
    return getattr(oracle, KEYS[name])(CONFIGS[name])


def convert(source, target, *options):
    svd_to_flax.main([str(source), str(target), *options])


def refused(source, *options) -> str:
    """The message; checks that nothing is left behind."""
    target = source.parent / "deep" / "weights"
    with pytest.raises(UserError) as caught:
        convert(source, target, *options)
    assert {path.name for path in source.parent.iterdir()} <= {source.name}
    return str(caught.value)


def change(path, **fields):
    """Rewrites a JSON file; a field of value None is taken out."""
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def assert_holds(folder, name, expected):
    """What is stored equals `expected`, leaf by leaf and bit by bit."""
    loaded = tree.flatten(weights.load(folder / name, NETWORKS[name].abstract()))
    assert loaded.keys() == tree.flatten(expected).keys()
    for path, leaf in tree.flatten(expected).items():
        assert loaded[path].dtype == leaf.dtype, path
        np.testing.assert_array_equal(loaded[path], leaf, err_msg=path)


def mapped(modules, name, dtype=np.float32):
    """Our parameters, by way of `dtype`."""
    state = {n: a.astype(dtype) for n, a in oracle.state(modules[name]).items()}
    return mapping.from_torch(state, NETWORKS[name].abstract(), KEYS[name])
