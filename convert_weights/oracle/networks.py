"""The PyTorch networks, built from our configurations out of diffusers' and transformers' parts."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_3d_blocks import UNetMidBlockSpatioTemporal, get_down_block
from torch import nn
from transformers import CLIPVisionConfig as TorchCLIPVisionConfig
from transformers import CLIPVisionModelWithProjection

from posetraj_jax.models.clip import CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNetConfig
from posetraj_jax.models.stages import EncoderConfig
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.models.vae import VAEConfig
from posetraj_jax.structs import CAMERA_NUMBERS, MAP_CHANNELS

Tensor = torch.Tensor


def forward_unet(
    module: UNetSpatioTemporalConditionModel,
    *inputs: Tensor,
    residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    cumulative: bool = False,
) -> Tensor:
    """diffusers' UNet with a ControlNet's residuals, as the official copy of it: (b, f, c, h, w).

    Args:
        inputs: sample (b, f, c, h, w), c_noise, image_embed and time_ids, as for ours.
        residuals: Skip residuals and the middle's, (b f, c, h, w).
        cumulative: Add them to all skips gathered so far after every stage, the official
            behaviour; else once each.
    """
    sample = inputs[0]
    extras, extra_mid = residuals or ((), None)
    temb, context, indicator = encoder_inputs(module, *inputs)
    x = module.conv_in(sample.flatten(0, 1))
    skips = [x]
    for stage in module.down_blocks:
        x, more = run_stage(stage, x, temb, context, indicator)
        skips += more
        if cumulative:
            added = [s + e for s, e in zip(skips, extras, strict=False)]
            skips = added + skips[len(added) :]
    if extras and not cumulative:
        skips = [s + e for s, e in zip(skips, extras, strict=True)]
    x = run_stage(module.mid_block, x, temb, context, indicator)
    if extra_mid is not None:
        x = x + extra_mid
    for stage in module.up_blocks:
        taken, skips = skips[-len(stage.resnets) :], skips[: -len(stage.resnets)]
        options = {"res_hidden_states_tuple": tuple(taken)}
        x = run_stage(stage, x, temb, context, indicator, **options)
    x = module.conv_out(module.conv_act(module.conv_norm_out(x)))
    return x.unflatten(0, sample.shape[:2])


class MapEmbeddingOracle(nn.Module):
    """The official conditioning embedding, with `cc_projection` where there is a camera."""

    def __init__(self, config: ControlNetConfig):
        super().__init__()
        channels = config.conditioning_embedding_out_channels
        self.conv_in = nn.Conv2d(MAP_CHANNELS, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for c_in, c_out in itertools.pairwise(channels):
            self.blocks.append(nn.Conv2d(c_in, c_in, 3, padding=1))
            self.blocks.append(nn.Conv2d(c_in, c_out, 3, padding=1, stride=2))
        if config.camera:
            self.cc_projection = nn.Linear(channels[-1] + CAMERA_NUMBERS, channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], config.block_out_channels[0], 3, padding=1)

    def forward(self, maps: Tensor, camera: Tensor | None) -> Tensor:
        """(n, 3, H, W) maps and (n, 12) cameras to (n, c, h, w) features."""
        x = nn.functional.silu(self.conv_in(maps))
        for conv in self.blocks:
            x = nn.functional.silu(conv(x))
        if camera is not None:
            everywhere = camera[:, None, None, :].expand(-1, x.shape[2], x.shape[3], -1)
            pixels = torch.cat([x.permute(0, 2, 3, 1), everywhere], dim=-1)
            x = self.cc_projection(pixels).permute(0, 3, 1, 2)
        return self.conv_out(x)


class ControlNetOracle(nn.Module):
    """The official ControlNet, put together from diffusers' blocks."""

    def __init__(self, config: ControlNetConfig):
        super().__init__()
        channels, c0 = config.block_out_channels, config.block_out_channels[0]
        self.conv_in = nn.Conv2d(config.in_channels, c0, 3, padding=1)
        self.time_proj = Timesteps(c0, True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(c0, 4 * c0)
        self.add_time_proj = Timesteps(config.addition_time_embed_dim, True, downscale_freq_shift=0)
        ids_dim = config.projection_class_embeddings_input_dim
        self.add_embedding = TimestepEmbedding(ids_dim, 4 * c0)
        self.controlnet_cond_embedding = MapEmbeddingOracle(config)
        self.down_blocks = nn.ModuleList(
            _down_block(config, level) for level in range(config.num_levels)
        )
        self.mid_block = UNetMidBlockSpatioTemporal(
            channels[-1],
            temb_channels=4 * c0,
            transformer_layers_per_block=config.transformer_layers_per_block,
            cross_attention_dim=config.cross_attention_dim,
            num_attention_heads=config.num_attention_heads[-1],
        )
        taps = config.skip_channels
        self.controlnet_down_blocks = nn.ModuleList(nn.Conv2d(c, c, 1) for c in taps)
        self.controlnet_mid_block = nn.Conv2d(channels[-1], channels[-1], 1)

    def forward(
        self,
        sample: Tensor,
        c_noise: Tensor,
        image_embed: Tensor,
        time_ids: Tensor,
        maps: Tensor,
        camera: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Skip residuals and the middle's, (b f, c, h, w), each once."""
        temb, context, indicator = encoder_inputs(self, sample, c_noise, image_embed, time_ids)
        cameras = None if camera is None else camera.flatten(0, 1)
        features = self.controlnet_cond_embedding(maps.flatten(0, 1), cameras)
        x = self.conv_in(sample.flatten(0, 1)) + features
        skips = [x]
        for stage in self.down_blocks:
            x, more = run_stage(stage, x, temb, context, indicator)
            skips += more
        x = run_stage(self.mid_block, x, temb, context, indicator)
        taps = zip(self.controlnet_down_blocks, skips, strict=True)
        return [conv(skip) for conv, skip in taps], self.controlnet_mid_block(x)


def _down_block(config: EncoderConfig, level: int) -> nn.Module:
    channels, is_last = config.block_out_channels, level == config.num_levels - 1
    kind = "DownBlockSpatioTemporal" if is_last else "CrossAttnDownBlockSpatioTemporal"
    return get_down_block(
        kind,
        num_layers=config.layers_per_block,
        transformer_layers_per_block=config.transformer_layers_per_block,
        in_channels=channels[max(level - 1, 0)],
        out_channels=channels[level],
        temb_channels=4 * channels[0],
        add_downsample=not is_last,
        resnet_eps=1e-5,
        cross_attention_dim=config.cross_attention_dim,
        num_attention_heads=config.num_attention_heads[level],
        resnet_act_fn="silu",
    )


def encoder_inputs(
    module: Any, sample: Tensor, c_noise: Tensor, image_embed: Tensor, time_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Time embedding and image context repeated per frame, and the all-video indicator."""
    b, f = sample.shape[:2]
    ids = module.add_time_proj(time_ids.flatten()).reshape(b, -1)
    temb = module.time_embedding(module.time_proj(c_noise)) + module.add_embedding(ids)
    context = image_embed[:, None].repeat_interleave(f, dim=0)
    return temb.repeat_interleave(f, dim=0), context, torch.zeros(b, f)


def run_stage(
    stage: nn.Module, x: Tensor, temb: Tensor, context: Tensor, indicator: Tensor, **options: Any
) -> Any:
    """Calls one of diffusers' stages, with the context where it attends."""
    if getattr(stage, "has_cross_attention", False):
        options["encoder_hidden_states"] = context
    return stage(x, temb=temb, image_only_indicator=indicator, **options)


def unet(config: UNetConfig) -> UNetSpatioTemporalConditionModel:
    """The PyTorch UNet of this configuration."""
    attending = config.num_levels - 1
    down_blocks = ("CrossAttnDownBlockSpatioTemporal",) * attending + ("DownBlockSpatioTemporal",)
    up_blocks = ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * attending
    module = UNetSpatioTemporalConditionModel(
        down_block_types=down_blocks,
        up_block_types=up_blocks,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        num_attention_heads=config.num_attention_heads,
        cross_attention_dim=config.cross_attention_dim,
        transformer_layers_per_block=config.transformer_layers_per_block,
        addition_time_embed_dim=config.addition_time_embed_dim,
        projection_class_embeddings_input_dim=config.projection_class_embeddings_input_dim,
        num_frames=config.num_frames,
    )
    if config.temporal_context == "interleaved":
        interleave_temporal_context(module)
    return module


def controlnet(config: ControlNetConfig) -> ControlNetOracle:
    """The PyTorch ControlNet of this configuration."""
    module = ControlNetOracle(config)
    if config.temporal_context == "interleaved":
        interleave_temporal_context(module)
    return module


def vae(config: VAEConfig) -> AutoencoderKLTemporalDecoder:
    """The PyTorch autoencoder of this configuration."""
    return AutoencoderKLTemporalDecoder(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=("DownEncoderBlock2D",) * len(config.block_out_channels),
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        scaling_factor=config.scaling_factor,
    )


def clip(config: CLIPVisionConfig) -> CLIPVisionModelWithProjection:
    """The PyTorch image tower of this configuration."""
    return CLIPVisionModelWithProjection(
        TorchCLIPVisionConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            image_size=config.image_size,
            patch_size=config.patch_size,
            projection_dim=config.projection_dim,
            hidden_act="gelu",
        )
    )


def interleave_temporal_context(module: nn.Module) -> None:
    """Makes `module` mix the image contexts of a batch in time as diffusers did before 0.28."""
    for child in module.modules():
        for block in getattr(child, "temporal_transformer_blocks", ()):
            block.register_forward_pre_hook(_interleave, with_kwargs=True)


def _interleave(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Lays the contexts out pixel by pixel instead of clip by clip."""
    positions, contexts = args[0].shape[1], kwargs["encoder_hidden_states"]
    per_clip = contexts[::positions]
    return args, kwargs | {"encoder_hidden_states": per_clip.repeat(positions, 1, 1)}
