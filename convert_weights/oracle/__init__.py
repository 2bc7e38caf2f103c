"""The PyTorch networks ours must equal; tests, `--verify` and benchmarks share them."""

from convert_weights.oracle.calls import (
    run_clip,
    run_controlnet,
    run_map_embedding,
    run_unet,
    run_vae_decode,
    run_vae_encode,
    use_threads,
)
from convert_weights.oracle.features import drawn_state, run_features, run_i3d, run_inception
from convert_weights.oracle.networks import (
    ControlNetOracle,
    MapEmbeddingOracle,
    clip,
    controlnet,
    encoder_inputs,
    forward_unet,
    interleave_temporal_context,
    run_stage,
    unet,
    vae,
)
from convert_weights.oracle.published import (
    drawn,
    from_published,
    from_tensors,
    save_settings,
    scheduler,
)
from convert_weights.oracle.sampling import Sampled, SampleInputs, SampleSettings, sample
from convert_weights.oracle.states import load, redraw, round_parameters, state
from convert_weights.oracle.timing import prepare_convolution
from convert_weights.oracle.training import Clip, Draws, Modules, Step, training_step

__all__ = [
    "Clip",
    "ControlNetOracle",
    "Draws",
    "MapEmbeddingOracle",
    "Modules",
    "SampleInputs",
    "SampleSettings",
    "Sampled",
    "Step",
    "clip",
    "controlnet",
    "drawn",
    "drawn_state",
    "encoder_inputs",
    "forward_unet",
    "from_published",
    "from_tensors",
    "interleave_temporal_context",
    "load",
    "prepare_convolution",
    "redraw",
    "round_parameters",
    "run_clip",
    "run_controlnet",
    "run_features",
    "run_i3d",
    "run_inception",
    "run_map_embedding",
    "run_stage",
    "run_unet",
    "run_vae_decode",
    "run_vae_encode",
    "sample",
    "save_settings",
    "scheduler",
    "state",
    "training_step",
    "unet",
    "use_threads",
    "vae",
]
