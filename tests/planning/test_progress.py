"""Phases of a long command on a terminal and in a log."""

import sys
import time

import pytest

from posetraj_jax.planning import progress
from posetraj_jax.planning.progress import Progress


def test_a_log_gets_a_line_before_and_after(capsys):
    told = Progress()
    with told.phase("compile"):
        time.sleep(0.02)
    before, after = capsys.readouterr().err.splitlines()
    assert before == "compile …"
    assert after.startswith("compile: 0.")
    assert 0.02 <= told.seconds["compile"] < 1


def test_a_terminal_sees_the_time_go_by(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    with Progress().phase("compile"):
        time.sleep(0.1)
    said = capsys.readouterr().err
    assert said.count("\r") > 3
    assert "/ compile 0 s" in said
    assert said.endswith(" s\n")


def test_a_phase_that_fails_ends_too(capsys):
    told = Progress()
    with pytest.raises(ZeroDivisionError), told.phase("trace"):
        raise ZeroDivisionError
    assert "trace" in told.seconds
    assert capsys.readouterr().err.count("\n") == 2
