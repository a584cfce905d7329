from __future__ import annotations

import threading

import pytest

from workbench.core.context import Context, Progress
from workbench.core.errors import JobCancelledError, WorkbenchError


def test_cancel_raises_at_the_next_check_and_wakes_a_paused_job() -> None:
    ctx = Context()
    ctx.check()
    ctx.pause()
    assert ctx.paused
    ended = []

    def job() -> None:
        try:
            ctx.check()
        except JobCancelledError:
            ended.append("cancelled")

    thread = threading.Thread(target=job)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive(), "a paused job must wait"
    ctx.cancel()
    thread.join(5)
    assert ended == ["cancelled"]
    assert ctx.cancelled


def test_resume_lets_a_held_job_go_on() -> None:
    ctx = Context()
    ctx.pause()
    done = threading.Event()
    thread = threading.Thread(target=lambda: (ctx.check(), done.set()))
    thread.start()
    assert not done.wait(0.05)
    ctx.resume()
    assert done.wait(5)
    thread.join()
    assert not ctx.paused


def test_metrics_and_events_are_taken_once_and_in_order() -> None:
    ctx = Context()
    ctx.metric("loss", 1, 0.5)
    ctx.metric("loss", 2, 0.4, low=0.3, high=0.5)
    ctx.event("a")
    taken = ctx.take_metrics()
    assert [(m.name, m.step, m.value, m.low, m.high) for m in taken] == [
        ("loss", 1, 0.5, None, None),
        ("loss", 2, 0.4, 0.3, 0.5),
    ]
    assert taken[0].time <= taken[1].time
    assert ctx.take_metrics() == []
    assert (ctx.take_events(), ctx.take_events()) == (["a"], [])


def test_nothing_is_lost_between_two_threads() -> None:
    ctx = Context()
    n = 2000
    taken: list[int] = []

    def job() -> None:
        for i in range(n):
            ctx.metric("x", i, float(i))

    thread = threading.Thread(target=job)
    thread.start()
    while thread.is_alive():
        taken += [m.step for m in ctx.take_metrics()]
    thread.join()
    taken += [m.step for m in ctx.take_metrics()]
    assert taken == list(range(n))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_ends_the_run_with_the_reason(value: float) -> None:
    ctx = Context()
    with pytest.raises(WorkbenchError, match=r"episode 7.*train/loss became"):
        ctx.metric("train/loss", 7, value)
    assert ctx.take_metrics() == []


def test_status_and_progress_overwrite_one_slot_and_tell() -> None:
    told: list[str] = []
    ctx = Context(on_change=lambda c: told.append(c.status_text))
    assert (ctx.status_text, ctx.progress_now) == ("", None)
    ctx.status("reading")
    ctx.progress(3, 10, "images", 1.5)
    assert ctx.progress_now == Progress(3, 10, "images", 1.5)
    assert told == ["reading", "reading"]


def test_sub_seeds_depend_on_seed_and_name_alone() -> None:
    a, b = Context(seed=1), Context(seed=1)
    a.metric("x", 0, 0.0)
    assert a.seed_for("episodes") == b.seed_for("episodes")
    seeds = {Context(seed=s).seed_for(n) for s in range(20) for n in ("a", "b", "c")}
    assert len(seeds) == 60
    assert all(0 <= s < 1 << 63 for s in seeds)
