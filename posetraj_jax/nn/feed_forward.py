"""The feed-forward layers of a transformer: a projection with a gate (GEGLU), and one back."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.fused_feed_forward import EPS, Weights, feed_forward_on_tpu, suits
from posetraj_jax.nn.geglu import geglu
from posetraj_jax.nn.layers import Make
from posetraj_jax.nn.shared_kernels import use_whole

EXPANSION = 4


class FeedForward(nnx.Module):
    """GEGLU: half of the first projection is the value, the other half its gate (exact GELU)."""

    def __init__(self, d: int, make: Make):
        self.proj_in = make.linear(d, 2 * EXPANSION * d)
        self.proj_out = make.linear(EXPANSION * d, d)
        self.for_tpu = make.for_tpu

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """The update, without the residual."""
        return self.proj_out(geglu(*self.proj_in.halves(x)))

    def added(self, x: Float[Array, "*batch d"], norm: nnx.LayerNorm) -> Float[Array, "*batch d"]:
        """x plus the update of the normalised x."""
        is_plain = not (self.proj_in.is_adapted or self.proj_out.is_adapted)
        is_plain = is_plain and norm.epsilon == EPS
        if not (self.for_tpu and is_plain and suits(x, self.proj_out.in_features)):
            return x + self(norm(x))
        kernels = self.proj_in.kernel[...], self.proj_out.kernel[...]
        of_norm = map(jnp.asarray, (norm.scale[...], norm.bias[...]))
        biases = (jnp.asarray(layer.bias[...], x.dtype) for layer in (self.proj_in, self.proj_out))
        return use_whole(_fused, kernels, x.dtype, x, *of_norm, *biases)


def _fused(
    kernels: tuple[Array, Array], x: Array, scale: Array, shift: Array, b_in: Array, b_out: Array
) -> Array:
    w_in, w_out = kernels
    return feed_forward_on_tpu(x, Weights(scale, shift, w_in, b_in, w_out, b_out))
