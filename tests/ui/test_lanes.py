from __future__ import annotations

import threading
import time

import pytest

from workbench.core.errors import WorkbenchError
from workbench.ui.lanes import Lanes


@pytest.fixture
def lanes(qapp, qtbot):
    made = Lanes()
    yield made
    closed = []
    made.close(lambda: closed.append(True))
    qtbot.waitUntil(lambda: bool(closed), timeout=9000)
    assert not made.stuck


def spin(ctx):
    """A job that goes on until it is cancelled."""
    while True:
        ctx.check()
        time.sleep(0.002)


class Steps:
    """A job that counts its steps."""

    def __init__(self, total=10**9):
        self.total = total
        self.done = 0

    def __call__(self, ctx):
        while self.done < self.total:
            ctx.check()
            self.done += 1
            ctx.progress(self.done, self.total, "steps")
            time.sleep(0.002)
        return self.done


def test_result_arrives_in_the_windows_thread(lanes, qtbot):
    got = []
    job = lanes.submit(
        "files", lambda a, b, ctx: (a + b, threading.get_ident()), 2, 3, title="Sum",
        on_done=lambda r: got.append((r, threading.get_ident())),
    )  # fmt: skip
    qtbot.waitUntil(lambda: bool(got))
    (value, worker), here = got[0]
    assert value == 5
    assert here == threading.get_ident() != worker
    assert job.state == "done"
    assert not lanes.busy("files")


def test_one_lane_runs_one_job_at_a_time_in_order(lanes, qtbot):
    inside, most, order = [0], [0], []

    def work(name, ctx):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        inside[0] -= 1
        return name

    for name in "abc":
        lanes.submit("files", work, name, title=name, on_done=order.append)
    qtbot.waitUntil(lambda: len(order) == 3)
    assert order == ["a", "b", "c"]
    assert most == [1]


def test_cancel_before_start(lanes, qtbot):
    ran, cancelled = [], []
    first = lanes.submit("train", spin, title="first")
    second = lanes.submit("train", lambda ctx: ran.append(1), title="second", on_cancelled=lambda: cancelled.append(2))
    second.cancel()
    assert second.state == "cancelled"
    assert cancelled == [2]
    first.cancel()
    qtbot.waitUntil(lambda: first.over)
    assert first.state == "cancelled"
    assert ran == []


def test_cancel_reaches_a_running_job_at_once(lanes, qtbot):
    seen = threading.Event()

    def work(ctx):
        seen.set()
        while not ctx.cancelled:
            time.sleep(0.001)
        return "the best so far"

    got = []
    job = lanes.submit("train", work, title="train", on_done=got.append)
    assert seen.wait(5)
    job.cancel()
    assert job.ctx.cancelled
    assert job.state == "stopping"
    qtbot.waitUntil(lambda: bool(got))
    assert got == ["the best so far"]


def test_latest_wins(lanes, qtbot):
    got, cancelled = [], []
    seen = []
    lanes.metrics.connect(lambda job, numbers: seen.append(job.title))
    started = threading.Event()

    def slow(ctx):
        started.set()
        ctx.metric("x", 0, 1.0)
        return spin(ctx)

    common = {"latest": True, "on_done": got.append, "on_cancelled": lambda: cancelled.append(1)}
    first = lanes.submit("adapt", slow, title="first", **common)
    assert started.wait(5)
    second = lanes.submit("adapt", lambda ctx: "second", title="second", **common)
    third = lanes.submit("adapt", lambda ctx: "third", title="third", **common)
    assert first.ctx.cancelled
    assert second.state == "dropped"
    qtbot.waitUntil(lambda: third.over)
    assert got == ["third"]
    assert cancelled == []
    assert first.state == "dropped"
    assert "first" not in seen


def test_refusal_and_bug_are_delivered(lanes, qtbot):
    refused, bugs, failures = [], [], []
    lanes.refused.connect(refused.append)
    lanes.bug.connect(lambda error, details: bugs.append((error, details)))

    def refuse(ctx):
        raise WorkbenchError("It was not done", "there is no disk", "Buy one")

    def break_(ctx):
        return {}["key"]

    lanes.submit("files", refuse, title="a", on_failed=failures.append)
    lanes.submit("files", refuse, title="b")
    last = lanes.submit("files", break_, title="c", on_failed=failures.append)
    qtbot.waitUntil(lambda: last.over)
    assert [type(f) for f in failures] == [WorkbenchError, KeyError]
    assert len(refused) == 1
    assert len(bugs) == 1
    assert "break_" in bugs[0][1]
    assert lanes.submit("files", lambda ctx: 1, title="d") is not None
    qtbot.waitUntil(lambda: not lanes.busy("files"))


def test_a_failing_callback_does_not_stop_the_lane(lanes, qtbot):
    got = []

    def bad(_):
        raise ValueError("in the callback")

    with qtbot.captureExceptions() as caught:
        lanes.submit("files", lambda ctx: 1, title="a", on_done=bad)
        lanes.submit("files", lambda ctx: 2, title="b", on_done=got.append)
        qtbot.waitUntil(lambda: got == [2])
    assert [c[0] for c in caught] == [ValueError]


