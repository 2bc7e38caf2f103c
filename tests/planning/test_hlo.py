"""The text of compiled programs."""

import pytest

from posetraj_jax.planning import hlo
from posetraj_jax.planning.hlo import Array, arrays_of

LOOPS = """\
HloModule toy

%below (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %bound = s32[] constant(5)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

%unclear (q: (s32[], f32[8])) -> pred[] {
  %q = (s32[], f32[8]{0}) parameter(0)
  ROOT %bool = pred[] constant(true)
}

%inner (x: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} parameter(0)
}

%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b = (s32[], f32[8]{0}) parameter(0)
  %f = f32[8]{0} fusion(%b), kind=kLoop, calls=%inner
  ROOT %t = (s32[], f32[8]{0}) tuple(%b, %f)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0), metadata={op_name="args[0].params[\\'w\\']"}
  %w = (s32[], f32[8]{0}) while(%a), condition=%below, body=%body
  %v = (s32[], f32[8]{0}) while(%w), condition=%{CONDITION}, body=%body
  ROOT %r = f32[8]{0} get-tuple-element(%v), index=1
}
"""


def program(condition: str) -> hlo.Program:
    return hlo.parse(LOOPS.replace("{CONDITION}", condition).splitlines())


def named(compiled: hlo.Program) -> dict[str, hlo.Instruction]:
    return {i.name: i for i, _ in compiled.executed()}


def test_array_types_with_and_without_padding():
    plain, tiled, scalar = arrays_of("(bf16[3,5,7]{2,1,0}, f32[3,5,7]{0,2,1:T(8,128)}, s32[])")
    assert (plain.num_bytes, plain.hbm_bytes) == (210, 210)
    # The innermost axis is the first, 3 → 128; the next one the last, 7 → 8.
    assert (tiled.num_bytes, tiled.hbm_bytes) == (420, 128 * 5 * 8 * 4)
    assert (str(scalar), scalar.num_bytes) == ("s32[]", 4)
    assert arrays_of("f32[4]{0:T(128)S(1)}")[0].hbm_bytes == 0
    assert Array("s4", (3,)).num_bytes == 2
    assert arrays_of("token[], opaque[]") == []


def test_loops_run_as_often_as_their_condition_says():
    both = program("below")
    assert both.entry == "main"
    assert both.runs["body"] == 10
    assert both.runs["inner"] == 10
    assert both.endless == 0
    assert both.scheduled == {"main", "body", "below"}


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    unclear = program("unclear")
    assert (unclear.runs["body"], unclear.endless) == (6, 1)


def test_a_length_that_the_compiler_writes_holds():
    told = LOOPS.replace("condition=%{CONDITION}, body=%body", "condition=%unclear, body=%body, "
                         'backend_config={"known_trip_count":{"n":"7"}}')  # fmt: skip
    assert hlo.parse(told.splitlines()).runs["body"] == 12


def test_arguments_carry_their_path():
    (argument,) = program("below").parameters
    assert argument.operation == "args[0].params['w']"


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse(["HloModule nothing"])


KERNEL = """\
ENTRY %main (a: f32[8]) -> f32[8] {
  %k = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"told":"{\\"block\\": 1024}"
}}, metadata={op_name="attention" stack_frame_id=3}
  ROOT %r = f32[8]{0} negate(%k)
}, execution_thread="main"

StackFrames
3 {file_location_id=1 parent_frame_id=1}
"""  # noqa: E501


def test_a_kernel_s_description_may_span_lines_that_look_like_an_end():
    found = named(hlo.parse(KERNEL.splitlines()))
    assert set(found) == {"k", "r"}
    assert found["k"].operation == "attention"
    assert "block" in found["k"].rest


def test_instructions_that_belong_nowhere_are_refused():
    with pytest.raises(ValueError, match="outside of any computation"):
        hlo.parse(
            KERNEL.replace("\n}, execution_thread", "\n}\n  %z = f32[8]{0} abs(%k)\n}").splitlines()
        )


def test_a_real_program(scan):
    compiled, _ = scan
    runs = {i.name: times for i, times in compiled.executed()}
    (scatter,) = (name for name, i in named(compiled).items() if "all-reduce-scatter" in i.rest)
    assert (runs["all-gather.1"], runs[scatter]) == (1, 3)
    assert compiled.endless == 0
    gather = named(compiled)["all-gather.1"]
    assert [str(array) for array in gather.arrays] == ["bf16[1024,2048]"]
    assert gather.operation.endswith("sharding_constraint")
    assert compiled.source(gather) == "posetraj_jax/toy.py:14"
