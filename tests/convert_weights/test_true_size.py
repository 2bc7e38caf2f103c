"""The benchmark of conversions as a proof: everything at the size of Stable Video Diffusion."""

import pytest

from benchmarks import conversion


@pytest.mark.full
def test_conversion_at_true_size_is_lean_fast_and_exact(tmp_path):
    figures = conversion.main(["--folder", str(tmp_path)])
    assert set(figures.memory_over_tree) == {"fp16 variant", "fp32 shards"}
    assert max(figures.memory_over_tree.values()) <= 1.5
    assert max(figures.time_over_copy.values()) <= 4
    networks = {"unet", "vae encode", "vae decode", "image_encoder", "controlnet"}
    assert set(figures.differences) == networks
    assert max(figures.differences.values()) <= 1e-4
    assert figures.is_same_bytes
