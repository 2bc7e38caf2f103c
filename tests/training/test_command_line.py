"""What the command line of training says."""

from pathlib import Path

import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.hosts import HostOptions
from posetraj_jax.training.command_line import Flags, parse


def test_command_line_forms():
    spec, overrides, flags = parse(
        ["--config", "a.py:b", "--config.x.y=1", "--config.z", "2", "--workdir", "w"]
    )
    assert (spec, overrides) == ("a.py:b", {"x.y": "1", "z": "2"})
    assert flags == Flags(workdir=Path("w"))
    _, _, flags = parse(["--config", "a.py", "--profile_steps=3:4", "--compile_only"])
    assert flags == Flags(profile=(3, 4), topology="cpu:8")
    _, _, flags = parse(["--config", "a.py", "--compile_only", "--topology=v5e:4x4"])
    assert flags.topology == "v5e:4x4"
    with pytest.raises(UserError, match="add --compile_only"):
        parse(["--config", "a.py", "--topology=v5e:4x4"])
    together = ["--coordinator_address=h:1", "--num_processes=2", "--process_id=1"]
    _, _, flags = parse(["--config", "a.py", *together])
    assert flags == Flags(together=HostOptions("h:1", 2, 1))
    with pytest.raises(SystemExit) as caught:
        parse(["--config", "a.py", "--steps=3"])
    assert caught.value.code == 2
