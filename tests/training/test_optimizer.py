"""AdamW, warm-up, clipping and the moving average on trees small enough to compute by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax

from posetraj_jax.training import optimizer
from tests.training.conftest import OPTIM


def update(options, grads, params, steps=1):
    transform = optimizer.make_optimizer(options)
    state = transform.init(params)
    for _ in range(steps):
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


PLAIN = dataclasses.replace(OPTIM, lr=0.1, warmup_steps=0, clip_norm=0.0, weight_decay=0.0)


def test_the_first_adam_step_is_the_learning_rate():
    params = update(PLAIN, {"w": jnp.array([3.0, -5.0])}, {"w": jnp.zeros(2)})
    np.testing.assert_allclose(params["w"], [-0.1, 0.1], rtol=1e-5)


def test_weight_decay_shrinks_what_has_no_gradient():
    options = dataclasses.replace(PLAIN, weight_decay=0.01)
    params = update(options, {"w": jnp.zeros(1)}, {"w": jnp.ones(1)})
    np.testing.assert_allclose(params["w"], [1 - 0.1 * 0.01], rtol=1e-6)


def test_warm_up_is_linear_and_reaches_the_peak():
    schedule = optimizer.learning_rate(dataclasses.replace(OPTIM, lr=0.4, warmup_steps=4))
    np.testing.assert_allclose([schedule(i) for i in range(6)], [0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_no_warm_up_is_constant():
    schedule = optimizer.learning_rate(dataclasses.replace(OPTIM, lr=0.4, warmup_steps=0))
    assert schedule(0) == schedule(100) == 0.4


def test_clipping_scales_the_whole_gradient():
    """A gradient of norm 5 clipped to 1: what Adam's second moment sees is a fifth."""
    options = dataclasses.replace(PLAIN, clip_norm=1.0)
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    transform = optimizer.make_optimizer(options)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, state = transform.update(grads, transform.init(params), params)
    moments = state[1][0].mu
    np.testing.assert_allclose(moments["a"] / 0.1, [0.6], rtol=1e-5)
    np.testing.assert_allclose(moments["b"] / 0.1, [0.8], rtol=1e-5)


def test_ema_decay_warms_up_to_its_limit():
    ema, params = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    first = optimizer.update_ema(ema, params, jnp.int32(0), 0.99)
    late = optimizer.update_ema(ema, params, jnp.int32(100_000), 0.99)
    np.testing.assert_allclose(first["w"], [0.9], rtol=1e-6)
    np.testing.assert_allclose(late["w"], [0.01], rtol=1e-4)
