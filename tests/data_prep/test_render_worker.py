"""The protocol between driver and worker; no Blender."""

import json
import re
import subprocess
import sys

import pytest
import toy_worker

from data_prep.engines import cycles, render_env
from data_prep.engines.blender_worker import EXIT_BAD_JOB, main
from data_prep.engines.rendered_clip import Packing
from data_prep.scenes.posetraj import SceneOptions, Thing, make_scene
from posetraj_jax.errors import UserError

ASSETS = {f"builtin:{name}": tuple(toy_worker.SIDES) for name in ("car", "duck")}
PACKING = Packing(90, depth=True, licence="CC0-1.0", source="posetraj10k")
RENDER = {
    "scenes": [{}],
    "out": "x",
    "threads": 1,
    "device": "CPU",
    "models": {},
    "pictures": {},
}


def scenes(count: int):
    thing = Thing("builtin:car", "car", tuple(toy_worker.SIDES))
    return [make_scene(SceneOptions(paths_per_object=count), [thing], n) for n in range(count)]


def render(folder, chosen):
    clips = []
    blender = cycles.Cycles(toy_worker.make_python(folder))
    cycles.render(blender, chosen, {}, {}, PACKING, clips.append)
    return clips


@pytest.mark.parametrize(
    ("arguments", "job", "message"),
    [
        ([], None, "usage"),
        (["paint"], {}, "usage"),
        (["render"], {"scenes": []}, r"keys \['device', 'models', 'out', 'pictures', 'scenes'"),
        (["measure"], [1], "keys"),
        (["measure"], "{", "cannot read the job"),
        (["render"], RENDER, "Scene: missing keys"),
    ],
)
def test_worker_refuses_a_bad_job(tmp_path, capsys, arguments, job, message):
    path = tmp_path / "job.json"
    path.write_text(job if isinstance(job, str) else json.dumps(job))
    done = main([*arguments, str(path)] if arguments else [])
    assert done == EXIT_BAD_JOB
    assert re.search(message, capsys.readouterr().err)


def test_worker_names_a_missing_job(tmp_path, capsys):
    assert main(["measure", str(tmp_path / "none.json")]) == EXIT_BAD_JOB
    assert "none.json" in capsys.readouterr().err


def test_measure_collects_reports(tmp_path):
    python = toy_worker.make_python(tmp_path)
    assert render_env.measure(python, list(ASSETS)) == ASSETS


def test_every_scene_becomes_a_clip_in_turn(tmp_path):
    chosen = scenes(3)
    clips = render(tmp_path, chosen)
    assert [clip.clip_id for clip in clips] == [scene.clip_id for scene in chosen]
    assert clips[0].source == "posetraj10k/toy-1"
    assert clips[0].licence == "CC0-1.0"
    assert clips[0].camera_known
    assert len(clips[0].depths_png) == 14
    assert clips[0].provenance["scene"]["objects"] == ({"asset": "builtin:car", "size": 1.0},)
    assert clips[0].track_kinds[:3] == ("floor", "centre", "surface")


def test_a_crash_is_reported_with_its_last_words(tmp_path, monkeypatch):
    chosen = scenes(2)
    monkeypatch.setenv("TOY_FAILS_AT", chosen[1].clip_id)
    with pytest.raises(UserError, match=rf"exit code 1:[^$]*go on with {chosen[1].clip_id}"):
        render(tmp_path, chosen)


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
