"""The command, from its arguments to its page."""

import json
import math

import jax
import pytest

from posetraj_jax import config_file, plan, tree
from posetraj_jax.errors import UserError
from posetraj_jax.planning import making, page, plan_cache, programs, topology
from posetraj_jax.planning.making import Request
from posetraj_jax.training.optimizer import part_labels

pytest.importorskip("libtpu")

MICRO = "configs/stage3.py:micro"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--topology", "v5e:7"], "there is no topology"),
        (["--topology", "v5e:2x2", "--config.mesh.fsdp=3"], "the mesh does not fit"),
        (["--topology", "v5e:2x2", "--config.batch_size=3"], "the batch does not divide"),
        (["--topology", "v5e:2x2", "--clips_per_device", "0"], "number of clips"),
        (
            ["--topology", "v5e:2x2", "--clips_per_device", "2", "--config.batch_size=8"],
            "number of clips",
        ),
        (["--topology", "v5e:2x2", "--json", "no/such/folder/x.json"], "cannot write"),
        (["--topology", "v5e:2x2", "--out", "."], "cannot write"),
        (["--topology", "v5e:2x2", "--config.model.remat=all"], "not valid"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_anything_is_compiled(arguments, what):
    with pytest.raises(UserError, match=what):
        plan.main(["--config", MICRO, *arguments])


def test_arguments_that_are_none_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        plan.main(["--config", MICRO])
    assert stopped.value.code == 2
    assert "--topology" in capsys.readouterr().err


def test_clips_per_device_counts_devices_that_share_a_clip_as_one():
    c = config_file.load(MICRO, {"mesh.context": "2", "mesh.fsdp": "2"})
    made = programs.training(
        making.with_clips(c, topology.find("v5e:2x2"), 3), topology.find("v5e:2x2")
    )
    assert dict(made.mesh.shape) == {"data": 1, "fsdp": 2, "context": 2}
    assert made.clips == 6


def test_every_microbatch_of_a_step_is_planned():
    c = config_file.load(MICRO, {"batch_size": "2", "optim.accumulate": "3"})
    made = programs.training(c, topology.find("cpu:2"))
    assert made.programs[0].arguments[2].fps.shape == (6,)
    assert made.clips == 6


def test_latents_from_a_cache_need_no_image_encoder_and_no_files():
    c = config_file.load(MICRO, {"data.latents": "no/such/folder"})
    (step,) = programs.training(c, topology.find("cpu:1")).programs
    frozen, batch = step.arguments[1:3]
    assert frozen.image_encoder == {}
    assert batch.frames_uint8 is None


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """The micro sampler on one TPU v5e: the smallest real plan. Text, JSON, and a second look."""
    folder = tmp_path_factory.mktemp("plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        made = []
        for name in ("first", "second"):
            files = folder / f"{name}.json", folder / f"{name}.md"
            command = ["--config", MICRO, "--topology", "v5e:1x1", "--sampling"]
            code = plan.main([*command, "--json", str(files[0]), "--out", str(files[1])])
            assert code == 0
            made.append(tuple(file.read_text() for file in files))
    return made


def test_a_real_plan_fits_and_adds_up(sampled):
    numbers = json.loads(sampled[0][0])
    assert numbers["fits"] is True
    assert [(p["name"], p["runs"]) for p in numbers["programs"]] == [
        ("denoising step", 2),
        ("decode", 1),
    ]
    for program in numbers["programs"]:
        memory = program["memory"]
        total = sum(memory["arguments"].values()) + memory["arena"] + memory["code"]
        assert memory["total"] == total < numbers["usable_bytes"]
        assert memory["peak"] <= memory["total"]
        assert memory["measured"]["argument_size"] == sum(memory["arguments"].values())
        assert program["flops"] == program["model_flops"] == program["flops_per_device"]
        assert program["collectives"] == []
        assert program["bounds"]["interconnect"] == 0
        assert any(one["source"].startswith("posetraj_jax/") for one in memory["largest"])
    least, most = numbers["seconds_per_batch"]
    assert 0 < least < most


def test_a_second_look_is_the_same_page(sampled):
    first, second = sampled
    assert first == second


def test_the_page_says_what_its_numbers_say(sampled):
    text = sampled[0][1]
    assert text.startswith(f"# {MICRO} on v5e:1x1\n")
    assert "FITS: 0.0" in text
    assert "## denoising step, 2 times" in text
    assert max(map(len, text.splitlines())) <= page.WIDTH + 4


def test_on_a_cpu_arguments_are_exact_and_the_rest_is_called_unknown():
    c = config_file.load(MICRO, {"mesh.fsdp": "2"})
    made = making.page_of(c, Request("micro", "cpu:2", samples=True, clips_per_device=1))
    assert made["fits"] is None
    assert any("CPU" in note for note in made["notes"])
    step = made["programs"][0]
    plan_made = programs.sampling(
        making.with_clips(c, topology.find("cpu:2"), 1), topology.find("cpu:2")
    )
    held = sum(map(_bytes, jax.tree.leaves(plan_made.programs[0].arguments[3])))
    assert step["memory"]["arguments"]["parameters"] == held
    assert {row["axis"] for row in step["collectives"]} == {"fsdp"}
    assert "not known" in page.render(made)


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))


