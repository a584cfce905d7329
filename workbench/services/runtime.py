"""Loads torch once, on one thread, for every lane; sets its threads.

Two threads that import torch at the same time can deadlock and leave it dead for the process, so every job waits on
the one import. After it the objects that exist are frozen out of the garbage collector: a full collection of torch's
modules would stop the window for a quarter of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet

from workbench.core.context import Context

_lock = threading.Lock()
_future: Future[None] | None = None
_window = False

# of malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def for_window() -> None:
    """Say, before the first load, that a window shares this process: training then leaves one core to it."""
    global _window
    _window = True
    _keep_memory()


def loaded() -> bool:
    """Whether torch is there."""
    return _future is not None and _future.done()


def ready(ctx: Context | None = None) -> None:
    """Return when torch is loaded; sets the calling thread's number of torch threads.

    A cancel is honoured as soon as the import ends: an import cannot be left half-way.

    Raises:
        JobCancelledError: cancelled meanwhile.
    """
    future = _start()
    if not future.done() and ctx is not None:
        ctx.status("Loading the learning library")
    while True:
        try:
            future.result(timeout=0.2)
            break
        except NotYet:
            continue
    import torch

    if torch.get_num_threads() != threads():
        torch.set_num_threads(threads())
    if ctx is not None:
        ctx.check()


def threads() -> int:
    """Torch threads of a job: all physical cores without a window, one fewer with it."""
    asked = os.environ.get("WORKBENCH_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    cores = _physical_cores()
    return max(1, cores - 1) if _window else cores


def _physical_cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:  # noqa: PTH123
            pairs = set()
            package = ""
            for line in f:
                key, _, value = line.partition(":")
                if key.strip() == "physical id":
                    package = value.strip()
                elif key.strip() == "core id":
                    pairs.add((package, value.strip()))
        return min(usable, len(pairs)) if pairs else usable
    except OSError:
        return usable


def _start() -> Future[None]:
    global _future
    with _lock:
        if _future is None:
            _future = Future()
            _keep_memory()
            if "torch" in sys.modules or not _window:
                _load(_future)
            else:
                threading.Thread(target=_load, args=(_future,), name="load-torch").start()
        return _future


def _keep_memory() -> None:
    """Ask glibc to keep freed memory for the next step instead of returning it to the system.

    By default every block above 128 KB is mapped afresh and its pages are zeroed and faulted in again, at every layer
    of every step: half the time of a training step of Conv-4. With a window, which trains on a thread of its own, one
    arena for all threads, since a thread's own arena maps what exceeds its 64 MB. Without, training begins on the main
    thread, whose arena has no such limit, and helps itself with others, which would wait for one another at one arena
    (a sixth of a step of MAML). Has to be said before threads allocate; no effect where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in (
            (_M_ARENA_MAX, 1 if _window else 8),
            (_M_MMAP_THRESHOLD, 1 << 30),
            (_M_TRIM_THRESHOLD, 1 << 30),
        ):
            mallopt(parameter, value)


def _load(future: Future[None]) -> None:
    collects = gc.isenabled()
    gc.disable()  # a full collection amid the import would stop the window once more
    try:
        import torch

        torch.set_num_threads(threads())
        if torch.get_num_interop_threads() != 1:
            with contextlib.suppress(RuntimeError):  # somebody used torch before us: a matter of speed alone
                torch.set_num_interop_threads(1)
        gc.collect()
        gc.freeze()
    except BaseException as error:  # noqa: BLE001  (handed to every waiter)
        future.set_exception(error)
    else:
        future.set_result(None)
    finally:
        if collects:
            gc.enable()
