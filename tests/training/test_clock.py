"""The division of a run's time, on a clock that the test turns."""

import jax.numpy as jnp
import pytest

from posetraj_jax.training import clock


@pytest.fixture
def now(monkeypatch):
    time = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: time[0])
    return time


def step(timer, now, data, training):
    with timer.waiting_for_data():
        now[0] += data
    now[0] += training
    timer.add({"loss": jnp.float32(1.0)})


def test_every_second_is_put_down_once(now):
    timer = clock.Clock(clips_per_step=4, figures=lambda seconds: {"seen": seconds})
    with timer.away("evaluate"):
        now[0] += 7.0
    step(timer, now, data=1.0, training=50.0)
    for _ in range(3):
        step(timer, now, data=0.5, training=1.5)
    with timer.away("checkpoint"):
        now[0] += 11.0
    with timer.away("sample"):
        now[0] += 13.0
    with timer.away("log"):
        now[0] += 0.25
    row = timer.row()
    assert row == {
        "clips_per_second": pytest.approx(3 * 4 / 6.0),
        "time/step": pytest.approx(2.0),
        "time/data": pytest.approx(0.5),
        "time/data_share": pytest.approx(0.25),
        "time/first_step": pytest.approx(51.0),
        "time/evaluate": 7.0,
        "time/sample": 13.0,
        "time/checkpoint": 11.0,
        "time/log": 0.25,
        "seen": pytest.approx(2.0),
    }
    assert sum(row[f"time/{what}"] for what in clock.AWAY) + 6.0 == pytest.approx(now[0] - 100.0)


def test_a_row_tells_of_the_time_since_the_row_before(now):
    timer = clock.Clock(clips_per_step=1)
    step(timer, now, data=0.0, training=9.0)
    step(timer, now, data=0.0, training=2.0)
    timer.row()
    step(timer, now, data=1.0, training=3.0)
    row = timer.row()
    assert row["time/step"] == pytest.approx(4.0)
    assert row["time/data_share"] == pytest.approx(0.25)
    assert row["time/first_step"] == 0.0


def test_what_needs_a_step_is_not_known_after_the_first(now):
    timer = clock.Clock(clips_per_step=1, figures=lambda seconds: {"seen": seconds})
    step(timer, now, data=1.0, training=2.0)
    row = timer.row()
    unknown = {name for name, value in row.items() if value is None}
    assert unknown == {"clips_per_second", "time/step", "time/data", "time/data_share", "seen"}


def test_the_summary_is_of_the_whole_run(now):
    timer = clock.Clock(clips_per_step=1)
    step(timer, now, data=1.0, training=9.0)
    for _ in range(2):
        step(timer, now, data=1.0, training=3.0)
        timer.row()
    with timer.away("checkpoint"):
        now[0] += 5.0
    assert timer.summary() == (
        "2 steps in 8.0 s, of which 2.0 s waiting for data; besides: first step 10.0 s, "
        "evaluate 0.0 s, sample 0.0 s, checkpoint 5.0 s, log 0.0 s"
    )


def test_waits_for_the_step_before_and_not_for_the_newest(monkeypatch):
    awaited = []
    monkeypatch.setattr(clock.jax, "block_until_ready", awaited.append)
    timer = clock.Clock(clips_per_step=1)
    first, second, third = ({"loss": number} for number in (1, 2, 3))
    timer.add(first)
    assert awaited[-1] is first
    timer.add(second)
    timer.add(third)
    assert awaited[-1] is second
    with timer.waiting_for_data():
        assert awaited[-1] is second
    with timer.away("checkpoint"):
        assert awaited[-1] is third
