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
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_threads: ContextVar[int] = ContextVar("fast_threads", default=1)
_taking_turns: ContextVar[bool] = ContextVar("fast_turns", default=False)
_turn = threading.Lock()
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


@contextmanager
def shared() -> Iterator[None]:
    """Within the block :func:`each` shares jobs out to as many threads as torch has for its operations."""
    token = _threads.set(torch.get_num_threads())
    try:
        yield
    finally:
        _threads.reset(token)


def threads() -> int:
    """How many jobs run side by side; one within a job."""
    return _threads.get()


def heavy(operation: Callable[..., T], *args: Any) -> T:
    """``operation(*args)``, which takes long and needs no Python: meanwhile another thread has its turn."""
    if not _taking_turns.get():
        return operation(*args)
    _turn.release()
    try:
        return operation(*args)
    finally:
        _turn.acquire()


def each(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What the jobs give, in their order; the calling thread does its part.

    A job sees the caller's context variables and its switch of gradients; those within a job run one after the other.

    Raises:
        BaseException: what a job raised, the first in order; the others that have begun are waited for.
    """
    helpers = min(threads(), len(jobs)) - 1
    if helpers < 1:
        return [job() for job in jobs]
    done: list[T | None] = [None] * len(jobs)
    failed: dict[int, BaseException] = {}
    numbers = iter(range(len(jobs)))
    graph = torch.is_grad_enabled()

    def work() -> None:
        _threads.set(1)
        _taking_turns.set(True)
        with _turn:
            while not failed and (i := next(numbers, None)) is not None:
                try:
                    with torch.set_grad_enabled(graph):
                        done[i] = jobs[i]()
                except BaseException as error:  # noqa: BLE001 - raised again by the caller
                    failed[i] = error

    waiting = [_ready(helpers).submit(copy_context().run, work) for _ in range(helpers)]
    budget = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        copy_context().run(work)
        for future in waiting:
            future.result()
    finally:
        torch.set_num_threads(budget)
    if failed:
        raise failed[min(failed)]
    return done  # type: ignore[return-value]  # every job is done


def tasks(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """:func:`each` for large jobs with smaller ones inside: the last ones, too few for all threads, share those."""
    whole = len(jobs) - len(jobs) % threads()
    return each(jobs[:whole]) + [job() for job in jobs[whole:]]


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
