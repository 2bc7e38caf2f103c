"""The layers every block is made of. One maker carries compute type, initialisation and keys."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from posetraj_jax.nn import low_rank
from posetraj_jax.nn.attention_kernels import Attention
from posetraj_jax.nn.convolutions import convolve_halving
from posetraj_jax.nn.group_norm import group_norm
from posetraj_jax.nn.low_rank import Adapted
from posetraj_jax.nn.shared_kernels import recomputing
from posetraj_jax.sharding import current_mesh, video_spec

Remat = Literal["none", "blocks", "dots"]
Initializer = Callable[..., Any]

OVER_FRAME = (-3, -2)
OVER_CLIP = (-4, -3, -2)

BLOCK = 2**22

POLICIES = {
    "dots": jax.checkpoint_policies.dots_saveable,
    "blocks": jax.checkpoint_policies.nothing_saveable,
}

zeros = jax.nn.initializers.zeros


class Make:
    """Makes the layers of one network: what they compute in and how their parameters start.

    `still` is for clips of one frame: the same parameters, but nothing temporal runs.

    Kernels start as U(±1/sqrt(fan_in)), as in PyTorch. Differs: biases start at zero, where
    PyTorch draws them too. Parameters are float32 and are cast to `dtype` where they are used.

    Kernels are cut out of blocks of random numbers, each block with its own key: one draw per leaf
    would take XLA a minute to compile for a tiny network.
    """

    def __init__(
        self,
        key: Any,
        dtype: Any,
        remat: tuple[Remat, ...] = ("none",),
        *,
        still: bool = False,
        attention: Attention = "xla",
    ):
        self.dtype, self.still, self.attention = dtype, still, attention
        self._remat = remat
        self._key, self._num_blocks = key, 0
        self._block, self._used = jnp.zeros((0,)), 0

    @property
    def for_tpu(self) -> bool:
        """Whether layers take the form that is fast on TPUs, as attention does."""
        return self.attention == "splash"

    def remat(self, level: int) -> Remat:
        """What the backward pass recomputes at a level; one policy may stand for all levels."""
        return self._remat[level if len(self._remat) > 1 else 0]

    def params(self) -> None:
        """No key: flax asks for one before every initialiser, but the ones given here need none."""

    def uniform(self, shape: tuple[int, ...], limit: float) -> Array:
        """Numbers from U(±limit) that no other leaf has, float32."""
        count = math.prod(shape)
        if self._used + count > self._block.size:
            key = jax.random.fold_in(self._key, self._num_blocks)
            self._block = jax.random.uniform(key, (max(count, BLOCK),), minval=-1.0, maxval=1.0)
            self._num_blocks, self._used = self._num_blocks + 1, 0
        start, self._used = self._used, self._used + count
        return limit * _cut(self._block, start, shape)

    def linear(
        self, d_in: int, d_out: int, *, bias: bool = True, kernel_init: Initializer | None = None
    ) -> "Linear":
        """A matrix on the last axis."""
        init = kernel_init or self._kernel
        options = {"use_bias": bias, "kernel_init": init, "dtype": self.dtype}
        hooks = {"promote_dtype": _in_use, "dot_general": low_rank.dot_general}
        return Linear(d_in, d_out, **options, **hooks, rngs=self)

    def conv(
        self, c_in: int, c_out: int, kernel: tuple[int, ...] = (3, 3), **options: Any
    ) -> nnx.Conv:
        """A convolution, channels last; extra leading axes are batch axes.

        Pads k // 2 on both sides as PyTorch does: "SAME" would pad a stride-2 kernel elsewhere.
        `options` (`strides`, `padding`, `use_bias`, `kernel_init`) go to `nnx.Conv`.
        """
        defaults = {
            "padding": [(k // 2, k // 2) for k in kernel],
            "kernel_init": self._kernel,
            "dtype": self.dtype,
            "promote_dtype": _in_use,
        }
        plain = convolve_halving if options.get("strides") == 2 else jax.lax.conv_general_dilated
        convolve = low_rank.convolving(options.pop("conv_general_dilated", plain))
        options = defaults | options | {"conv_general_dilated": convolve}
        return nnx.Conv(c_in, c_out, kernel, **options, rngs=self)

    def layer_norm(self, d: int) -> nnx.LayerNorm:
        """Layer normalisation with float32 statistics and eps 1e-5."""
        return nnx.LayerNorm(d, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, rngs=self)

    def embed(self, n: int, d: int) -> nnx.Embed:
        """A table of `n` vectors."""
        return nnx.Embed(n, d, embedding_init=self._kernel, dtype=self.dtype, rngs=self)

    def _kernel(self, key: None, shape: tuple[int, ...], dtype: Any) -> Array:
        fan_in = math.prod(shape[:-1])
        return self.uniform(shape, fan_in**-0.5).astype(dtype)


class Linear(nnx.Linear):
    """A matrix on the last axis, and a bias.

    What is made of the output's features at once is better made of the kernel's columns, which are
    few: a TPU turns and joins an output, and above all its gradient, at the cost of the product.
    """

    def halves(
        self, x: Float[Array, "*batch d_in"]
    ) -> tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]:
        """The first half of the output's features, and the second."""
        x, kernel, bias = self._in_use(x)
        products = low_rank.project_halves(x, kernel)
        first, second = jnp.split(bias, 2)
        return products[0] + first, products[1] + second

    def heads(self, x: Float[Array, "*batch d_in"], k: int) -> Float[Array, "*batch k e"]:
        """The output's features in `k` equal parts."""
        x, kernel, bias = self._in_use(x)
        product = low_rank.project_heads(x, kernel, k)
        return product if bias is None else product + bias.reshape(k, -1)

    @property
    def is_adapted(self) -> bool:
        """Whether low-rank factors lie beside the kernel."""
        return isinstance(self.kernel[...], Adapted)

    def _in_use(self, x: Array) -> tuple[Any, ...]:
        bias = None if self.bias is None else self.bias[...]
        return _in_use((x, self.kernel[...], bias), dtype=self.dtype)


