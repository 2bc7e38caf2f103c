"""Which steps are traced, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.training import profiling
from posetraj_jax.training.profiling import ProfiledStep, Steps
from tests.training.traces import traced_steps


def test_the_flag_is_two_numbers():
    assert profiling.parse("10:13") == Steps(10, 13)
    assert profiling.parse("7:7") == Steps(7, 7)


@pytest.mark.parametrize(
    "text", ["", "10", "10-13", "10:", ":3", "a:b", "-1:3", "1:2:3", "1.0:2", "٣:٤"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(UserError, match=r"cannot be read[\s\S]*--profile_steps=10:13"):
        profiling.parse(text)


def test_steps_that_do_not_come_are_refused():
    profiling.check(None, 90, 90)
    profiling.check(Steps(41, 90), 40, 90)
    for steps in (Steps(40, 50), Steps(50, 49), Steps(80, 91), Steps(0, 3)):
        with pytest.raises(UserError, match="this run does steps 41 to 90"):
            profiling.check(steps, 40, 90)
    with pytest.raises(UserError, match="this run has ended"):
        profiling.check(Steps(91, 92), 90, 90)


@pytest.mark.parametrize(("last", "seen"), [(13, [12, 13]), (99, [12, 13, 14])])
def test_traces_these_steps_and_ends_with_the_run(tmp_path, last, seen):
    double = jax.jit(lambda state: 2 * state)
    state = jnp.float32(1.0)
    with ProfiledStep(double, 10, Steps(12, last), tmp_path) as step:
        for _ in range(4):
            state = step(state)
    assert float(state) == 16.0
    assert traced_steps(tmp_path / "profile") == seen


def test_traces_nothing_unless_asked(tmp_path):
    with ProfiledStep(lambda state: state + 1, 0, None, tmp_path) as step:
        assert step(1) == 2
    assert not list(tmp_path.iterdir())
