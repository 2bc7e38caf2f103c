"""CLIP's image tower with its projection: one vector per image."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.nn.attention import SelfAttention
from posetraj_jax.nn.layers import Make


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
    """Architecture of the image tower, fields named as in transformers; defaults are ViT-H/14."""

    hidden_size: int = 1280
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    intermediate_size: int = 5120
    image_size: int = 224
    patch_size: int = 14
    projection_dim: int = 1024

    def __post_init__(self):
        if self.image_size % self.patch_size:
            raise ValueError("image_size is a multiple of patch_size")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size is a multiple of num_attention_heads")

    @classmethod
    def vit_h(cls, **overrides: Any) -> "CLIPVisionConfig":
        """The tower Stable Video Diffusion is conditioned with."""
        return cls(**overrides)

    @classmethod
    def tiny(cls, **overrides: Any) -> "CLIPVisionConfig":
        """The same layers, small enough for a CPU; the partner of `UNetConfig.tiny`."""
        small = {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "patch_size": 32,
            "projection_dim": 64,
        }
        return cls(**small | overrides)

    @property
    def num_positions(self) -> int:
        """Tokens: the class token and one per patch."""
        return 1 + (self.image_size // self.patch_size) ** 2


class Embeddings(nnx.Module):
    """Patches to tokens, a class token before them, and position embeddings."""

    def __init__(self, config: CLIPVisionConfig, make: Make):
        d, size = config.hidden_size, config.patch_size
        self.class_embedding = nnx.Param(make.uniform((d,), d**-0.5))
        self.patch_embedding = make.conv(
            3, d, (size, size), strides=size, padding="VALID", use_bias=False
        )
        self.position_embedding = make.embed(config.num_positions, d)

    def __call__(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b n d"]:
        """Tokens, the class token first."""
        patches = self.patch_embedding(images)
        b, d = patches.shape[0], patches.shape[-1]
        first = jnp.broadcast_to(self.class_embedding[...].astype(patches.dtype), (b, 1, d))
        tokens = jnp.concatenate([first, patches.reshape(b, -1, d)], axis=1)
        return tokens + self.position_embedding(jnp.arange(tokens.shape[1]))


class MLP(nnx.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, config: CLIPVisionConfig, make: Make):
        self.fc1 = make.linear(config.hidden_size, config.intermediate_size)
        self.fc2 = make.linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """The update, without the residual."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Layer(nnx.Module):
    """Self-attention and MLP, each after a norm and with a residual."""

    def __init__(self, config: CLIPVisionConfig, make: Make):
        d = config.hidden_size
        self.layer_norm1 = make.layer_norm(d)
        self.self_attn = SelfAttention(d, config.num_attention_heads, make, qkv_bias=True)
        self.layer_norm2 = make.layer_norm(d)
        self.mlp = MLP(config, make)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Tokens after the layer."""
        x += self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPVision(nnx.Module):
    """The image embedding SVD attends to.

    Source: transformers' CLIPVisionModelWithProjection (`image_embeds`).
    """

    def __init__(self, config: CLIPVisionConfig, make: Make):
        d = config.hidden_size
        self.embeddings = Embeddings(config, make)
        self.pre_layernorm = make.layer_norm(d)
        self.layers = nnx.List([Layer(config, make) for _ in range(config.num_hidden_layers)])
        self.post_layernorm = make.layer_norm(d)
        self.visual_projection = make.linear(d, config.projection_dim, bias=False)

    def __call__(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b d"]:
        """The projected class token of images normalised with CLIP's mean and deviation."""
        tokens = self.pre_layernorm(self.embeddings(images))
        for layer in self.layers:
            tokens = layer(tokens)
        return self.visual_projection(self.post_layernorm(tokens[:, 0]))
