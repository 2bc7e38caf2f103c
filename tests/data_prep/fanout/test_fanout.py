"""Many tasks in worker processes: what each ends with, and that nothing is lost or done twice."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import DirectOptions

from data_prep.fanout import beam_tasks, pipeline
from data_prep.fanout.hand import HandOptions
from data_prep.fanout.pipeline import FanoutOptions
from data_prep.fanout.task import Task, outcome_of
from posetraj_jax.errors import UserError

HERE = Path(__file__).parent
OPTIONS = FanoutOptions(2, HandOptions(timeout_s=30.0, memory_bytes=4 * 10**9))


@pytest.fixture(autouse=True)
def _workers_find_the_work(monkeypatch):
    paths = [str(HERE), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def run(tasks, parts, options):
    with pipeline.alone(parts):
        return pipeline.run(tasks, parts, options)


def task(key: str, **job) -> Task:
    return Task(key, "toy_work:work", {"value": key, **job}, results=job.get("results", 1))


def test_every_task_ends_as_it_does_and_costs_only_itself(tmp_path):
    ends = ("rejected", "user_error", "crash", "memory", "bug")
    tasks = [task("good"), *(task(end, end=end) for end in ends), task("better", results=3)]
    good, rejected, user_error, crash, memory, bug, better = run(tasks, tmp_path, OPTIONS)
    assert good.results == ("result-0",)
    assert better.results == ("result-0", "result-1", "result-2")
    assert rejected.rejected == "no good: 3 of 4 sides missing"
    assert "It broke" in user_error.failed
    assert "that" in user_error.failed
    assert "SIGABRT" in crash.failed
    assert "last words" in crash.failed
    assert memory.failed == "needs more than 4.0 GB of memory"
    assert "ZeroDivisionError: a defect of ours" in bug.failed
    assert not any(o.results for o in (rejected, user_error, crash, memory, bug))
    assert (tasks[0].folder(tmp_path) / "result-0").read_text() == "good 0"


def test_a_hanging_task_is_ended_with_all_that_it_started(tmp_path):
    mark = tmp_path / "mark"
    options = replace(OPTIONS, hand=replace(OPTIONS.hand, timeout_s=1.0, retries=0))
    tasks = [task("hangs", end="hang_with_child", mark=str(mark)), task("good")]
    hangs, good = run(tasks, tmp_path / "parts", options)
    assert hangs.failed == "took longer than 1 s"
    assert good.results
    assert not is_alive(int(mark.read_text()))


def test_a_crash_is_tried_again(tmp_path):
    options = replace(OPTIONS, hand=replace(OPTIONS.hand, retries=0))
    crashes = task("crashes", end="crash_once", mark=str(tmp_path / "mark"))
    assert run([crashes], tmp_path, OPTIONS)[0].results
    (tmp_path / "mark").unlink()
    again = replace(crashes, job=crashes.job | {"other": 1})
    assert "exit code 7" in run([again], tmp_path, options)[0].failed


def test_finished_tasks_are_not_done_again_and_failed_ones_are(tmp_path):
    note, mark = tmp_path / "note", tmp_path / "mark"
    options = replace(OPTIONS, hand=replace(OPTIONS.hand, retries=0))
    tasks = [task(k, note=str(note)) for k in ("one", "two")]
    tasks += [task("no", note=str(note), end="rejected")]
    tasks += [task("crash", note=str(note), end="crash_once", mark=str(mark))]
    first = run(tasks, tmp_path / "parts", options)
    assert first[3].failed
    note.unlink()
    again = run(tasks, tmp_path / "parts", options)
    assert {line.split(".")[0] for line in note.read_text().splitlines()} == {"crash"}
    assert again[:3] == first[:3]
    assert again[3].results


def test_a_task_that_changed_is_done_again_but_not_for_how_it_is_done(tmp_path):
    one = task("one")
    run([one], tmp_path, OPTIONS)
    assert outcome_of(replace(one, how={"threads": 3}), tmp_path) is not None
    changed = replace(one, job={"value": "other"})
    assert outcome_of(changed, tmp_path) is None
    run([changed], tmp_path, OPTIONS)
    assert (changed.folder(tmp_path) / "result-0").read_text() == "other 0"


@pytest.mark.parametrize("workers", [1, 3])
def test_results_do_not_depend_on_the_number_of_workers(tmp_path, workers):
    tasks = [task(f"t{n}", results=n) for n in range(1, 6)]
    outcomes = run(tasks, tmp_path, replace(OPTIONS, workers=workers))
    assert [o.key for o in outcomes] == [t.key for t in tasks]
    assert [len(o.results) for o in outcomes] == [1, 2, 3, 4, 5]


def test_a_process_does_several_tasks_if_it_may(tmp_path):
    options = replace(OPTIONS, workers=1, hand=replace(OPTIONS.hand, tasks_per_process=10))
    started = time.monotonic()
    outcomes = run([task(f"t{n}") for n in range(6)], tmp_path, options)
    assert all(o.results for o in outcomes)
    assert time.monotonic() - started < 20


def test_a_full_disk_stops_everything_and_is_named(tmp_path, capfd):
    tasks = [task("good"), task("full", end="disk_full")]
    with pytest.raises(
        UserError, match=r"cannot go on(.|\n)*No space left(.|\n)*what is finished is"
    ):
        run(tasks, tmp_path, replace(OPTIONS, workers=1))
    assert "Traceback" not in capfd.readouterr().err
    assert run(tasks[:1], tmp_path, OPTIONS)[0].results


def test_two_runs_do_not_share_a_folder(tmp_path):
    with (
        pipeline.alone(tmp_path),
        pytest.raises(UserError, match="another one"),
        pipeline.alone(tmp_path),
    ):
        pass


def test_only_what_tasks_made_is_cleared(tmp_path):
    """The folder may be anybody's: `--parts .` must not cost a thesis."""
    (tmp_path / "thesis.txt").touch()
    tasks = [task("one"), task("two")]
    with pipeline.alone(tmp_path):
        pipeline.run(tasks, tmp_path, OPTIONS)
        pipeline.clear(tmp_path, tasks[:1])
        assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {tasks[1].part}
        pipeline.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"results": {"gone": 3}, "rejected": ""}'])
