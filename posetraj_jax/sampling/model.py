"""The model that videos are sampled with: published weights and what a training run adds to them.

Weights go straight to the devices, sharded, in the type that they are computed in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from posetraj_jax import config, fingerprint, pretrained, published, runs, sharding, weights
from posetraj_jax.conditioning import CameraOptions, ConditioningOptions
from posetraj_jax.errors import UserError
from posetraj_jax.models.clip import CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNetConfig
from posetraj_jax.models.networks import (
    Networks,
    Parameters,
    assemble,
    build_networks,
    options_of,
)
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.models.vae import VAEConfig
from posetraj_jax.published import ImageStatistics, SigmaRange
from posetraj_jax.runs import Trained
from posetraj_jax.saved import Saved

TINY = "tiny"
"""In place of a folder of weights: small random networks, to try everything but the pictures."""
DTYPES = ("auto", "bfloat16", "float32")


class Model(NamedTuple):
    """Everything that sampling needs but the pictures and the tracks."""

    networks: Networks
    parameters: Parameters
    mesh: Mesh
    conditioning: ConditioningOptions
    sigmas: SigmaRange
    said: Mapping[str, str]
    """What it is: `weights` and `controlnet`, as `load_model` takes them; no controlnet is a random
    one."""

    @property
    def is_random(self) -> bool:
        """Whether the frozen networks are random numbers, so that videos are noise."""
        return self.said["weights"] == TINY


class _Control(NamedTuple):
    """The ControlNet to use."""

    saved: Saved
    config: ControlNetConfig
    trained: Trained | None
    """None if it was converted."""


def load_model(
    weights_folder: str = "", controlnet: str = "", *, dtype: str = "auto", fsdp: int = 1
) -> Model:
    """Loads the networks onto all devices.

    Args:
        weights_folder: of converted weights, or TINY; by default what the run was trained with.
        controlnet: a training run, one of its checkpoints, or a converted ControlNet; by default
            that in the folder of weights.
        dtype: one of DTYPES, of parameters and activations; auto is bfloat16 on accelerators.
        fsdp: over how many devices one copy of the parameters is split, a divisor of their number.
            The videos are spread over all devices whatever it is.

    Raises:
        UserError: there is no such thing, or the two do not fit.
    """
    mesh, compute_type = _mesh(fsdp), _compute_type(dtype)
    if weights_folder not in ("", TINY):
        _require_weights(weights_folder, "correct --weights")
    control = _find_control(controlnet, weights_folder)
    trained = control and control.trained
    weights_folder = weights_folder or _weights_of(control)
    networks = _networks(weights_folder, control, compute_type)
    seed = trained.record["seed"] if trained else 0
    folder = "" if weights_folder == TINY else weights_folder
    keys = pretrained.root_keys(seed)
    parameters = pretrained.frozen_parameters(
        networks, mesh, folder, keys.frozen, dtype=compute_type
    )
    if trained:
        _require_same_unet(trained, parameters, folder)
    parameters = parameters._replace(
        controlnet=_control_parameters(control, networks, mesh, keys.init, compute_type)
    )
    sigmas, statistics = SigmaRange(), ImageStatistics()
    if folder:
        sigmas = published.read_sigma_range(Path(folder).expanduser())
        statistics = published.read_image_statistics(Path(folder).expanduser())
    fields = trained.record if trained else config.flatten(config.default())
    said = {"weights": weights_folder, "controlnet": str(control.saved.folder) if control else ""}
    conditioning = _conditioning(fields, networks, statistics)
    return Model(networks, parameters, mesh, conditioning, sigmas, said)


def _mesh(fsdp: int) -> Mesh:
    count = len(jax.devices())
    fitting = [number for number in range(1, count + 1) if count % number == 0]
    if fsdp not in fitting:
        raise UserError(
            "The weights cannot be split over so many devices",
            expected=f"--fsdp {' or '.join(map(str, fitting))}, which divide the {count} devices",
            got=f"{fsdp}",
            fix="change --fsdp, or leave it out: then every device holds all weights",
        )
    return sharding.make_mesh(sharding.MeshOptions(-1, fsdp))


def _compute_type(dtype: str) -> Any:
    if dtype not in DTYPES:
        raise UserError(
            "The networks cannot compute in this type",
            expected=" or ".join(DTYPES),
            got=repr(dtype),
            fix="change --dtype",
        )
    if dtype == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(dtype)


def _require_weights(given: str, fix: str) -> None:
    """Refuses what is no folder of converted weights."""
    folder = Path(given).expanduser()
    missing = [name for name in pretrained.READY if not (folder / name / weights.PARAMS).is_dir()]
    if missing:
        lacks = ", ".join(f"{name}/{weights.PARAMS}" for name in missing)
        raise UserError(
            f"{given} holds no weights to sample with",
            expected=f"a folder of converted weights, with {', '.join(pretrained.READY)}",
            got=f"a folder without {lacks}"
            if folder.is_dir()
            else "a file"
            if folder.exists()
            else "nothing",
            fix=f"{fix}, or convert them: {weights.HOW_TO_CONVERT}",
        )


def _weights_of(control: _Control | None) -> str:
    """The weights that a ControlNet brings if none are given."""
    if control is None:
        raise UserError(
            "There are no weights to sample with",
            expected="--weights, or the --controlnet of a training run, which knows its own",
            got="neither",
            fix=f"give --weights FOLDER, or --weights {TINY} to try everything with random ones",
        )
    if control.trained is None:
        raise _lacks_networks(control)
    own = control.trained.record["weights"]
    if own:
        _require_weights(own, f"say with --weights where those of {control.saved.folder} are now")
    return own or TINY


def _find_control(controlnet: str, weights_folder: str) -> _Control | None:
    """The ControlNet to use; None for a random one beside random networks."""
    if not controlnet:
        if weights_folder in ("", TINY):
            return None
        inside = Path(weights_folder).expanduser() / "controlnet"
        if not inside.is_dir():
            raise UserError(
                "There is no ControlNet, so tracks would steer nothing",
                expected="a training run, or a converted ControlNet",
                got=f"no --controlnet, and no {inside}",
                fix="give --controlnet, or convert one: python -m convert_weights.posetraj_to_flax",
            )
        controlnet = str(inside)
    path = Path(controlnet).expanduser()
    in_checkpoint = path.parent.name == runs.CHECKPOINTS and path.name.isdigit()
    if runs.is_run(path) or (in_checkpoint and path.is_dir()):
        run = path.parent.parent if in_checkpoint else path
        trained = runs.find(run, int(path.name) if in_checkpoint else None)
        if trained.name != "controlnet":
            raise _no_controlnet(controlnet, f"a run of stage 0, which trained the {trained.name}")
        return _Control(trained.saved, trained.config, trained)
    if (path / weights.PARAMS).is_dir():
        stored = weights.load_config(path, ControlNetConfig)
        return _Control(Saved(path), stored, None)
    raise _no_controlnet(
        controlnet, "another folder" if path.is_dir() else "a file" if path.exists() else "nothing"
    )


def _no_controlnet(given: str, got: str) -> UserError:
    return UserError(
        f"{given} is no ControlNet",
        expected="the folder of a training run, one of its checkpoints (RUN/checkpoints/STEP), or "
        "a converted ControlNet",
        got=got,
        fix="correct --controlnet",
    )


def _networks(weights_folder: str, control: _Control | None, dtype: Any) -> Networks:
    """Networks of the architectures that the folder and the ControlNet have."""
    if weights_folder != TINY:
        folder = Path(weights_folder).expanduser()
        classes = {"unet": UNetConfig, "vae": VAEConfig, "image_encoder": CLIPVisionConfig}
        stored = {name: weights.load_config(folder / name, cls) for name, cls in classes.items()}
        return assemble(controlnet=control.config if control else None, dtype=dtype, **stored)
    if control and control.trained:
        return build_networks(options_of(control.trained.record, dtype))
    if control:
        raise _lacks_networks(control)
    tiny = config.tiny(config.default())
    return build_networks(options_of(config.flatten(tiny), dtype))


def _lacks_networks(control: _Control) -> UserError:
    return UserError(
        f"The ControlNet {control.saved.folder} needs the networks that it steers",
        expected="--weights with a folder of converted weights",
        got="none",
        fix=f"give --weights FOLDER; it is made with: {weights.HOW_TO_CONVERT}",
    )


def _require_same_unet(trained: Trained, parameters: Parameters, folder: str) -> None:
    """Refuses a ControlNet that was trained beside another UNet."""
    unet = fingerprint.of_unet(parameters.unet) if folder else ""
    if unet != trained.unet:
        raise UserError(
            f"{trained.folder} was trained beside another UNet",
            expected=f"the weights of that run: {trained.record['weights'] or 'random ones'}",
            got=folder or "random ones",
            fix="give these with --weights, or none",
        )


def _control_parameters(
    control: _Control | None, networks: Networks, mesh: Mesh, key: Any, dtype: Any
) -> Any:
    if control is None:
        drawn = weights.cast(networks.controlnet.init(key), dtype)
        return jax.device_put(drawn, sharding.parameter_shardings(drawn, mesh))
    target = sharding.sharded(networks.controlnet.abstract(), mesh)
    return control.saved.load(weights.in_type(target, dtype))


def _conditioning(
    fields: Mapping[str, Any], networks: Networks, statistics: ImageStatistics
) -> ConditioningOptions:
    """The conditioning that the ControlNet was trained with, so that the two cannot drift."""
    prefix = "conditioning."
    own = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
    camera = networks.controlnet.config.camera
    return ConditioningOptions(
        **own,
        image_statistics=statistics,
        camera=CameraOptions(fields["camera.normalise"], drop=0.0) if camera else None,
    )
