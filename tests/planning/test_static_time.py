"""The compiler's expected seconds by level and kind of work, and the bar of the whole step."""

import pytest

from benchmarks import static_blocks, static_time
from benchmarks.static_time import Breakdown
from posetraj_jax.planning import hlo
from posetraj_jax.planning.chips import Chip

CHIP = Chip("toy", "Toy", 1e9, 1e9, flops=100.0, hbm_bandwidth=10.0, link_bandwidth=4.0, clock=2.0)
TEXT = """\
%multiplies (x: bf16[8,8]) -> bf16[8,8] {
  %x = bf16[8,8]{1,0} parameter(0)
  ROOT %d = bf16[8,8]{1,0} convolution(%x, %x), dim_labels=bf_io->bf
}

%moves (y: bf16[8,8]) -> bf16[8,8] {
  %y = bf16[8,8]{1,0} parameter(0)
  ROOT %t = bf16[8,8]{0,1} copy(%y)
}

ENTRY %main (a: bf16[8,8]) -> bf16[8,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  %p = bf16[8,8]{1,0} fusion(%a), kind=kOutput, calls=%multiplies, metadata={op_name="jit(f)/UNet/up_0/dot_general"}, backend_config={"estimated_cycles":"20"}
  %c = bf16[8,8]{0,1} fusion(%p), kind=kLoop, calls=%moves, metadata={op_name="jit(f)/ControlNet/maps/copy"}, backend_config={"estimated_cycles":"6"}
  %k = bf16[8,8]{1,0} custom-call(%c), custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/UNet/down_1/splash"}, backend_config={"custom_call_config": {"body": "x", "cost_estimate":{"flops":"5000","bytes_accessed":"9"}}}
  ROOT %n = bf16[8,8]{1,0} negate(%k), metadata={op_name="jit(f)/adam"}, backend_config={"estimated_cycles":"2"}
}
"""  # noqa: E501


def test_every_instruction_is_counted_once_in_its_level_and_kind():
    rows = static_time.break_down(hlo.parse(TEXT.splitlines()), CHIP)
    assert rows == {
        ("level 0", "products"): 10.0,
        ("maps", "copies"): 3.0,
        ("level 1", "kernels"): 50.0,
        ("optimizer and others", "elementwise"): 1.0,
    }
    table = static_time.table(Breakdown(rows, 8.0)).splitlines()
    assert table[-1] == "| sum | 10000.0 | 50000.0 | 0.0 | 3000.0 | 0.0 | 1000.0 | 64000.0 |"


@pytest.mark.full
def test_a_transformer_at_the_highest_resolution_takes_at_most_2_6_floors():
    """The dearest block of the step, whose matrices are too narrow for a TPU."""
    most = ["--blocks", "transformer 0", "--passes", "frozen", "trains"]
    assert static_blocks.main(most) <= 2.6


@pytest.mark.full
def test_the_whole_step_is_expected_to_take_at_most_2_8_floors(tmp_path):
    """Takes half an hour and 24 GB of memory."""
    fields = {
        "model.remat": "none",
        "mesh.fsdp": 4,
        "mesh.frozen": "replicated",
        "optim.accumulate": 1,
        "data.latents": tmp_path,
    }
    found = static_time.main(
        ["--config", "stage3", "--topology", "v5p:2x2x1", "--clips_per_device", "1"]
        + [f"--config.{name}={value}" for name, value in fields.items()]
    )
    assert found.total <= 2.8 * found.floor
