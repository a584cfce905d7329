"""Decoding in a guarded child process, so that a hostile or damaged picture can end the child and nothing else.

``Decoder`` starts ``workbench.data.guarded`` and talks to it in messages over pipes. Where the child dies, the pictures
it had not answered are given to a new child one at a time; the one that ends that one too is refused with a reason, and
the rest goes on. A picture that only took too long by the clock is tried twice: perhaps the machine was busy.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from workbench.core.errors import WorkbenchError
from workbench.core.values import ImageRef, Preprocess
from workbench.data.guarded import (
    PATIENCE,
    REPLY_BYTES,
    SECONDS_PER_PICTURE,
    SECONDS_VARIABLE,
    Answer,
    Item,
    Job,
    receive,
    send,
)

if TYPE_CHECKING:
    import numpy as np

_ITEMS = 256
_REQUEST_BYTES = 32_000  # less than a pipe holds, so that handing out work never waits
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Inspected:
    """What was found in one file.

    Attributes:
        sha256: hex digest of the encoded bytes, "" where they could not be read.
        size: encoded bytes.
        width: pixels, upright.
        height: pixels, upright.
        mode: ``L`` or ``RGB`` once decoded, "" on failure.
        error: why it is no readable picture, one clause, or "".
    """

    sha256: str
    size: int
    width: int
    height: int
    mode: str
    error: str


_Inbox = queue.SimpleQueue  # of (child, payload or None at its end)


class _Child:
    """One running child: its process, the chunks it has not answered, and the thread that empties its pipe."""

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        inbox: _Inbox[tuple[_Child, bytes | None]],
        heard: float,
    ) -> None:
        flags: dict[str, Any] = {"start_new_session": True}  # Ctrl-C is for the parent to answer
        if os.name == "nt":
            flags = {"creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0)}
        self.process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
            **flags,
        )
        self.waiting: deque[deque[int]] = deque()
        self.ready = False
        self.heard = heard
        self._reader = threading.Thread(target=self._read, args=(inbox,), name="decoder pipe", daemon=True)
        self._reader.start()

    def _read(self, inbox: _Inbox[tuple[_Child, bytes | None]]) -> None:
        pipe = self.process.stdout
        assert pipe is not None
        with contextlib.suppress(OSError, ValueError):
            while (payload := receive(pipe)) is not None:
                inbox.put((self, payload))
        inbox.put((self, None))

    def ask(self, payload: bytes) -> None:
        """Hand a job out; a child that is gone is noticed at the other end."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            send(self.process.stdin, payload)

    def end(self) -> None:
        """End the process and everything that belongs to it; nothing is left to reap."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _end_all(children: list[_Child]) -> None:
    while children:
        children.pop().end()


class Decoder:
    """A guarded decoder; use it in a ``with`` block and from one thread at a time.

    Args:
        workers: processes, 1 or 2; the second is started only for more than a few pictures.
        check: called at least every tenth of a second while waiting; what it raises ends the work.
        seconds: of the processor's work allowed per picture; by the clock, ``PATIENCE`` times as many.
        command: what to run instead of the decoder itself.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        check: Callable[[], None] | None = None,
        seconds: float = SECONDS_PER_PICTURE,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._workers = max(1, min(2, workers))
        self._check = check
        self._seconds = seconds
        self._command = list(command or (sys.executable, "-m", "workbench.data.guarded"))
        self._children: list[_Child] = []
        self._inbox: _Inbox[tuple[_Child, bytes | None]] = queue.SimpleQueue()
        self._tried: set[int] = set()
        self._finalizer = weakref.finalize(self, _end_all, self._children)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children; calling it twice is harmless, and a later call starts new ones."""
        _end_all(self._children)
        self._inbox = queue.SimpleQueue()

    def inspect(self, items: Sequence[tuple[str, str]]) -> Iterator[Inspected]:
        """Read, hash and fully decode each file, in order.

        Args:
            items: (path, member or "") of each.
        """
        asked = [Item(os.fsencode(path), os.fsencode(member)) for path, member in items]
        for answer in self._run(Job("inspect", []), asked, _ITEMS):
            yield _inspected(answer)

    def inspect_bytes(self, data: bytes) -> Inspected:
        """The same for a picture that lies in memory."""
        (answer,) = self._run(Job("inspect", []), [Item(b"", b"", data=data)], 1)
        return _inspected(answer)

    def pixels(self, images: Sequence[ImageRef], p: Preprocess) -> Iterator[tuple[np.ndarray | None, str]]:
        """Decode each picture, in order.

        Yields:
            ``(uint8 [size, size, C], "")``, or ``(None, reason)`` where it cannot be read or is not what was hashed.
        """
        import numpy as np

        shape = (p.size, p.size, p.depth)
        job = Job("pixels", [], p.size, p.channels, p.fit, p.resample)
        chunk = max(1, min(_ITEMS, 2 * REPLY_BYTES // (p.size * p.size * p.depth)))
        for answer in self._run(job, _items(images), chunk):
            row = None if answer.reason else np.frombuffer(answer.data, np.uint8).reshape(shape)
            yield row, answer.reason

    def thumbnails(self, images: Sequence[ImageRef], side: int) -> Iterator[tuple[bytes | None, str]]:
        """Small encoded pictures, in order: ``(PNG or JPEG bytes, "")`` or ``(None, reason)``."""
        for answer in self._run(Job("thumbnail", [], side), _items(images), 32):
            yield (None if answer.reason else answer.data), answer.reason

    def _run(self, job: Job, items: list[Item], most: int) -> Iterator[Answer]:
        chunk = max(1, min(most, len(items) // (4 * self._workers)))
        work = deque(_chunks(items, chunk))
        done: dict[int, Answer] = {}
        self._tried = set()
        at = 0
        try:
            while at < len(items):
                if self._check is not None:
                    self._check()
                self._hand_out(job, items, work, horizon=at + 4 * self._workers * chunk)
                with contextlib.suppress(queue.Empty):
                    self._take(*self._inbox.get(timeout=0.1), work, done)
                self._end_silent()
                while at in done:
                    yield done.pop(at)
                    at += 1
        finally:
            # Stopped half-way: what is still underway would be taken for answers to the next question.
            if any(child.waiting for child in self._children):
                self.close()

    def _hand_out(self, job: Job, items: list[Item], work: deque[deque[int]], horizon: int) -> None:
        wanted = self._workers if len(items) > 16 else 1
        while work and len(self._children) < wanted:
            self._children.append(_Child(self._command, self._environment(), self._inbox, self._clock()))
        for child in self._children:
            # A single picture is on trial: nothing else may be underway in the child that gets it.
            while work and len(child.waiting) < _AHEAD and work[0][0] < horizon:
                if child.waiting and (len(work[0]) == 1 or len(child.waiting[0]) == 1):
                    break
                chunk = work.popleft()
                if not child.waiting:
                    child.heard = self._clock()
                child.waiting.append(chunk)
                child.ask(msgspec.msgpack.encode(msgspec.structs.replace(job, items=[items[i] for i in chunk])))

    def _take(self, child: _Child, payload: bytes | None, work: deque[deque[int]], done: dict[int, Answer]) -> None:
        if child not in self._children:
            return
        if payload is not None:
            answers = msgspec.msgpack.decode(payload, type=list[Answer])
            child.ready = True
            child.heard = self._clock()
            for answer in answers:
                done[child.waiting[0].popleft()] = answer
                if not child.waiting[0]:
                    child.waiting.popleft()
            return
        silent = self._clock() - child.heard
        self._children.remove(child)
        child.end()
        if not child.ready:
            raise WorkbenchError(
                "Pictures cannot be decoded",
                f"the decoder process ended at its start (exit code {child.process.returncode})",
                "Run the doctor command, and install the workbench anew if it finds something missing",
            )
        left = [i for chunk in child.waiting for i in chunk]
        slow = self._by_the_clock(silent, child.process.returncode)
        if len(left) == 1 and (left[0] in self._tried or not slow):
            done[left[0]] = Answer(self._verdict(child.process.returncode, slow=slow))
            return
        if slow:
            self._tried.update(left)
        work.extendleft(deque([index]) for index in reversed(left))

    def _by_the_clock(self, silent: float, code: int) -> bool:
        """Whether it ended for the time that went by, and not for the work it did."""
        return code != -getattr(signal, "SIGPROF", 0) and silent >= 0.9 * PATIENCE * self._seconds

    def _verdict(self, code: int, *, slow: bool) -> str:
        if slow:
            return f"was not decoded within {PATIENCE * self._seconds:g} seconds, twice"
        if code == -getattr(signal, "SIGPROF", 0):
            return f"takes longer than {self._seconds:g} seconds to decode"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"makes the decoder stop ({how}), so it is left alone"

    def _end_silent(self) -> None:
        """The child ends itself at a picture that takes too long; this is for one that cannot even do that."""
        now = self._clock()
        for child in self._children:
            patience = 1.5 * PATIENCE * self._seconds + 2 if child.ready else 60
            if child.waiting and now - child.heard > patience:
                child.process.kill()

    def _environment(self) -> dict[str, str]:
        environment = {
            **os.environ,
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            SECONDS_VARIABLE: repr(self._seconds),
        }
        home = Path(__file__).resolve().parents[2]
        if home.name not in ("site-packages", "dist-packages"):  # run from its source, perhaps without being installed
            inherited = os.environ.get("PYTHONPATH")
            environment["PYTHONPATH"] = str(home) + (os.pathsep + inherited if inherited else "")
        return environment


def _items(images: Sequence[ImageRef]) -> list[Item]:
    return [Item(os.fsencode(i.path), os.fsencode(i.member), i.sha256) for i in images]


def _chunks(items: list[Item], most: int) -> Iterator[deque[int]]:
    chunk: deque[int] = deque()
    weight = 0
    for i, item in enumerate(items):
        length = len(item.path) + len(item.member) + len(item.data) + 80
        if chunk and (len(chunk) >= most or weight + length > _REQUEST_BYTES):
            yield chunk
            chunk, weight = deque(), 0
        chunk.append(i)
        weight += length
    if chunk:
        yield chunk


def _inspected(a: Answer) -> Inspected:
    return Inspected(a.sha256, a.size, a.width, a.height, a.mode, a.reason)
