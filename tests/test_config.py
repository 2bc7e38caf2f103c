"""Configs: complete, locked, overridable from the command line, and wrong ones named."""

import inspect
import re
from pathlib import Path

import pytest

from posetraj_jax import config, config_file, config_rules
from posetraj_jax.errors import UserError
from posetraj_jax.models import networks
from posetraj_jax.models.controlnet import ControlNetConfig, official_residual_multiplicity

STAGES = {"svd_finetune": 0, "stage1": 1, "stage2": 2, "stage3": 3}


@pytest.mark.parametrize("variant", ["svd", "tiny", "micro", "official", "tiny,official"])
@pytest.mark.parametrize("name", STAGES)
def test_shipped_configs_are_valid(name, variant):
    c = config_file.load(f"configs/{name}.py:{variant}")
    assert c.stage == STAGES[name]
    assert c.official == ("official" in variant)
    with pytest.raises(AttributeError):
        c.no_such_field = 1


@pytest.mark.parametrize("variant", ["svd", "tiny", "tiny,official"])
def test_a_stage_starts_from_the_run_of_the_stage_before(variant):
    """As the command line calls that run by default."""
    for stage in (2, 3):
        c = config_file.load(f"stage{stage}:{variant}")
        assert c.init_from == f"runs/{config_file.name_of(f'stage{stage - 1}:{variant}')}"
        assert c.init_stages == (stage - 1,)
    assert config_file.load(f"stage1:{variant}").init_from == ""


def test_only_the_official_variant_may_subtract_the_first_camera():
    c = config_file.load("stage3:official", {"camera.normalise": "subtract"})
    assert c.camera.normalise == "subtract"


def test_official_is_last_whatever_the_order():
    one = config_file.load("stage1:tiny,official")
    other = config_file.load("stage1:official,tiny")
    one, other = config.flatten(one), config.flatten(other)
    assert one == other
    one = config_file.load("stage1:tiny,official")
    assert one.model.residual_multiplicity == (4, 4, 4, 3, 3, 2, 2, 1)


def test_official_flips_every_documented_switch():
    ours, theirs = (config.flatten(config_file.load(s)) for s in ("stage3", "stage3:official"))
    flipped = {field for field in ours if ours[field] != theirs[field]}
    assert flipped == {
        "official",
        "init_from",
        "camera.init",
        "camera.normalise",
        "data.track_kinds",
        "spa.temporal",
        "spa.source",
        "spa.gradient",
        "model.residual_multiplicity",
        "model.temporal_context",
        "model.copy_add_embedding",
        "data.track_colours",
        "data.resize",
        "conditioning.noise_aug",
        "conditioning.motion_bucket_id",
        "conditioning.time_ids",
        "conditioning.clip_range",
        "optim.warmup_steps",
        "optim.clip_norm",
        "optim.ema_decay",
    }