@pytest.mark.full
def test_what_does_not_fit_is_told_with_flags_that_help():
    """The compiler's limit cannot be lowered, so a program is made that is too large for it."""
    fields = {"data.height": "2048", "data.width": "2048", "data.num_frames": "50"}
    c = config_file.load(MICRO, fields | {"batch_size": "4"})
    made = making.page_of(c, Request("large", "v5e:2x2", samples=True))
    assert made["fits"] is False
    worst = max(made["programs"], key=lambda program: program["memory"]["total"])
    assert "Ran out of memory" in worst["refused"]
    assert worst["memory"]["total"] > made["usable_bytes"]
    assert worst["memory"]["largest"]
    text = page.render(made)
    assert "DOES NOT FIT" in text
    assert "--config.mesh.context=2" in text


def test_a_page_depends_on_everything_that_was_asked(monkeypatch):
    asked = {"config": {"steps": 1}, "topology": "v5e:1x1"}
    digest = plan_cache.fingerprint(asked)
    assert digest == plan_cache.fingerprint(dict(reversed(asked.items())))
    assert digest != plan_cache.fingerprint(asked | {"topology": "v5e:2x2"})
    monkeypatch.setattr(plan_cache, "versions", lambda: {"jax": "another"})
    assert digest != plan_cache.fingerprint(asked)


def test_a_cache_that_is_broken_or_cannot_be_written_is_no_cache(tmp_path, monkeypatch):
    plan_cache.save("a" * 32, {"fingerprint": "a" * 32, "fits": True})
    assert plan_cache.load("a" * 32)["fits"] is True
    (plan_cache.folder() / f"{'a' * 32}.json").write_text('{"fingerprint": "b"')
    assert plan_cache.load("a" * 32) is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    plan_cache.save("a" * 32, {"fingerprint": "a" * 32})
    assert plan_cache.load("a" * 32) is None


@pytest.mark.full
def test_the_train_step_of_stage_3_on_four_chips():
    """A minute or two: the whole step, sharded, with stills, camera and averages."""
    c = config_file.load(MICRO, {"mesh.fsdp": "4"})
    made = making.page_of(c, Request("micro", "v5e:2x2", clips_per_device=1))
    assert made["fits"] is True
    (step,) = made["programs"]
    held = step["memory"]["arguments"]
    # Adam has two numbers for every parameter, and the average one.
    assert held["EMA"] == held["parameters"]
    assert held["optimizer"] == pytest.approx(2 * held["parameters"], rel=0.01)
    kinds = {(row["kind"], row["axis"]) for row in step["collectives"]}
    assert ("all-gather", "fsdp") in kinds
    gathered = [row for row in step["collectives"] if row["kind"] == "all-gather"]
    in_bfloat16 = sum(row["num_bytes"] for row in gathered if row["dtype"] == "bf16")
    assert in_bfloat16 > 0.99 * sum(row["num_bytes"] for row in gathered)
    assert step["model_flops"] == step["flops"]
    everything = sum(row["num_bytes"] for row in step["collectives"])
    used = _bytes_used(c, topology.find("v5e:2x2"))
    assert 0.5 * used < everything <= 1.1 * used


def _bytes_used(c, devices: topology.Topology) -> int:
    """Of all leaves that devices share, in bfloat16: once for every pass that reads one.

    The ControlNet and the UNet's way up are read forward and backward, and what trains has a
    gradient; the UNet's way down and the encoders forward only. Stills take the same passes through
    everything spatial.
    """
    plan_made = programs.training(making.with_clips(c, devices, 1), devices)
    state, frozen = plan_made.programs[0].arguments[:2]
    networks = {"trained": state.params, **frozen._asdict()}
    total = 0
    for name, params in networks.items():
        parts = tree.flatten(part_labels(params))
        for path, leaf in tree.flatten(params).items():
            up = path.startswith(("up_blocks.", "conv_out."))
            passes = 2 if name == "trained" or (name == "unet" and up) else 1
            stills = passes * (name in ("trained", "unet") and parts[path] == "spatial")
            shared = not leaf.sharding.is_fully_replicated
            total += shared * 2 * leaf.size * (passes + stills + (name == "trained"))
    return total * c.optim.accumulate
