"""One optimizer step as a pure function: the method on one screen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.diffusion.noise import NoiseOptions, draw_sigma
from posetraj_jax.models.networks import Networks, Parameters
from posetraj_jax.structs import Batch
from posetraj_jax.training.loss import SpatialPromotion, losses_and_gradient, noise_clips
from posetraj_jax.training.optimizer import OptimizerOptions, update_ema
from posetraj_jax.training.state import Metrics, TrainState


@dataclass(frozen=True)
class StepOptions:
    """The config sections that the compiled step depends on."""

    trained: str
    """The network that trains, or of which a part does: a field of `Parameters`."""
    conditioning: ConditioningOptions
    noise: NoiseOptions
    spa: SpatialPromotion
    optim: OptimizerOptions


def train_step(
    state: TrainState,
    frozen: Parameters,
    batch: Batch,
    key: Array,
    *,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    options: StepOptions,
) -> tuple[TrainState, Metrics]:
    """Accumulates gradients over microbatches and updates what trains once.

    Args:
      state: donated by the caller.
      frozen: all parameters that are not in `state`.
      batch: accumulate x batch_size clips.
      key: root key of the run; the step's own randomness is derived from it and `state.step`.

    Returns:
      The next state, and scalars: the mean losses, the zero baseline, the gradient's norm.
    """

    def of_microbatch(microbatch, key):
        sigma_key, clips_key = jax.random.split(key)
        clip_keys = jax.random.split(clips_key, microbatch.fps.shape[0])
        sigma = draw_sigma(sigma_key, microbatch.fps.shape[0], options.noise)
        clips = noise_clips(
            frozen,
            microbatch,
            sigma,
            clip_keys,
            networks=networks,
            options=options.conditioning,
            drop=True,
        )
        return losses_and_gradient(
            state.params,
            lambda params: frozen.with_part(options.trained, params),
            clips,
            networks=networks,
            spa=options.spa,
        )

    losses, grads = mean_over_microbatches(
        of_microbatch, batch, jax.random.fold_in(key, state.step), options.optim.accumulate
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = update_ema(state.ema, params, state.step, options.optim.ema_decay)
    metrics = losses | {"grad_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, opt_state, ema), metrics


def mean_over_microbatches(
    function: Callable[[Batch, Array], Any], batch: Batch, key: Array, count: int
) -> Any:
    """The mean of `function(microbatch, key)` over `count` interleaved microbatches, one at a time.

    Interleaved, because consecutive clips of a sharded batch live on one device: a microbatch of
    every count-th clip keeps all devices busy without moving any clip.
    """
    if count == 1:
        return function(batch, key)
    clips = batch.fps.shape[0] // count
    micro = jax.tree.map(
        lambda leaf: leaf.reshape(clips, count, *leaf.shape[1:]).swapaxes(0, 1), batch
    )
    keys = jax.random.split(key, count)

    def add(total, inputs):
        return jax.tree.map(jnp.add, total, function(*inputs)), None

    first = jax.tree.map(lambda leaf: leaf[0], (micro, keys))
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *first)
    )
    total, _ = jax.lax.scan(add, zeros, (micro, keys))
    return jax.tree.map(lambda leaf: leaf / count, total)
