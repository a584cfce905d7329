"""Jobs on threads of Python with one torch thread each, and results that do not depend on how many there are.

Two such threads with half of the work each are faster than two OpenMP threads on every operation, and suffer far less
when another program takes a core: they meet a few times per step instead of at every operation. torch lets go of the
interpreter within its operations, so they run side by side.

The split of work into jobs never depends on the number of threads, and results come back in the order of the jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

T = TypeVar("T")

_threads: ContextVar[int] = ContextVar("fast_threads", default=1)
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


@contextmanager
def shared() -> Iterator[None]:
    """Within the block torch's threads are taken from its operations and given to the jobs of :func:`each`."""
    budget = torch.get_num_threads()
    token = _threads.set(budget)
    if budget > 1:
        _ready(budget - 1)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if budget > 1:
            torch.set_num_threads(budget)
        _threads.reset(token)


def threads() -> int:
    """How many jobs run side by side."""
    return _threads.get()


def each(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What the jobs give, in their order; the calling thread does its part. No job may call this function.

    Raises:
        BaseException: what a job raised, the first in order; the others are waited for.
    """
    helpers, graph = min(threads(), len(jobs)) - 1, torch.is_grad_enabled()
    if helpers < 1:
        return [job() for job in jobs]
    done: list[T | None] = [None] * len(jobs)
    failed: dict[int, BaseException] = {}
    numbers = iter(range(len(jobs)))
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                i = len(jobs) if failed else next(numbers, len(jobs))
            if i == len(jobs):
                return
            try:
                with torch.set_grad_enabled(graph):  # every thread has a switch of its own
                    done[i] = jobs[i]()
            except BaseException as error:  # noqa: BLE001 - raised again by the caller
                failed[i] = error

    waiting = [_ready(helpers).submit(work) for _ in range(helpers)]
    work()
    for future in waiting:
        future.result()
    if failed:
        raise failed[min(failed)]
    return done  # type: ignore[return-value]  # every job is done


def _ready(helpers: int) -> ThreadPoolExecutor:
    """At least so many threads, each of them set to one torch thread."""
    global _pool, _size
    with _lock:
        if _pool is None or _size < helpers:
            old, together = _pool, threading.Barrier(helpers)

            def begin() -> None:
                torch.set_num_threads(1)
                together.wait()

            _pool, _size = ThreadPoolExecutor(helpers, thread_name_prefix="fast"), helpers
            started: list[Future[None]] = [_pool.submit(begin) for _ in range(helpers)]
            for future in started:
                future.result()
            if old is not None:
                old.shutdown(wait=False)
        return _pool
