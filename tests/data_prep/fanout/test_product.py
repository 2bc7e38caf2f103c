"""How a preparation begins, goes on and ends, whatever it makes."""

import argparse
import errno
import json
import os
from pathlib import Path

import pytest

from data_prep.fanout import options as fanout
from data_prep.fanout import pipeline, product
from data_prep.fanout.product import Place, Work
from data_prep.fanout.report import EXIT_INCOMPLETE
from data_prep.fanout.task import Task
from posetraj_jax.errors import UserError
from posetraj_jax.new_folder import new_folder

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
            with new_folder(self.place.folder) as folder:
                for task, outcome in zip(tasks, outcomes, strict=True):
                    for name in outcome.results:
                        text = (task.folder(self.place.parts) / name).read_text()
                        (folder / f"{task.key}-{name}").write_text(text)

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
    assert list(maker.report()["rejected"]) == [name]


EMPTY = '{"finished": [], "rejected": {}, "failed": {}, "work": "", "layout": "", "files": {}}'


@pytest.mark.parametrize(
    "other", ["options", "layout", "no report", '{"finished": 1}', "[" * 200_000, EMPTY]
)
def test_another_product_is_never_replaced(maker, other):
    assert maker.make(maker.task("one")) == 0
    task, layout = maker.task("one"), ""
    if other == "options":
        task = maker.task("one", version=2)
    elif other == "layout":
        layout = "7 clips per file"
    elif other == "no report":
        maker.place.report.unlink()
    else:
        maker.place.report.write_text(other)
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


def test_a_complete_product_is_not_made_again_for_more_sources(maker):
    """Its parts are gone: what was made of hours of work must not depend on doing it again."""
    one, two = maker.task("one"), maker.task("two")
    assert maker.make(one) == 0
    with pytest.raises(UserError, match="all would have to be made again"):
        maker.make(one, two)
    assert (maker.made, maker.done) == ({"one"}, set())


def test_a_bad_source_may_go_once_it_was_accepted(maker):
    good, bad = maker.task("good"), maker.task("bad", end="rejected")
    assert maker.make(good, bad, arguments=["--accept_rejects"]) == 0
    assert maker.make(good) == 0
    assert maker.done == set()


def test_a_product_with_other_files_in_it_is_never_made_again(maker):
    """As cameras that were estimated for tracked videos."""
    one, bad = maker.task("one"), maker.task("bad", end="rejected")
    assert maker.make(one, bad) == EXIT_INCOMPLETE
    (maker.place.folder / "camera.npy").touch()
    assert maker.make(one, bad) == EXIT_INCOMPLETE  # nothing is to be done
    with pytest.raises(UserError, match=r"1 other files, such as camera\.npy"):
        maker.make(one, maker.task("two"))
    assert maker.made == {"one", "camera.npy"}


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_product_is_named_and_its_parts_stay(maker, damage):
    tasks = [maker.task("one"), maker.task("bad", end="rejected")]
    assert maker.make(*tasks) == EXIT_INCOMPLETE
    (file,) = maker.place.folder.iterdir()
    if damage == "missing":
        file.rename(maker.folder / "moved")
        (maker.place.folder / "other").touch()
    else:
        file.write_text("cut")
    with pytest.raises(UserError, match=f"1 files missing or changed, such as {file.name}"):
        maker.make(*tasks, arguments=["--accept_rejects"])
    assert tasks[0].folder(maker.place.parts).exists()


def test_a_product_that_cannot_be_written_again_stays_as_it_was(maker, monkeypatch):
    one, bad = maker.task("one"), maker.task("bad", end="rejected")
    assert maker.make(one, bad) == EXIT_INCOMPLETE
    before = maker.report()
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(UserError, match="No space left"):
        maker.make(one, maker.task("two"))
    monkeypatch.undo()
    assert maker.made == {"one"}
    assert maker.report() == before


def refuse(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_run_that_was_killed_while_it_replaced_a_product_goes_on(maker, monkeypatch):
    one, bad = maker.task("one"), maker.task("bad", end="rejected")
    assert maker.make(one, bad) == EXIT_INCOMPLETE
    # As `kill -9` leaves it: the old product aside, the new report, no new product.
    (maker.place.folder).rename(maker.place.own / product.REPLACED)
    assert maker.make(one, maker.task("two")) == 0
    assert maker.made == {"one", "two"}
    assert not maker.place.own.exists()


def test_two_runs_for_one_product_keep_out_of_each_other_s_way(maker):
    """Though each has its own parts."""
    with pipeline.alone(maker.place.own), pytest.raises(UserError, match="the only run"):
        maker.make(maker.task("one"), arguments=["--parts", str(maker.folder / "elsewhere")])


def test_parts_that_two_products_share_are_cleared_each_by_its_own(maker):
    arguments = ["--parts", str(maker.folder / "shared")]
    first = [maker.task("one"), maker.task("bad", end="rejected")]
    assert maker.make(*first, arguments=arguments) == EXIT_INCOMPLETE
    other = Maker(maker.folder / "other")
    other.folder.mkdir()
    assert other.make(other.task("one"), arguments=arguments) == 0
    assert maker.make(*first, arguments=arguments) == EXIT_INCOMPLETE
    assert maker.done == set()
    assert first[0].folder(maker.folder / "shared").exists()


def test_an_empty_folder_counts_as_none(maker):
    maker.place.folder.mkdir()
    assert maker.make(maker.task("one")) == 0


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "OUT/parts"], "lie in what is made"),
        (["--parts", os.fsdecode(b"OUT-\xff")], "not UTF-8"),
    ],
)
def test_odd_places_are_refused_and_leave_nothing(maker, arguments, message):
    arguments = [text.replace("OUT", str(maker.folder / "out")) for text in arguments]
    with pytest.raises(UserError, match=message):
        maker.make(maker.task("one"), arguments=arguments)
    assert list(maker.folder.iterdir()) == []


def test_the_root_is_no_product():
    with pytest.raises(UserError, match="no folder that could be made"):
        Place.of_folder(Path("/"), None)


def test_bad_options_of_beam_are_named_though_all_is_done(maker):
    assert maker.make(maker.task("one")) == 0
    with pytest.raises(UserError, match="unknown: --runer"):
        maker.make(maker.task("one"), arguments=["--", "--runer=Nope"])


@pytest.mark.parametrize("option", ["--timeout_s=1e12", "--memory_gb=1e30", "--workers=100000"])
def test_endless_numbers_are_refused(maker, option, capsys):
    with pytest.raises(SystemExit, match="2"):
        maker.make(maker.task("one"), arguments=[option])
    assert "the most is" in capsys.readouterr().err


def test_options_of_beam_have_one_form(maker, capsys):
    with pytest.raises(SystemExit, match="2"):
        maker.make(maker.task("one"), arguments=["--", "--runner", "DirectRunner"])
    assert "write options of Beam as --name=value" in capsys.readouterr().err
