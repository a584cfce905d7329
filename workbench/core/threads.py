"""What a thread keeps for itself, and letting go of it before the thread ends.

A cache in a ``threading.local`` dies with its thread's state, after the last Python frame: too late for tensors, whose
destructors come back into Python there and free that state a second time. So whoever keeps such things says how to let
go of them, and whoever ends a thread calls :func:`end_thread` as its last deed.
"""

from __future__ import annotations

from collections.abc import Callable

Forget = Callable[[], None]

_forget: list[Forget] = []


def at_thread_end(forget: Forget) -> Forget:
    """Decorator: call ``forget`` on every thread that ends, on that thread; it must not need what the thread kept."""
    _forget.append(forget)
    return forget


def end_thread() -> None:
    """Let go of everything that the calling thread keeps."""
    for forget in _forget:
        forget()
