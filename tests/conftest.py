"""Runs before any test module: 8 fake CPU devices, and flags that Grain's workers may read."""

import os
import signal

from tests import quick

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        quick.XLA_FLAGS,
    ]
)

from absl import flags  # after the environment is set: this may import jax

flags.FLAGS.mark_as_parsed()
# A shell's background jobs ignore Ctrl-C, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

SLOWEST = (
    "tests/test_train.py",
    "tests/training/",
    "tests/convert_weights/test_official_step.py",
    "tests/convert_weights/test_flax_to_diffusers.py",
    "tests/data_prep/test_encode_latents.py",
    "tests/test_generation.py",
)


def pytest_collection_modifyitems(items):
    """The slowest files first, so that two workers end at about the same time.

    Counts only with pytest-xdist's --no-loadscope-reorder: else files with many tests come first.
    """
    items.sort(key=lambda item: not item.nodeid.startswith(SLOWEST))
