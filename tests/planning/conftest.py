"""A program that libtpu compiled for v5e:2x2, with its reports, and a cache of plans of its own.

`compiled/` was made by libtpu 0.0.42.1 at level O0 on a mesh of 1 x 4 x 1 from a scan over three
batches of `grad(sum((tanh(x @ frozen) @ kernel)**2))`: `kernel`, float32 [1024, 2048], is split
over `fsdp` along its last axis and gathered in bfloat16; `frozen`, bfloat16 [512, 1024], lies on
every device whole; `batch` is bfloat16 [3, 256, 512], split along its second axis.
"""

from pathlib import Path

import pytest

from posetraj_jax.planning import compilation

COMPILED = Path(__file__).parent / "compiled"
KINDS = ((r"state", "parameters"), (r"frozen", "frozen"), (r"batch", "batch"))
MEASURED = {
    "temp_size": 13_696_000,
    "generated_code_size": 425_984,
    "peak_memory": 14_879_744,
}
"""JAX's `memory_analysis` of the same program."""


@pytest.fixture(scope="session")
def scan():
    """The program, and its memory."""
    return compilation.read_reports(COMPILED, KINDS, MEASURED)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
