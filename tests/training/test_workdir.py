"""Whose folder it is: the record of a run, and what may not change when it is run again."""

import json

import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.training import workdir

CONFIG = {"steps": 10, "weights": "WEIGHTS"}


def recorded(folder):
    return json.loads((folder / "config.json").read_text())


def test_a_run_is_claimed_again_with_what_may_change(tmp_path):
    folder = tmp_path / "run"
    workdir.claim(folder, CONFIG, unet="digest")
    assert recorded(folder)["config"] == CONFIG
    assert recorded(folder)["made_with"]["posetraj_jax"]
    workdir.claim(folder, CONFIG | {"steps": 20}, unet="digest")
    assert recorded(folder)["config"]["steps"] == 20
    workdir.claim(folder, CONFIG)  # a finished run, whose weights are not read again
    assert recorded(folder)["unet"] == "digest"


@pytest.mark.parametrize(("before", "now"), [("one", "other"), ("", "other"), ("one", "")])
def test_a_run_is_not_resumed_with_another_unet(tmp_path, before, now):
    """The folder of weights has the same name, and other numbers in it."""
    workdir.claim(tmp_path, CONFIG, unet=before)
    written = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match="was trained with another UNet") as caught:
        workdir.claim(tmp_path, CONFIG | {"steps": 20}, unet=now)
    assert (before or "drawn at random") in caught.value.expected
    assert (now or "drawn at random") in caught.value.got
    assert (tmp_path / "config.json").read_bytes() == written


def test_a_record_without_its_unet_is_named(tmp_path):
    workdir.claim(tmp_path, CONFIG, unet="")
    content = recorded(tmp_path)
    del content["unet"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="KeyError: 'unet'"):
        workdir.check(tmp_path, CONFIG)
