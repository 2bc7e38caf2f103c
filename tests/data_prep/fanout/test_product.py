"""How a preparation begins, goes on and ends, whatever it makes."""

import argparse
import json
import os
from pathlib import Path

import pytest

from data_prep.fanout import options as fanout
from data_prep.fanout import product
from data_prep.fanout.product import Place, Work
from data_prep.fanout.report import EXIT_INCOMPLETE
from data_prep.fanout.task import Task
from posetraj_jax.errors import UserError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _workers_find_the_work(monkeypatch):
    paths = [str(HERE), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


class Maker:
    """Makes the folder `out` of toy tasks, as a command does."""

    def __init__(self, folder: Path):
        self.folder, self.note = folder, folder / "note"
        self.place = Place.of_folder(folder / "out", None)

    def task(self, key: str, **job) -> Task:
        return Task(key, "toy_work:work", {"value": key, "note": str(self.note), **job})

    def make(self, *tasks: Task, arguments=(), **work) -> int:
        """The exit code; `done` then has the keys that were worked on."""
        parser = argparse.ArgumentParser()
        fanout.add_options(parser, timeout_s=30.0)
        options, beam = fanout.parse(parser, ["--workers=1", "--retries=0", *arguments])
        self.note.unlink(missing_ok=True)
        self.place = Place.of_folder(self.folder / "out", options.parts)

        def write(outcomes):
            self.place.folder.mkdir()
            for task, outcome in zip(tasks, outcomes, strict=True):
                for name in outcome.results:
                    text = (task.folder(self.place.parts) / name).read_text()
                    (self.place.folder / f"{task.key}-{name}").write_text(text)

        work = Work(tasks, [f"<{task.key}>" for task in tasks], **work)
        return product.make(self.place, work, options, beam, write)

    @property
    def made(self) -> set[str]:
        return {path.name.partition("-")[0] for path in self.place.folder.iterdir()}

    @property
    def done(self) -> set[str]:
        lines = self.note.read_text().split() if self.note.exists() else []
        return {line.partition(".")[0] for line in lines}

    def report(self) -> dict:
        return json.loads(self.place.report.read_text())


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path)


def test_all_is_made_once_and_nothing_else_stays(maker, capsys):
    tasks = [maker.task("one"), maker.task("two")]
    assert maker.make(*tasks) == 0
    assert maker.made == maker.done == {"one", "two"}
    names = {path.name for path in maker.folder.iterdir()} - {"note"}
    assert names == {"out", "out-report.json"}
    assert maker.report()["rejected"] == maker.report()["failed"] == {}
    assert maker.make(*tasks) == 0
    assert maker.done == set()
    assert f"is there already: {maker.place.folder}" in capsys.readouterr().out


def test_what_failed_is_tried_again_and_the_product_made_again(maker, capsys):
    good = maker.task("good")
    fails = maker.task("fails", end="crash_once", mark=str(maker.folder / "mark"))
    assert maker.make(good, fails) == EXIT_INCOMPLETE
    assert maker.made == {"good"}
    assert "<fails>: its process ended with exit code 7" in capsys.readouterr().out
    assert maker.make(good, fails) == 0
    assert maker.done == {"fails"}
    assert maker.made == {"good", "fails"}
    assert not maker.place.parts.exists()


def test_what_fails_always_leaves_the_product_alone(maker):
    tasks = [maker.task("good"), maker.task("crash", end="crash")]
    assert maker.make(*tasks, arguments=["--accept_rejects"]) == EXIT_INCOMPLETE
    before = maker.place.folder.stat().st_mtime_ns
    assert maker.make(*tasks) == EXIT_INCOMPLETE
    assert maker.place.folder.stat().st_mtime_ns == before


def test_a_rejected_source_can_be_mended_or_accepted(maker, capsys):
    good, bad = maker.task("good"), maker.task("bad", end="rejected")
    for done in ({"good", "bad"}, set()):
        assert maker.make(good, bad) == EXIT_INCOMPLETE
        assert maker.done == done
        assert "<bad>: no good: 3 of 4 sides missing" in capsys.readouterr().out
    assert maker.make(good, maker.task("bad", version=2)) == 0
    assert not maker.place.parts.exists()
    assert maker.done == {"bad"}
    assert maker.made == {"good", "bad"}


