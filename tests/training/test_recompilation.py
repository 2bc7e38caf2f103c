"""A real second compilation is named; what is no compilation of the step is not taken for one."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import sharding
from posetraj_jax.errors import UserError
from posetraj_jax.training.recompilation import CompiledOnce
from tests.meshes import mesh_of


def make_step():
    """A new function every time, so that nothing is compiled already."""

    def step(state, batch):
        return jax.tree.map(lambda leaf: leaf + batch["x"].sum().astype(leaf.dtype), state)

    return CompiledOnce(jax.jit(step, donate_argnums=0), ("state", "batch"))


def state():
    return {"params": {"kernel": jnp.ones((2, 3))}, "count": jnp.int32(0)}


def batch(shape=(4,), dtype=np.float32):
    return {"x": jnp.zeros(shape, dtype)}


def test_equal_steps_compile_once():
    with make_step() as step:
        current = state()
        for _ in range(5):
            current = step(current, batch())
        assert step.compilations == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (batch((5,)), r"batch\['x'\]: was float32\[4\] in .*, is float32\[5\]"),
        (batch(dtype=np.int32), r"batch\['x'\]: was float32\[4\] in .*, is int32\[4\]"),
        (
            {"x": jax.device_put(np.zeros(4, np.float32), sharding.replicated(mesh_of(8)))},
            r"batch\['x'\]: was float32\[4\] in Single.*, is float32\[4\] in Named",
        ),
    ],
)
def test_a_batch_that_differs_is_named(changed, named):
    with make_step() as step:
        current = step(step(state(), batch()), batch())
        current = step(current, batch())
        with pytest.raises(UserError, match="compiled again in step 4") as caught:
            step(current, changed)
        assert step.compilations == 2
        assert caught.match(named)
        assert "kernel" not in str(caught.value)


def test_a_state_that_differs_is_named_though_it_is_donated():
    with make_step() as step:
        current = step(step(state(), batch()), batch())
        current["params"]["kernel"] = current["params"]["kernel"].astype(jnp.bfloat16)
        with pytest.raises(UserError) as caught:
            step(current, batch())
        assert caught.match(r"state\['params'\]\['kernel'\]: was float32\[2, 3\].*is bfloat16")


def test_many_changes_are_cut_short():
    def step(state, batch):
        return state, jax.tree.map(lambda leaf: 2 * leaf, batch)

    with CompiledOnce(jax.jit(step), ("state", "batch")) as once:
        for _ in range(2):
            once(1.0, [jnp.zeros(2)] * 20)
        with pytest.raises(UserError, match="and 12 more"):
            once(1.0, [jnp.zeros(3)] * 20)


def test_the_second_step_may_compile():
    with make_step() as step:
        current = step(step(state(), batch((4,))), batch((5,)))
        assert step.compilations == 2
        step(current, batch((4,)))
        assert step.compilations == 2


def test_other_programs_and_other_threads_may_compile():
    def compile_another():
        jax.jit(lambda x: x * 3 + jnp.cos(x))(jnp.ones((2, 7)))

    def with_company(current, given):
        beside = threading.Thread(target=compile_another)
        beside.start()
        beside.join()
        return inner(current, given)

    inner = jax.jit(lambda current, given: current + given)
    with CompiledOnce(with_company, ("state", "batch")) as step:
        for _ in range(4):
            step(1.0, 2.0)
            compile_another()
        assert step.compilations == 1


def test_an_array_of_numpy_is_no_compilation():
    """JAX's own cache of calls grows by it, and no program is made: the count is of programs."""
    inner = jax.jit(lambda current, given: current + given)
    with CompiledOnce(inner, ("state", "batch")) as step:
        for _ in range(3):
            step(jnp.ones(3), jnp.ones(3))
        entries = inner._cache_size()
        step(jnp.ones(3), np.ones(3, np.float32))
        assert inner._cache_size() > entries
        assert step.compilations == 1


def test_nothing_is_heard_afterwards():
    with make_step() as step:
        step(state(), batch())
    step(state(), batch((6,)))
    assert step.compilations == 1
