"""The JSON files that Stable Video Diffusion was published with, to copy and to alter."""

import json
from pathlib import Path
from typing import Any

from posetraj_jax.published import PREPROCESSOR, SCHEDULER

SVD_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.24.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "trained_betas": None,
    "use_karras_sigmas": True,
}
SVD_PREPROCESSOR = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}


OTHER_SCHEDULER = {
    "_class_name": "EulerAncestralDiscreteScheduler",
    "prediction_type": "epsilon",
    "timestep_type": "discrete",
    "timestep_spacing": "trailing",
    "use_karras_sigmas": False,
    "sigma_min": None,
    "sigma_max": None,
    "use_exponential_sigmas": True,
    "use_beta_sigmas": True,
    "final_sigmas_type": "sigma_min",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "trained_betas": [0.001, 0.003, 0.01, 0.03],
    "rescale_betas_zero_snr": True,
    "num_train_timesteps": 500,
    "steps_offset": 0,
    "interpolation_type": "log_linear",
    "clip_sample": True,
    "set_alpha_to_one": True,
    "skip_prk_steps": False,
}
OTHER_PREPROCESSOR = {
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.2, 0.1],
    "image_processor_type": "SiglipImageProcessor",
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "do_resize": False,
    "size": {"height": 336, "width": 336},
    "resample": 2,
    "do_center_crop": False,
    "crop_size": {"height": 100, "width": 120},
    "do_rescale": False,
    "rescale_factor": 0.5,
    "do_normalize": False,
    "do_convert_rgb": False,
}
"""A value that each field has elsewhere, all different from those of SVD."""


def write_published(
    folder: Path,
    scheduler: dict[str, Any] | None = None,
    preprocessor: dict[str, Any] | None = None,
) -> Path:
    """Writes both files below `folder`, with these fields changed; returns `folder`."""
    contents = {
        SCHEDULER: SVD_SCHEDULER | (scheduler or {}),
        PREPROCESSOR: SVD_PREPROCESSOR | (preprocessor or {}),
    }
    for name, fields in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(fields))
    return folder