def test_damaged_parts_are_made_again(tmp_path, damage):
    one = task("one")
    before = run([one], tmp_path, OPTIONS)
    (one.folder(tmp_path) / "done.json").write_text(damage)
    assert run([one], tmp_path, OPTIONS) == before
    (one.folder(tmp_path) / "result-0").write_text("cut")
    assert outcome_of(one, tmp_path) is None


def test_a_missing_beam_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "data_prep.fanout.beam_tasks", None)
    monkeypatch.delattr("data_prep.fanout.beam_tasks", raising=False)
    with pytest.raises(UserError, match=r"Apache Beam is missing(.|\n)*\[prep\]"):
        run([task("one")], tmp_path, OPTIONS)


def test_options_of_beam_are_passed_on(tmp_path):
    beam = ("--runner=DirectRunner", "--direct_num_workers=1")
    assert run([task("one")], tmp_path, replace(OPTIONS, beam=beam))[0].results
    direct = beam_tasks.options_of(3, ["--direct_running_mode=in_memory"]).view_as(DirectOptions)
    assert (direct.direct_num_workers, direct.direct_running_mode) == (3, "in_memory")


@pytest.mark.parametrize(
    ("beam", "message"),
    [
        ("--runer=FlinkRunner", "unknown: --runer"),
        ("--runner=Nonsense", "Nonsense"),
        ("--runner=FlinkRunner", "--workers, which is for DirectRunner, with another"),
        ("--direct_num_workers=abc", "invalid int value: 'abc'"),
        ("--direct_num_workers=-1", "below 0"),
    ],
)
def test_bad_options_of_beam_are_named(tmp_path, beam, message):
    with pytest.raises(UserError, match=message):
        run([task("one")], tmp_path, replace(OPTIONS, beam=(beam,)))


PROGRAM = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from test_fanout import OPTIONS, run, task
from posetraj_jax import errors

def main():
    note = str(Path(sys.argv[1]) / "note")
    tasks = [task(f"t{{n}}", results=5, seconds=0.1, note=note) for n in range(8)]
    run(tasks, Path(sys.argv[1]) / "parts", OPTIONS)
errors.run(main)
"""


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(folder: Path) -> list[str]:
    names = (p.relative_to(folder).as_posix() for p in (folder / "parts").rglob("result-*"))
    return sorted(n for n in names if ".partial" not in n)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGKILL, marks=pytest.mark.full),
        pytest.param(signal.SIGINT, marks=pytest.mark.full),
    ],
)
def test_a_run_that_is_ended_goes_on_and_does_nothing_twice(tmp_path, number):
    """But for what was in flight: one result in each of two workers."""
    process = start(tmp_path)
    while len(results(tmp_path)) < 8:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    words = process.communicate(timeout=20)[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in words
    time.sleep(0.2)  # a worker that is being killed may be in the middle of a rename
    before = results(tmp_path)
    assert len(before) < 40
    time.sleep(0.5)
    assert results(tmp_path) == before, "a worker has outlived its driver"
    process = start(tmp_path)
    words = process.communicate(timeout=60)[1]
    assert process.returncode == 0, words
    assert len(results(tmp_path)) == 40
    written = [line for line in (tmp_path / "note").read_text().splitlines() if "/" in line]
    assert len(written) == len(set(written)), "a finished result was made again"


@pytest.mark.parametrize("parent", ["lives", "died"])
def test_a_child_whose_parent_died_before_it_began_does_nothing(parent):
    """The system kills nobody for a death that was before."""
    code = "from data_prep.fanout.lifetime import *; die_with_parent(); print('works')"
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=reading, stdout=subprocess.PIPE, text=True
    ) as child:
        os.close(reading)
        if parent == "died":
            os.close(writing)
        said = child.stdout.read()
        if parent == "lives":
            os.close(writing)
    assert said == ("works\n" if parent == "lives" else "")


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
