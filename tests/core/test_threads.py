"""Letting go of what a thread keeps, on that thread."""

from __future__ import annotations

import threading

import pytest

from workbench.core import threads


def test_a_thread_lets_go_on_itself_and_leaves_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_forget", [])
    kept = threading.local()
    kept.things = [1]

    @threads.at_thread_end
    def forget() -> None:
        kept.things = []

    left: list[list[int]] = []

    def work() -> None:
        kept.things = [2]
        threads.end_thread()
        left.append(kept.things)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert left == [[]]
    assert kept.things == [1]
