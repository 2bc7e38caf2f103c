"""Collectives by kind and mesh axis, their bytes against arithmetic by hand."""

import numpy as np
import pytest

from posetraj_jax.planning import collectives, hlo
from posetraj_jax.planning.collectives import axis_of, groups_of
from posetraj_jax.planning.hlo import Instruction

MESH = {"data": 2, "fsdp": 4, "context": 1}
KERNEL = 1024 * 2048 * 2
"""Bytes of the scan's kernel in bfloat16."""


def instruction(rest: str, opcode: str = "all-gather", kind: str = "f32[8]") -> Instruction:
    return Instruction("x", kind, opcode, f"%operand), {rest}")


@pytest.mark.parametrize(
    ("rest", "axis"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", "fsdp"),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", "data"),
        ("replica_groups={{0,1,2,3,4,5,6,7}}", "data+fsdp"),
        ("replica_groups={}", "data+fsdp"),
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", "fsdp/2"),
        ("replica_groups=[2,4]<=[8], dimensions={0}", "fsdp"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", "data"),
        ("replica_groups=[1,8]<=[8]", "data+fsdp"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={1}", "fsdp"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", "data"),
        ("replica_groups=mesh['axis_0'=1,'axis_1'=8] {'axis_0','axis_1'}", "data+fsdp"),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", "data"),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", "fsdp"),
        ("replica_groups=mesh['a'=8] {'a':(2)4}, dimensions={0}", "fsdp"),
        ("replica_groups=mesh['a'=8] {'a':(1)2}, dimensions={0}", "data"),
    ],
)
def test_groups_in_every_form_name_their_mesh_axes(rest, axis):
    groups = groups_of(instruction(rest), MESH)
    assert sorted(groups.ravel()) == list(range(8))
    assert axis_of(groups, MESH) == axis


def test_pairs_around_an_axis_name_it():
    rest = "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    groups = groups_of(instruction(rest, "collective-permute"), MESH)
    assert groups.shape == (8, 2)
    assert axis_of(groups, MESH, in_pairs=True) == "fsdp"
    across = groups_of(instruction("source_target_pairs={{0,4},{4,0}}"), MESH)
    assert axis_of(across, MESH, in_pairs=True) == "data"


ASYNC = """\
HloModule toy

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] parameter(0)
}

%all-reduce-scatter.3 (i: bf16[16,8]) -> bf16[16,2] {
  %r = bf16[16,8]{1,0} all-reduce(%i), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum
  ROOT %d = bf16[16,2]{1,0} dynamic-slice(%r), dynamic_slice_sizes={16,2}
}

%wrapped (p: f32[4,8]) -> f32[1,8] {
  ROOT %rs = f32[1,8]{1,0} reduce-scatter(%p), replica_groups=[2,4]<=[8], to_apply=%sum
}

ENTRY %main (x: f32[2,8]) -> f32[8,8] {
  %gs = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[8]
  %gd = f32[8,8]{1,0} all-gather-done(%gs)
  %rs = (f32[8]{0}, bf16[4]{0}) all-reduce-start(%x, %y), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%sum
  %rd = (f32[8]{0}, bf16[4]{0}) all-reduce-done(%rs)
  %ps = (s8[6]{0}, s8[6]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %pd = s8[6]{0} collective-permute-done(%ps)
  %fu = bf16[16,2]{1,0} fusion(%z), kind=kCustom, calls=%all-reduce-scatter.3
  %as = ((f32[4,8]{1,0}), f32[1,8]{1,0}) async-start(%z), calls=%wrapped
  %ad = f32[1,8]{1,0} async-done(%as)
  ROOT %aa = f32[8,8]{1,0} all-to-all(%gd), replica_groups=[2,4]<=[8], dimensions={0}
}
"""  # noqa: E501


def test_synchronous_and_asynchronous_forms_count_once_with_their_whole_arrays():
    rows = collectives.of_program(hlo.parse(ASYNC.splitlines()), MESH)
    found = {(r.kind, r.axis, r.dtype): (r.count, r.num_bytes, r.sent_bytes) for r in rows}
    assert found == {
        ("all-gather", "fsdp", "f32"): (1, 256, 192),
        ("all-reduce", "data", "f32"): (1, 2 * 32, 32),
        ("all-reduce", "data", "bf16"): (0, 2 * 8, 8),  # part of the one above
        ("collective-permute", "fsdp", "s8"): (1, 6, 6),
        ("reduce-scatter", "fsdp", "bf16"): (1, 256, 192),
        ("reduce-scatter", "fsdp", "f32"): (1, 128, 96),
        ("all-to-all", "fsdp", "f32"): (1, 256, 192),
    }


def test_a_real_program_gathers_once_and_reduces_in_every_turn_of_its_loop(scan):
    rows = collectives.of_program(scan[0], {"data": 1, "fsdp": 4, "context": 1})
    # The kernel does not change within the scan, so the compiler gathers it before the loop.
    assert [tuple(row) for row in rows] == [
        ("reduce-scatter", "fsdp", "bf16", 3, 3 * KERNEL, 3 * KERNEL * 3 // 4),
        ("all-gather", "fsdp", "bf16", 1, KERNEL, KERNEL * 3 // 4),
    ]


def test_a_single_device_has_none():
    groups = groups_of(instruction("replica_groups={{0}}"), {"data": 1, "fsdp": 1, "context": 1})
    assert np.array_equal(groups, [[0]])
    assert axis_of(groups, {"data": 1, "fsdp": 1, "context": 1}) == "none"