def test_the_readme_lists_every_switch():
    """Of all stages, in the table of deviations."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    table = readme[readme.index("## Deviations") :]
    for name in STAGES:
        ours, theirs = (config.flatten(config_file.load(s)) for s in (name, f"{name}:official"))
        flipped = {field for field in ours if ours[field] != theirs[field]}
        rows = {field for field in flipped if f"\n| `{field}` |" in table}
        assert flipped - rows == {"official", "init_from"} & flipped


@pytest.mark.parametrize("page", ["README.md", "docs/plan.md", "docs/reproduce.md"])
def test_every_documented_command_has_a_valid_config(page):
    """Its fields exist and take these values; nothing is started."""
    text = (Path(__file__).parents[1] / page).read_text().replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    found = re.findall(r"configs/(\w+)\.py(?::([\w,]+))?(.*)", blocks)
    assert found
    for name, variant, rest in found:
        fields = dict(re.findall(r"--config\.([\w.]+)=(\S*)", rest))
        config_file.load(f"{name}:{variant or 'svd'}", fields)


def test_official_multiplicities_are_those_of_the_networks():
    for multiplicity, name in zip(
        config.OFFICIAL_MULTIPLICITY.values(), ("svd", "tiny", "micro"), strict=True
    ):
        c = getattr(ControlNetConfig, name)()
        assert multiplicity == official_residual_multiplicity(c.num_levels, c.layers_per_block)


def test_every_model_choice_can_be_built():
    for variant, skips in config_rules.NUM_SKIPS.items():
        c = config.default()
        c.model.variant, c.model.residual_multiplicity = variant, (1,) * skips
        options = networks.options_of(config.flatten(c), "float32")
        built = networks.build_networks(options)
        assert len(built.controlnet.config.skip_channels) == skips


def test_every_camera_choice_can_be_built():
    for encoder in config_rules.CHOICES["camera.encoder"]:
        for start in config_rules.CHOICES["camera.init"]:
            c = config_file.load("stage3:micro", {"camera.encoder": encoder, "camera.init": start})
            options = networks.options_of(config.flatten(c), "float32")
            built = networks.build_networks(options).controlnet.config
            assert (built.camera, built.camera_encoder, built.camera_init) == (True, encoder, start)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("3e-4", "optim.lr", 3e-4),
        ("7", "steps", 7),
        ("false", "data.draw_box", False),
        ("True", "data.draw_box", True),
        ("floor,centre", "data.track_kinds", ("floor", "centre")),
        ("('floor', 'centre')", "data.track_kinds", ("floor", "centre")),
        ("1,2", "init_stages", (1, 2)),
        ("", "init_from", ""),
        ("(2,1,1,1,1,1,1,1,1,1,1,1)", "model.residual_multiplicity", (2,) + (1,) * 11),
        ("some where/with=signs", "data.path", "some where/with=signs"),
    ],
)
def test_overrides_take_the_fields_type(text, field, value):
    c = config_file.load("stage1", {field: text})
    section, _, name = field.rpartition(".")
    assert (c[section][name] if section else c[name]) == value


@pytest.mark.parametrize(
    ("spec", "overrides", "words"),
    [
        ("stage11", {}, ["no config file", "did you mean configs/stage1.py"]),
        ("stage1:tinny", {}, ["no variant 'tinny'", "did you mean tiny"]),
        ("stage1", {"optm.lr": "1"}, ["no config field 'optm.lr'", "--config.optim.lr"]),
        ("stage1", {"steps": "2.5"}, ["'steps' cannot take", "int", "2.5"]),
        ("stage1", {"data.draw_box": "maybe"}, ["data.draw_box", "bool", "maybe"]),
        ("stage1", {"optim.lr": "nan"}, ["optim.lr", "float"]),
        ("stage1", {"data.height": "300"}, ["data.height = 300", "256 or 320"]),
        ("stage1", {"data.width": "10"}, ["data.width = 10", "64"]),
        ("stage1", {"data.resize": "cubic"}, ["data.resize = 'cubic'", "lanczos, bilinear"]),
        ("stage1", {"steps": "0"}, ["steps = 0"]),
        ("stage1", {"optim.ema_decay": "1.0"}, ["optim.ema_decay"]),
        ("stage1", {"model.residual_multiplicity": "1,2"}, ["has 2 numbers", "12"]),
        ("stage1", {"optim.lr": "1e999"}, ["optim.lr = inf", "finite"]),
        ("stage1", {"optim.b1": "2.0"}, ["optim.b1 = 2.0", "below 1"]),
        ("stage1", {"seed": "99999999999"}, ["seed", "below 4294967296"]),
        ("stage1", {"stage": "7"}, ["stage = 7"]),
        ("stage1", {"model": "x"}, ["no config field 'model'"]),
        ("stage1", {"trainable": "spatial"}, ["trainable = 'spatial'", "stage = 0"]),
        ("stage1", {"data.track_kinds": ""}, ["data.track_kinds is empty"]),
        ("stage1", {"spa.frames": "15"}, ["spa.frames = 15", "data.num_frames"]),
        ("stage1", {"spa.source": "half"}, ["spa.source = 'half'", "single_frame, sliced"]),
        ("stage3", {"camera.normalise": "subtract"}, ["same as none", "official variant"]),
        ("stage3", {"camera.drop": "1.5"}, ["camera.drop = 1.5", "below 1"]),
        ("svd_finetune", {"camera.enabled": "true"}, ["stage 0 has no ControlNet"]),
        (
            "svd_finetune",
            {"trainable": "temporal", "spa.weight": "0.5"},
            ["no parameter that it reaches"],
        ),
        (
            "stage1",
            {"conditioning.noise_aug": "shared_latent", "data.condition_on_box": "false"},
            ["condition_on_box must be as data.draw_box"],
        ),
    ],
)
def test_mistakes_are_named(spec, overrides, words):
    with pytest.raises(UserError) as caught:
        config_file.load(spec, overrides)
    for word in words:
        assert word in str(caught.value)


def test_all_problems_are_collected():
    with pytest.raises(UserError) as caught:
        config_file.load("stage1", {"data.height": "1", "steps": "0", "save.keep": "0"})
    assert str(caught.value).count("\n    - ") == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "get_config"),
        ("def get_config(:", "SyntaxError"),
        ("def get_config(): return {}", "TypeError"),
        (
            "from posetraj_jax import config\n"
            "def get_config():\n    c = config.default()\n    c.optim.lrr = 1\n    return c",
            "lrr",
        ),
        (
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'a': 1})",
            "missing or unknown fields",
        ),
    ],
)
def test_a_broken_config_file_is_named(tmp_path, text, words):
    (tmp_path / "mine.py").write_text(text + "\n")
    with pytest.raises(UserError, match="cannot be used") as caught:
        config_file.load(str(tmp_path / "mine.py"))
    assert words in str(caught.value)
    assert "mine.py" in str(caught.value)


@pytest.mark.parametrize("path", ["/nonexistent/stage1.py", "my_project/stage1.py"])
def test_another_folders_path_never_means_the_shipped_config(path):
    with pytest.raises(UserError, match="no config file"):
        config_file.load(path)


def test_configs_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_file.load("configs/stage1.py:tiny").model.variant == "tiny"


def test_only_schedules_and_meshes_may_change_on_resume():
    old = config.flatten(config_file.load("stage1"))
    allowed = {"steps": "9", "log.every": "3", "save.keep": "9", "mesh.fsdp": "2"}
    assert not config_rules.changed_fields(old, config.flatten(config_file.load("stage1", allowed)))
    changed = config.flatten(config_file.load("stage1", {"optim.lr": "1", "seed": "4"}))
    assert [line.split(":")[0] for line in config_rules.changed_fields(old, changed)] == [
        "optim.lr",
        "seed",
    ]


def test_every_field_has_a_comment():
    """The unit or the meaning of each field stands beside it."""
    source = inspect.getsource(config)
    body = source[source.index("def default") : source.index("def tiny(")]
    fields = [line for line in body.splitlines() if line.strip().startswith("c.") and "=" in line]
    sections = [line for line in fields if line.rstrip().endswith("()")]
    bare = [line for line in fields if "#" not in line and line not in sections]
    assert not bare
    assert len(fields) - len(sections) == len(config.flatten(config.default()))