def test_accepted_rejections_end_the_work(maker):
    tasks = [maker.task("good"), maker.task("bad", end="rejected")]
    assert maker.make(*tasks) == EXIT_INCOMPLETE
    assert maker.place.parts.exists()
    for _ in range(2):
        assert maker.make(*tasks, arguments=["--accept_rejects"]) == 0
        assert not maker.place.parts.exists()


def test_sources_that_are_no_task_are_named_and_may_be_added(maker, capsys):
    one, two = maker.task("one"), maker.task("two")
    assert maker.make(one, left_out={"two words": "no name"}) == EXIT_INCOMPLETE
    assert "1 of 2 rejected:\n    - two words: no name" in capsys.readouterr().out
    assert maker.make(one, two) == 0
    assert maker.done == {"two"}
    assert maker.made == {"one", "two"}


def test_names_may_be_any_bytes(maker, capsys):
    name = os.fsdecode(b"gr\xfc\xdf.mp4")
    for _ in range(2):
        assert maker.make(maker.task("one"), left_out={name: "no name"}) == EXIT_INCOMPLETE
    assert "gr\\udcfc\\udcdf.mp4: no name" in capsys.readouterr().out
    assert b"gr\xfc\xdf.mp4" in maker.place.report.read_bytes()


@pytest.mark.parametrize("other", ["options", "layout", "report"])
def test_another_product_is_never_replaced(maker, other):
    assert maker.make(maker.task("one")) == 0
    task, layout = maker.task("one"), ""
    if other == "options":
        task = maker.task("one", version=2)
    elif other == "layout":
        layout = "7 clips per file"
    else:
        maker.place.report.write_text('{"finished": 1}')
    with pytest.raises(UserError, match=f"something else in {maker.place.folder}"):
        maker.make(task, layout=layout)
    assert maker.made == {"one"}
    assert not maker.place.parts.exists()


def test_nothing_is_an_error_with_the_reasons_in_the_report(maker, capsys):
    with pytest.raises(UserError, match="Nothing was made for"):
        maker.make(maker.task("bad", end="rejected"))
    assert not maker.place.folder.exists()
    assert maker.report()["rejected"] == {"<bad>": "no good: 3 of 4 sides missing"}
    assert "<bad>" in capsys.readouterr().out


def test_a_product_outlives_a_run_that_makes_nothing(maker):
    """Its parts are gone, and so is what it was made of."""
    good, bad = maker.task("good"), maker.task("bad", end="rejected")
    assert maker.make(good, bad, arguments=["--accept_rejects"]) == 0
    with pytest.raises(UserError, match="something else"):
        maker.make(maker.task("good", end="rejected"))
    assert maker.made == {"good"}


@pytest.mark.parametrize("where", ["out", "parts"])
def test_places_among_the_sources_are_refused_before_any_work(maker, where):
    sources = maker.folder if where == "out" else maker.folder / "imgs"
    arguments = ["--parts", str(sources / "parts")] if where == "parts" else []
    with pytest.raises(UserError, match=f"lies in {sources}, where the sources are"):
        maker.make(maker.task("one"), reads=[sources], arguments=arguments)
    assert maker.done == set()


def test_places_that_cannot_be_made_are_refused_before_any_work(maker):
    (maker.folder / "file").touch()
    with pytest.raises(UserError, match=r"parts cannot be made: .*file is no folder"):
        maker.make(maker.task("one"), arguments=["--parts", str(maker.folder / "file/parts")])
    assert maker.done == set()


def test_options_of_beam_have_one_form(maker, capsys):
    with pytest.raises(SystemExit, match="2"):
        maker.make(maker.task("one"), arguments=["--", "--runner", "DirectRunner"])
    assert "write options of Beam as --name=value" in capsys.readouterr().err
