"""AdamW with warm-up and clipping, what is spatial and what temporal, and the moving average."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from posetraj_jax import tree

PART_TABLE = (
    # Path pattern → part; the first matching row holds.
    (
        r"(^|\.)(temporal_res_block|temporal_transformer_blocks|time_mixer|time_pos_embed)\.",
        "temporal",
    ),
    ("", "spatial"),  # zero convolutions, map encoder, camera, time and id embeddings too
)
"""Which parameters work across frames: the one table, for the spatial promotion loss and for what
`trainable` chooses."""


@dataclass(frozen=True)
class OptimizerOptions:
    """The section `optim` of the config; see there for units."""

    lr: float
    warmup_steps: int
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip_norm: float
    accumulate: int
    ema_decay: float


def learning_rate(options: OptimizerOptions) -> optax.Schedule:
    """Linear from lr / warmup_steps up to lr, then constant."""
    if options.warmup_steps == 0:
        return optax.constant_schedule(options.lr)
    start = options.lr / options.warmup_steps
    return optax.linear_schedule(start, options.lr, max(options.warmup_steps - 1, 1))


def make_optimizer(options: OptimizerOptions) -> optax.GradientTransformation:
    """AdamW on every trainable leaf, as the official training; clipping first where it is on."""
    adamw = optax.adamw(
        learning_rate(options),
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
        weight_decay=options.weight_decay,
    )
    if options.clip_norm == 0:
        return adamw
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), adamw)


def part_labels(params: tree.Tree) -> dict[str, Any]:
    """The same tree with "spatial" or "temporal" for every leaf."""
    return tree.unflatten(
        {path: tree.first_match(PART_TABLE, path) for path in tree.flatten(params)}
    )


def keep_spatial(grads: Any) -> Any:
    """The gradient with zeros for its temporal leaves; under jit these are never computed."""
    mask = optax.partition(
        {"spatial": optax.identity(), "temporal": optax.set_to_zero()}, part_labels
    )
    return mask.update(grads, mask.init(grads))[0]


def split(params: tree.Tree, part: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves that train and the rest; `part` is "all", "spatial" or "temporal"."""
    labels = tree.flatten(part_labels(params))
    trains, rest = {}, {}
    for path, leaf in tree.flatten(params).items():
        (trains if part in ("all", labels[path]) else rest)[path] = leaf
    return tree.unflatten(trains), tree.unflatten(rest)


def update_ema(ema: Any, params: Any, step: Int[Array, ""], decay: float) -> Any:
    """Moves the average towards `params` after optimizer step `step` (0-based).

    The decay warms up as (1 + step) / (10 + step), so that a short run's average is not its start.
    With a decay of 0 there is no average, and `ema` is {}.
    """
    if decay == 0:
        return ema
    rate = 1.0 - _ema_decay(step, decay)
    return jax.tree.map(lambda average, param: average + rate * (param - average), ema, params)


def _ema_decay(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
