"""What lies in HBM and when."""

import pytest

from posetraj_jax.planning import hlo, memory_report
from posetraj_jax.planning.memory_report import ACTIVATIONS, GATHERED, TEMPORARIES, find_peak

ASSIGNMENT = """\
BufferAssignment:
allocation 0: size 4096, parameter 0, shape |f32[1024]| at ShapeIndex {0}, maybe-live-out:
 value: <1 p @0> (size=4096,offset=0): f32[1024]{0}
allocation 1: size 512, parameter 0, shape |f32[9]| at ShapeIndex {1}:
 value: <2 p @0> (size=512,offset=0): f32[9]{0}
allocation 2: size 64, constant:
 value: <3 c @0> (size=64,offset=0): f32[16]{0}
allocation 3: size 32, maybe-live-out:
 value: <4 out{} @0> (size=32,offset=0): (f32[8]{0})
allocation 4: size 900, thread-local:
 value: <5 inside @0> (size=900,offset=0): f32[225]{0}
allocation 5: size 4, color 2, preallocated-temp:
 value: <6 scalar @2> (size=4,offset=0): u32[]{:S(2)}
allocation 6: size 1000, preallocated-temp:
 value: <7 early @0> (size=300,offset=0): f32[75]{0}
 value: <8 kept @0> (size=400,offset=300): bf16[200]{0}
 value: <9 alias @0> (size=400,offset=300): bf16[200]{0}
 value: <10 late{0} @0> (size=200,offset=800): f32[50]{0}
"""
RANGES = """\
HloLiveRange (max 3):
  InstructionSequence:
    0:early
    1:kept
    2:late
    3:last
  BufferLiveRange:
    p{0}:0-3
    early{}:0-1
    kept{}:1-3
    alias{}:1-3
    late{0}:2-3
  Live ranges at 2 (peak):
    kept{}: 400 bytes (cumulative: 400 bytes)
"""
PROGRAM = """\
ENTRY %main (p: f32[1024]) -> f32[1024] {
  %early = f32[75]{0} add(%p), metadata={op_name="jit(step)/jvp()/add"}
  %kept = bf16[200]{0} add(%p), metadata={op_name="jit(step)/jvp()/mul"}
  %alias = bf16[200]{0} bitcast(%kept)
  %late = (f32[50]{0}) fusion(%p), metadata={op_name="jit(step)/sharding_constraint"}
  ROOT %last = f32[1024]{0} add(%p), metadata={op_name="jit(step)/transpose(jvp())/mul"}
}
"""


def read() -> memory_report.Arena:
    kinds = {0: "parameters", 1: "batch"}
    return memory_report.read_arena(ASSIGNMENT.splitlines(), RANGES.splitlines(), kinds.get)


def test_the_arena_by_hand():
    arena = read()
    assert arena.arguments == {"parameters": 4096, "batch": 512}
    assert (arena.constants, arena.results, arena.arena) == (64, 32, 1000)
    assert arena.allocated == 4096 + 512 + 64 + 32 + 1000
    assert [buffer.name for buffer in arena.buffers] == ["early", "kept", "alias", "late"]


def test_the_fullest_moment_counts_a_place_once_and_says_what_is_there():
    peak = find_peak(read(), hlo.parse(PROGRAM.splitlines()))
    # At instruction 1: early and kept, 700 bytes. At 2 only 600, though gaps reach up to 1000.
    assert peak.num_bytes == 700
    assert peak.kinds == {TEMPORARIES: 300, ACTIVATIONS: 400}
    assert [(one.num_bytes, one.type) for one in peak.live] == [
        (400, "bf16[200]"),
        (300, "f32[75]"),
    ]


def test_gathered_kernels_are_told_apart():
    later = RANGES.replace("early{}:0-1", "early{}:0-0")
    arena = memory_report.read_arena(ASSIGNMENT.splitlines(), later.splitlines(), lambda _: "x")
    peak = find_peak(arena, hlo.parse(PROGRAM.splitlines()))
    assert peak.kinds == {ACTIVATIONS: 400, GATHERED: 200}


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="BufferLiveRange"):
        memory_report.read_arena(ASSIGNMENT.splitlines(), [], str)
    with pytest.raises(ValueError, match="allocations"):
        memory_report.read_arena([], RANGES.splitlines(), str)


def test_the_reports_of_a_real_program(scan):
    _, memory = scan
    assert memory.arguments == {
        "parameters": 1024 * 512 * 4,
        "frozen": 512 * 1024 * 2,
        "batch": 3 * 64 * 512 * 2,
    }
    # JAX's own sums are larger here: scratch of a collective, and the result beside its argument.
    assert memory.arena == 13_696_000
    assert memory.total == sum(memory.arguments.values()) + 13_696_000 + 425_984
    assert memory.peak == 14_879_744
    kernel, gradient = memory.moment.live[:2]
    assert {kernel.type, gradient.type} == {"bf16[1024,2048]"}
    assert {kernel.kind, gradient.kind} == {GATHERED, TEMPORARIES}
    assert {kernel.source, gradient.source} == {"posetraj_jax/toy.py:14", "posetraj_jax/toy.py:17"}
