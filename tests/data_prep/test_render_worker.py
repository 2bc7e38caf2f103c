"""The protocol between driver and worker; no Blender."""

import json
import re
import subprocess
import sys

import pytest
import toy_worker

from data_prep.engines import render_env
from data_prep.engines.blender_worker import EXIT_BAD_JOB, main
from data_prep.scenes.posetraj import make_scenes
from posetraj_jax.errors import UserError

SIDES = {f"builtin:{name}": tuple(toy_worker.SIDES) for name in ("car", "duck")}


@pytest.mark.parametrize(
    ("arguments", "job", "message"),
    [
        ([], None, "usage"),
        (["paint"], {}, "usage"),
        (["render"], {"scenes": []}, r"keys \['out', 'scenes', 'threads'\]"),
        (["measure"], [1], "keys"),
        (["measure"], "{", "cannot read the job"),
        (["render"], {"scenes": [{}], "out": "x", "threads": 1}, "Scene: missing keys"),
    ],
)
def test_worker_refuses_a_bad_job(tmp_path, capsys, arguments, job, message):
    path = tmp_path / "job.json"
    path.write_text(job if isinstance(job, str) else json.dumps(job))
    assert main([*arguments, str(path)] if arguments else []) == EXIT_BAD_JOB
    assert re.search(message, capsys.readouterr().err)


def test_worker_names_a_missing_job(tmp_path, capsys):
    assert main(["measure", str(tmp_path / "none.json")]) == EXIT_BAD_JOB
    assert "none.json" in capsys.readouterr().err


def test_measure_collects_reports(tmp_path):
    python = toy_worker.make_python(tmp_path)
    assert render_env.measure(python, list(SIDES)) == SIDES


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_every_scene_is_rendered_once(tmp_path, workers):
    python, scenes, reports = toy_worker.make_python(tmp_path), make_scenes(4, 0, SIDES), []
    (tmp_path / "out").mkdir()
    render_env.render(
        python, scenes, tmp_path / "out", workers=workers, threads=1, on_report=reports.append
    )
    # The toy fails if a folder exists, so no two workers had the same scene.
    assert sorted(r["clip"] for r in reports) == sorted(s.clip_id for s in scenes)


def test_a_crash_is_reported_with_its_last_words(tmp_path, monkeypatch):
    python, scenes = toy_worker.make_python(tmp_path), make_scenes(2, 0, SIDES)
    monkeypatch.setenv("TOY_FAILS_AT", scenes[1].clip_id)
    with pytest.raises(UserError, match=r"exit code 1:[^$]*cannot go on with car_0_circle"):
        render_env.render(
            python, scenes, tmp_path, workers=1, threads=1, on_report=lambda report: None
        )


def test_a_bad_scene_is_reported_as_such(tmp_path):
    """The real worker, run by this Python: it reads the job before it needs Blender."""
    job = tmp_path / "job.json"
    job.write_text('{"assets": 1, "more": 2}')
    done = subprocess.run(
        [sys.executable, "-P", str(render_env.WORKER), "measure", str(job)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == EXIT_BAD_JOB
    assert "a measure job has the keys ['assets']" in done.stderr


def test_missing_environment_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="make render-env"):
        render_env.find_python(tmp_path / "python")


def test_python_without_blender_is_explained():
    with pytest.raises(UserError, match=r"No module named 'bpy'[^$]*make render-env"):
        render_env.measure(render_env.Path(sys.executable), ["builtin:car"])
