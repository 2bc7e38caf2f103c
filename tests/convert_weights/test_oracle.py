"""The twins themselves: redrawing touches every parameter."""

import numpy as np
import pytest

from convert_weights import oracle
from posetraj_jax.models.controlnet import ControlNetConfig
from posetraj_jax.models.vae import VAEConfig


@pytest.mark.parametrize(
    "make",
    [
        lambda: oracle.controlnet(ControlNetConfig.tiny(camera=True)),
        lambda: oracle.vae(VAEConfig.tiny()),
    ],
)
def test_redraw_leaves_no_parameter_at_its_start_and_depends_on_the_seed(make):
    module = make()
    before = {name: p.detach().numpy().copy() for name, p in module.named_parameters()}
    first = {n: p.detach().numpy().copy() for n, p in oracle.redraw(module, 0).named_parameters()}
    second = {n: p.detach().numpy().copy() for n, p in oracle.redraw(module, 1).named_parameters()}
    for name in before:  # single numbers may coincide in a million
        assert (first[name] != before[name]).mean() > 0.99, name
        assert (first[name] != second[name]).mean() > 0.99, name
    scales = np.concatenate([first[n] for n in first if "norm" in n and n.endswith("weight")])
    assert scales.mean() == pytest.approx(1.0, abs=0.02)
    assert scales.std() == pytest.approx(0.1, rel=0.1)
    kernels = [a for n, a in first.items() if n.endswith("conv1.weight")]
    products = [a.std() * a[0].size ** 0.5 for a in kernels]
    assert products == pytest.approx([1.0] * len(kernels), rel=0.1)
    mixers = np.concatenate([a for n, a in first.items() if n.endswith("mix_factor")])
    assert mixers.std() > 0.5
