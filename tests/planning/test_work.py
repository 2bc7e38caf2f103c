"""Bytes, cycles and kernels of a program, and the bounds that follow."""

import pytest

from posetraj_jax.planning import hlo, roofline, work
from posetraj_jax.planning.chips import Chip
from posetraj_jax.planning.collectives import Traffic
from posetraj_jax.planning.work import Kernel, Work

TEXT = """\
%inner (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%x), backend_config={"estimated_cycles":"999"}
}

ENTRY %main (a: f32[100]) -> f32[100] {
  %a = f32[100]{0} parameter(0)
  %b = f32[100]{0:T(128)} fusion(%a), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"70"}
  %c = f32[100]{0} add(%b, %a), backend_config={"estimated_cycles":"9223372036854775807"}
  %s = f32[10]{0} slice(%c), slice={[0:10]}
  %u = f32[100]{0} dynamic-update-slice(%c, %s, %i)
  %k = f32[100]{0} custom-call(%u), custom_call_target="tpu_custom_call", backend_config={"custom_call_config": {"body": "x", "cost_estimate":{"flops":"5000","bytes_accessed":"900"}}}
  ROOT %t = (f32[100]{0}) tuple(%k)
}
"""  # noqa: E501


def test_every_instruction_reads_and_writes_once():
    done = work.of_program(hlo.parse(TEXT.splitlines()))
    fusion, added = 400 + 512, 400 + 512 + 400  # 100 numbers, padded to 128 in %b
    piece, update, kernel = 2 * 40, 2 * 40, 900
    assert done.hbm_bytes == fusion + added + piece + update + kernel
    assert (done.cycles, done.without_cycles) == (70, 1)
    assert done.kernels == [Kernel(5000, 900, 1)]


ATTENTION = """\
ENTRY %main (q: bf16[14,5,3072,64]) -> bf16[14,5,3072,64] {
  %fwd = bf16[14,5,3072,64]{3,2,1,0} custom-call(%q), custom_call_target="tpu_custom_call", operand_layout_constraints={s8[1,3,3]{2,1,0}, s8[1,3,3]{2,1,0}, bf16[14,5,3072,64]{3,2,1,0}, bf16[14,5,1024,64]{3,2,1,0}, bf16[14,5,1024,64]{3,2,1,0}, s32[3072,128]{1,0}}, metadata={op_name="jit(f)/splash_mha_fwd_segmented_residuals/pallas_call"}
  ROOT %dkv = bf16[14,5,3072,64]{3,2,1,0} custom-call(%fwd), custom_call_target="tpu_custom_call", operand_layout_constraints={s8[1,3,3]{2,1,0}, s8[1,3,3]{2,1,0}, bf16[14,5,3072,64]{3,2,1,0}, bf16[14,5,1024,64]{3,2,1,0}, bf16[14,5,1024,64]{3,2,1,0}, s32[3072,128]{1,0}}, metadata={op_name="jit(f)/splash_mha_dkv_segmented_no_residuals/pallas_call"}
}
"""  # noqa: E501


def test_a_kernel_moves_its_operands_and_results_whatever_it_says():
    (kernel,) = work.of_program(hlo.parse(TEXT.replace('"900"', '"9"').splitlines())).kernels
    assert kernel.num_bytes == 800


def test_attention_kernels_take_two_products_forward_and_five_back():
    product = 2 * 14 * 5 * 3072 * 1024 * 64
    kernels = work.of_program(hlo.parse(ATTENTION.splitlines())).kernels
    assert [kernel.flops for kernel in kernels] == [2 * product, 5 * product]


def test_bytes_of_a_real_program_are_near_the_arithmetic(scan):
    done = work.of_program(scan[0])
    # Every turn reads the gathered kernel twice and writes and scatters its gradient.
    kernel = 1024 * 2048 * 2
    assert 3 * 4 * kernel < done.hbm_bytes < 3 * 8 * kernel
    assert done.without_cycles == 0
    assert done.cycles > 3 * 10_000


CHIP = Chip("toy", "Toy", 1e9, 1e9, flops=100.0, hbm_bandwidth=10.0, link_bandwidth=4.0, clock=2.0)
TRAFFIC = [Traffic("all-gather", "fsdp", "bf16", 1, 48, 24)]


def bounds(flops: float, hbm_bytes: int, links: int, level: str = "O0") -> roofline.Bounds:
    done = Work(hbm_bytes, cycles=30, without_cycles=0, kernels=[Kernel(500, 20, 2)])
    return roofline.bounds_of(flops, done, TRAFFIC, CHIP, links, level=level)


def test_the_longest_bound_binds_and_nothing_overlapping_takes_the_sum():
    o = bounds(1000.0, 50, 2)
    assert (o.compute, o.hbm, o.interconnect) == (10.0, 5.0, 3.0)
    assert (o.least, o.binding) == (10.0, "compute")
    assert o.most == 10.0 / roofline.ATTAINED + 5.0 + 6.0
    assert bounds(10.0, 50, 2).binding == "HBM"
    assert bounds(10.0, 5, 2).binding == "interconnect"


@pytest.mark.parametrize(("level", "static"), [("O0", None), ("default", 15.0 + 2 * 5.0)])
def test_cycles_and_kernels_make_the_static_estimate_where_the_level_has_one(level, static):
    # A kernel takes 500 FLOPs / 100 or 20 bytes / 10, whichever is longer.
    assert bounds(1000.0, 50, 2, level).static == static
