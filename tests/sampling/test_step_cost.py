"""What a denoising step costs and does not do, from its jaxpr and its compiled text."""

import re

import jax
import numpy as np
import pytest

from benchmarks import sampling_flops
from posetraj_jax import generation
from posetraj_jax.sampling import Settings, read_request
from posetraj_jax.sampling.generate import program_of, sampling_options
from posetraj_jax.sampling.inputs import make_batch
from tests.sampling.models import micro_model


def test_a_step_is_the_two_networks_for_both_halves_and_nothing_else():
    made = sampling_flops.count("svd", 14, 320, 576)
    print({name: f"{number / 1e12:.2f} TF" for name, number in made._asdict().items()})
    assert made.step / (2 * made.networks) == pytest.approx(1.0, abs=0.02)
    assert made.forgetful_step > 1.005 * made.step
    # Encoders, trajectory encoder and decoder run once, however many steps there are.
    assert made.begin + made.decode < 1.5 * made.step


@pytest.mark.full
@pytest.mark.parametrize(
    ("variant", "frames", "height", "width"),
    [
        ("svd_xt", 25, 576, 1024),
        ("svd", 14, 256, 256),
        ("svd", 14, 576, 320),
    ],
)
def test_other_sizes_trace_at_full_size(variant, frames, height, width):
    made = sampling_flops.count(variant, frames, height, width)
    assert made.step / (2 * made.networks) == pytest.approx(1.0, abs=0.02)


def test_nothing_leaves_the_device_within_a_step():
    model, settings = micro_model(), Settings(height=64, width=64, num_frames=3)
    picture = np.zeros((64, 64, 3), np.uint8)
    batch = make_batch([read_request(picture, [[10, 10], [50, 40]], settings)], settings)
    options = sampling_options(model, settings)
    program = program_of(model, options)
    noise = program.draw(jax.random.split(jax.random.key(0), 1), batch)
    numbers = generation.scalars(options, 3)
    start = program.begin(model.parameters, batch, noise, numbers)
    told = start._replace(latents=None)
    sigma = np.float32(1.0)
    step = program.step.lower(start.latents, sigma, sigma, model.parameters, told)
    text = step.compile().as_text()
    assert "fusion" in text or "convolution" in text or "custom-call" in text
    assert not re.search(r"callback|infeed|outfeed|\bsend\(|\brecv\(|host", text, re.IGNORECASE)