def test_numbers_events_and_progress_are_pulled(lanes, qtbot):
    numbers, events, progress, own = [], [], [], []
    lanes.metrics.connect(lambda job, new: numbers.extend(new))
    lanes.job_event.connect(lambda job, value: events.append(value))
    lanes.progress.connect(lambda job: progress.append(job.ctx.progress_now))

    def work(ctx):
        for i in range(5):
            ctx.metric("train/loss", i, 1.0 / (i + 1))
            ctx.event(i)
            ctx.progress(i + 1, 5, "episodes")
        return "done"

    done = []
    lanes.submit(
        "train", work, title="t", on_done=lambda _: done.append((len(numbers), len(events))), on_event=own.append
    )
    qtbot.waitUntil(lambda: bool(done))
    assert done == [(5, 5)], "everything is delivered before the result"
    assert [m.step for m in numbers] == own == events == [0, 1, 2, 3, 4]
    assert progress[-1].done == 5


def test_adapting_holds_training(lanes, qtbot):
    steps = Steps()
    train = lanes.submit("train", steps, title="train")
    qtbot.waitUntil(lambda: steps.done > 3)
    adapt = lanes.submit("adapt", spin, title="adapt")
    assert train.held
    time.sleep(0.03)
    before = steps.done
    time.sleep(0.05)
    assert steps.done <= before + 1
    adapt.cancel()
    qtbot.waitUntil(lambda: steps.done > before + 3)
    assert not train.held
    train.cancel()
    qtbot.waitUntil(lambda: train.over)


def test_holding_respects_the_persons_pause(lanes, qtbot):
    steps = Steps()
    train = lanes.submit("train", steps, title="train")
    qtbot.waitUntil(lambda: steps.done > 0)
    train.pause()
    adapt = lanes.submit("adapt", lambda ctx: time.sleep(0.02), title="adapt")
    qtbot.waitUntil(lambda: adapt.over)
    assert train.paused
    assert train.ctx.paused
    again = lanes.submit("adapt", spin, title="adapt")
    train.resume()
    assert train.ctx.paused, "held by the other lane still"
    again.cancel()
    before = steps.done
    qtbot.waitUntil(lambda: steps.done > before)
    train.cancel()
    qtbot.waitUntil(lambda: train.over)


def test_training_that_begins_while_adapting_is_held(lanes, qtbot):
    steps = Steps(3)
    adapt = lanes.submit("adapt", spin, title="adapt")
    train = lanes.submit("train", steps, title="train")
    assert train.held
    train.cancel()
    qtbot.waitUntil(lambda: train.over)
    assert steps.done == 0
    assert train.state == "cancelled"
    adapt.cancel()
    qtbot.waitUntil(lambda: adapt.over)


def test_suspended_lanes_start_nothing_but_files(lanes, qtbot):
    lanes.suspend()
    done = []
    loading = lanes.submit("loading", lambda ctx: 1, title="loading", on_done=done.append)
    files = lanes.submit("files", lambda ctx: 2, title="files", on_done=done.append)
    qtbot.waitUntil(lambda: files.over)
    assert loading.state == "waiting"
    assert done == [2]
    lanes.go_on()
    qtbot.waitUntil(lambda: done == [2, 1])


def test_close_cancels_everything_and_says_nothing_more(qapp, qtbot):
    lanes = Lanes()
    said, closed = [], []
    running = [lanes.submit(lane, spin, title=lane, on_cancelled=lambda: said.append(1)) for lane in ("train", "files")]
    waiting = lanes.submit("train", spin, title="later", on_cancelled=lambda: said.append(1))
    lanes.close(lambda: closed.append(True))
    assert closed == [], "it does not block"
    assert running[0].state == "stopping"
    qtbot.waitUntil(lambda: bool(closed))
    assert closed == [True]
    assert said == []
    assert not lanes.stuck
    assert lanes.submit("train", spin, title="too late").state == "dropped"
    assert waiting.ctx is not None


def test_close_gives_up_on_a_job_that_does_not_end(qapp, qtbot):
    lanes = Lanes()
    release, started = threading.Event(), threading.Event()
    lanes.submit("train", lambda ctx: started.set() or release.wait(20), title="deaf")
    assert started.wait(5)
    closed = []
    lanes.close(lambda: closed.append(lanes.stuck), timeout_s=0.2)
    qtbot.waitUntil(lambda: bool(closed))
    assert closed == [True]
    release.set()
    qtbot.waitUntil(lambda: not lanes.stuck)
    for place in lanes._lanes.values():
        place.thread_.quit()
        place.thread_.wait()


def test_a_finished_job_keeps_nothing_alive(lanes, qtbot):
    import gc
    import weakref

    class Big:
        pass

    big = Big()
    watch = weakref.ref(big)
    job = lanes.submit("files", lambda b, ctx: None, big, title="a")
    qtbot.waitUntil(lambda: job.over)
    del big
    gc.collect()
    assert watch() is None