def _in_use(arrays: tuple[Any, Any, Any], *, dtype: Any) -> tuple[Any, ...]:
    """Input and bias of a layer in the compute type; the kernel as it lies, for `use_whole`."""
    x, kernel, bias = arrays
    kernel = kernel if isinstance(kernel, Adapted) else jnp.asarray(kernel)
    return jnp.asarray(x, dtype), kernel, bias if bias is None else jnp.asarray(bias, dtype)


@functools.partial(jax.jit, static_argnames="shape")
def _cut(block: Array, start: Any, shape: tuple[int, ...]) -> Array:
    return jax.lax.dynamic_slice(block, (start,), (math.prod(shape),)).reshape(shape)


class GroupNorm(nnx.Module):
    """Group normalisation over 32 groups: see `nn.group_norm`."""

    def __init__(self, channels: int, make: Make, eps: float, axes: tuple[int, ...] = OVER_FRAME):
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.eps, self.axes, self.dtype = eps, axes, make.dtype

    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h w c"]:
        """Normalises over the group's channels and `axes`: one frame, or all frames of a clip."""
        return self._normalised(x, silu=False)

    def silu(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h w c"]:
        """SiLU of the same."""
        return self._normalised(x, silu=True)

    def _normalised(self, x: Array, silu: bool) -> Array:
        arrays = map(jnp.asarray, (x, self.scale[...], self.bias[...]))
        return group_norm(*arrays, self.eps, self.axes, silu).astype(self.dtype)


class Blend(nnx.Module):
    """Mixes a spatial and a temporal branch with one learned weight: the only place that does.

    Source: spatial weight sigmoid(mix_factor), temporal the rest; the VAE decoder swaps the roles
    (`swap`). Starts at mix_factor 0.5 in the UNet and 0 in the VAE. A network for stills gives the
    spatial branch all the weight, as SVD does for images, and never runs the other.
    """

    def __init__(self, start: float, make: Make, *, swap: bool = False):
        self.mix_factor = nnx.Param(jnp.full((1,), start, jnp.float32))
        self.swap, self.still, self.dtype = swap, make.still, make.dtype

    def __call__(
        self,
        spatial: Float[Array, "*axes"],
        run_temporal: Callable[[], Float[Array, "*axes"]],
    ) -> Float[Array, "*axes"]:
        """The weighted mean of the branches, computed in float32."""
        if self.still:
            return spatial
        temporal = run_temporal()
        weight = jax.nn.sigmoid(self.mix_factor[...].astype(jnp.float32))
        if self.swap:
            weight = 1.0 - weight
        mixed = weight * spatial.astype(jnp.float32) + (1.0 - weight) * temporal.astype(jnp.float32)
        return mixed.astype(self.dtype)


def features_last(x: Float[Array, "b f n d"], for_tpu: bool) -> Float[Array, "b f n d"]:
    """`x` lying in memory in the order of its axes, where layers take the form for TPUs.

    Left to itself XLA turns tokens of 320 features, which do not fill their tiles, and turns them
    back before the next norm: an eighth of a frozen transformer's time at that width.
    """
    if not for_tpu:
        return x
    if current_mesh() is None:
        return _laid(x)
    # Each device its own part: XLA does not know how to split a constraint of this kind, and lets
    # devices exchange all activations, which it mostly but not always finds out to be needless.
    spec = video_spec(x.shape)
    return jax.shard_map(_laid, in_specs=spec, out_specs=spec)(x)


def _laid(x: Array) -> Array:
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def checkpointed(block: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """`block`, recomputed in the backward pass as `remat` says.

    "none" stores what autodiff wants, "blocks" stores the block's inputs only, "dots" also the
    results of matrix products and convolutions. Values and gradients are the same.
    """
    if remat == "none":
        return block

    def run(*args: Any) -> Any:
        with recomputing():
            return block(*args)

    return jax.checkpoint(run, policy=POLICIES[remat])
