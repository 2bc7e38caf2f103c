"""Config sections as frozen dataclasses: below the entry points nobody sees a ConfigDict."""

from dataclasses import dataclass
from pathlib import Path

import jax
from ml_collections import ConfigDict

from posetraj_jax import config, data, published, runs
from posetraj_jax.conditioning import CameraOptions, ConditioningOptions
from posetraj_jax.data.latents import EncoderOptions
from posetraj_jax.data.pipeline import DataOptions
from posetraj_jax.data.records import MAKE_DATA
from posetraj_jax.diffusion.noise import NoiseOptions
from posetraj_jax.errors import UserError, listed
from posetraj_jax.generation import SamplingOptions
from posetraj_jax.models.networks import ModelOptions, options_of, suited_to
from posetraj_jax.published import ImageStatistics, SigmaRange
from posetraj_jax.training.fixed_clips import WatchOptions
from posetraj_jax.training.loop import Schedule
from posetraj_jax.training.loss import SpatialPromotion
from posetraj_jax.training.optimizer import OptimizerOptions
from posetraj_jax.training.origin import InitialOptions
from posetraj_jax.training.step import StepOptions
from posetraj_jax.weights import HOW_TO_CONVERT

SHIPPED = {
    config.SHIPPED_CLIPS: Path(data.__file__).parent / "clips",
    config.SHIPPED_VIDEOS: Path(data.__file__).parent / "videos",
}
"""What these values of `data.path` stand for."""


@dataclass(frozen=True)
class TrainingOptions:
    """Everything a run needs to know, by the part that needs it."""

    model: ModelOptions
    initial: InitialOptions
    data: DataOptions
    step: StepOptions
    watch: WatchOptions
    schedule: Schedule


def from_config(c: ConfigDict) -> TrainingOptions:
    """Reads a validated config, for the devices at hand.

    Raises:
      UserError: the config names no weights or no data, with the commands that make them; or the
        weights' scheduler or preprocessor is missing or says what is not implemented.
    """
    _require_inputs(c)
    sigmas, image_statistics = _published(c)
    step, model = step_options(c, image_statistics), model_options(c, jax.default_backend())
    return TrainingOptions(
        model=model,
        initial=initial_options(c),
        data=DataOptions(
            **{**c.data, **_data_paths(c)},
            **_batching(c),
            needs_camera=c.camera.enabled,
            encoders=EncoderOptions(
                clip_range=c.conditioning.clip_range,
                image_mean=image_statistics.mean,
                image_std=image_statistics.std,
                dtype=model.dtype.name,
            ),
        ),
        step=step,
        watch=WatchOptions(
            trained=step.trained,
            eval_clips=c.eval.clips,
            noise_levels=c.eval.noise_levels,
            sample_clips=c.sample.clips,
            batch_size=c.batch_size,
            seed=c.eval.seed,
            conditioning=step.conditioning,
            noise=step.noise,
            sampling=_sampling(c, step.conditioning, sigmas),
        ),
        schedule=Schedule(
            steps=c.steps,
            log=c.log.every,
            evaluate=c.eval.every,
            sample=c.sample.every,
            save=c.save.every,
        ),
    )


def model_options(c: ConfigDict, platform: str) -> ModelOptions:
    """The networks of a validated config on a platform of JAX: cpu, gpu or tpu.

    Raises:
      UserError: the config names an attention kernel of another platform.
    """
    return options_of(config.flatten(c), **suited_to(platform, c.model.dtype, c.model.attention))


def step_options(c: ConfigDict, image_statistics: ImageStatistics) -> StepOptions:
    """What the compiled step of a validated config depends on; nothing is read."""
    camera = CameraOptions(c.camera.normalise, c.camera.drop) if c.camera.enabled else None
    return StepOptions(
        trained=runs.trained_network(c.stage),
        conditioning=ConditioningOptions(
            **c.conditioning, image_statistics=image_statistics, camera=camera
        ),
        noise=NoiseOptions(**c.diffusion),
        spa=SpatialPromotion(**c.spa),
        optim=OptimizerOptions(**c.optim),
    )


def initial_options(c: ConfigDict) -> InitialOptions:
    """Where what trains comes from; nothing is read."""
    return InitialOptions(
        stage=c.stage,
        init_from=c.init_from,
        init_stages=c.init_stages,
        trainable=c.trainable,
        rank=c.adapter.rank,
        weights=c.weights,
        seed=c.seed,
        copy_add_embedding=c.model.copy_add_embedding,
    )


def _require_inputs(c: ConfigDict) -> None:
    missing = []
    if not c.weights and c.model.variant not in config.SMALL:
        missing.append(f"weights: convert the published ones with: {HOW_TO_CONVERT}")
    if c.weights and not Path(c.weights).expanduser().is_dir():
        missing.append(f"weights = {c.weights}: no such folder; make it with: {HOW_TO_CONVERT}")
    if not c.data.path:
        missing.append(f"data.path: render clips with: {MAKE_DATA}")
    if missing:
        raise UserError(
            "this config needs files that it was not given",
            expected="weights of the frozen networks, and a folder of clips",
            got=listed(missing),
            fix="run these commands, then pass --config.weights=WEIGHTS_FOLDER "
            "--config.data.path=CLIPS_FOLDER; or try configs/stage1.py:tiny, which needs neither",
        )


def _published(c: ConfigDict) -> tuple[SigmaRange, ImageStatistics]:
    """What the weights were published with; random networks take the numbers of SVD."""
    if not c.weights:
        return SigmaRange(), ImageStatistics()
    folder = Path(c.weights).expanduser()
    fix = f"convert the published weights again, with: {HOW_TO_CONVERT}"
    sigmas = published.read_sigma_range(folder, fix)
    return sigmas, published.read_image_statistics(folder, fix)


def _sampling(
    c: ConfigDict, conditioning: ConditioningOptions, sigmas: SigmaRange
) -> SamplingOptions:
    return SamplingOptions(
        steps=c.sample.steps,
        min_guidance_scale=c.sample.min_guidance_scale,
        max_guidance_scale=c.sample.max_guidance_scale,
        sigma_min=sigmas.sigma_min,
        sigma_max=sigmas.sigma_max,
        conditioning=conditioning,
    )


def _data_paths(c: ConfigDict) -> dict[str, str]:
    path = SHIPPED.get(c.data.path) or Path(c.data.path).expanduser()
    latents = c.data.latents and str(Path(c.data.latents).expanduser())
    return {"path": str(path), "latents": latents}


def _batching(c: ConfigDict) -> dict[str, int]:
    """Clips that are read for one optimizer step."""
    return {"batch_size": c.batch_size * c.optim.accumulate, "seed": c.seed}
