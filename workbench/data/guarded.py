"""The guarded child: reads, hashes and decodes pictures for ``decoder.Decoder``. It loads neither torch nor Qt.

At most 2 GiB of memory on Linux and ten seconds of the processor's work a picture. Messages are msgspec's MessagePack
over the standard pipes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec

SECONDS_PER_PICTURE = 10.0
PATIENCE = 12
"""By the clock a picture may take so many times as long: a busy machine gives the child little of the processor."""
SECONDS_VARIABLE = "WORKBENCH_DECODER_SECONDS"
REPLY_BYTES = 1 << 20
_REPLY_SECONDS = 0.05
_MEMORY = 2 << 30


class Item(msgspec.Struct, array_like=True):
    """One picture asked about: a path in the file system's bytes, or the data itself."""

    path: bytes
    member: bytes
    sha256: str = ""
    data: bytes = b""


class Job(msgspec.Struct, array_like=True):
    """What to do (``inspect``, ``pixels``, ``thumbnail``) with some pictures."""

    kind: str
    items: list[Item]
    size: int = 0
    channels: str = ""
    fit: str = ""
    resample: str = ""


class Answer(msgspec.Struct, array_like=True):
    """What came of one picture; ``reason`` is "" where it went well."""

    reason: str
    data: bytes = b""
    sha256: str = ""
    size: int = 0
    width: int = 0
    height: int = 0
    mode: str = ""


def send(pipe: Any, payload: bytes) -> None:
    """Write one message: four bytes of length, then the payload."""
    view = memoryview(len(payload).to_bytes(4, "little") + payload)
    while view:
        view = view[pipe.write(view) :]


def receive(pipe: Any) -> bytes | None:
    """Read one message, or ``None`` where the other end is gone."""
    head = _exactly(pipe, 4)
    return None if head is None else _exactly(pipe, int.from_bytes(head, "little"))


def _exactly(pipe: Any, n: int) -> bytes | None:
    parts = []
    while n:
        part = pipe.read(n)
        if not part:
            return None
        parts.append(part)
        n -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def serve(requests: BinaryIO, replies: BinaryIO, answer: Callable[[Job, Item], Answer]) -> None:
    """Answer jobs until the parent closes the pipe.

    A picture that takes longer than allowed ends the process, and no decoder can hold that up: a signal after so much
    work of the processor (where there is such a signal), so that a busy machine condemns nobody, and a native thread
    after ``PATIENCE`` times as long by the clock.
    """
    import faulthandler
    import signal

    seconds = float(os.environ.get(SECONDS_VARIABLE, SECONDS_PER_PICTURE))
    timed = hasattr(signal, "setitimer")
    if timed:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
    send(replies, msgspec.msgpack.encode([]))
    while (payload := receive(requests)) is not None:
        job = msgspec.msgpack.decode(payload, type=Job)
        answers: list[Answer] = []
        weight, sent, armed = 0, time.monotonic(), 0.0
        for item in job.items:
            now = time.monotonic()
            if answers and (weight > REPLY_BYTES or now - sent > _REPLY_SECONDS):
                send(replies, msgspec.msgpack.encode(answers))
                answers, weight, sent = [], 0, now
            if timed:
                signal.setitimer(signal.ITIMER_PROF, seconds)
            if now - armed > seconds / 10:
                faulthandler.dump_traceback_later(PATIENCE * seconds, exit=True, file=2)
                armed = now
            answers.append(answer(job, item))
            weight += len(answers[-1].data)
        faulthandler.cancel_dump_traceback_later()
        if timed:
            signal.setitimer(signal.ITIMER_PROF, 0)
        send(replies, msgspec.msgpack.encode(answers))


def answer(job: Job, item: Item) -> Answer:
    """What the child says of one picture; never raises, whatever the file holds."""
    import hashlib

    from workbench.data import encoded, pixels

    digest, size = "", 0
    try:
        path, member = os.fsdecode(item.path), os.fsdecode(item.member)
        data = item.data or (encoded.read_encoded(path, member, accept=pixels.sniff) if path else b"")
        image = pixels.open_header(data)
        digest, size = hashlib.sha256(data).hexdigest(), len(data)
        if job.kind == "inspect":
            width, height = pixels.upright_size(image)
            mode = pixels.final_mode(image)
            if image.format in ("JPEG", "MPO"):
                # An eighth of the size still reads every byte of the file, in a fifth of the time.
                image.draft("L" if image.mode == "RGB" else None, (max(1, width // 8), max(1, height // 8)))
            if mode == image.mode or image.mode in ("L", "RGB", "P", "RGBA", "CMYK"):
                pixels.load(image, data)
            else:  # the rarer kinds may still fail on their way to eight bits
                pixels.finish(image, data)
            return Answer("", b"", digest, size, width, height, mode)
        if item.sha256 and item.sha256 != digest:
            return Answer("was changed since it was loaded")
        if job.kind == "pixels":
            whole = pixels.finish(image, data)
            square = pixels.to_square(whole, size=job.size, channels=job.channels, fit=job.fit, resample=job.resample)
            return Answer("", square.tobytes())
        from workbench.data.thumbnails import make

        return Answer("", make(data, job.size))
    except ValueError as error:
        return Answer(str(error), b"", digest, size)
    except MemoryError:
        return Answer("needs more memory than a picture is given", b"", digest, size)
    except Exception as error:  # noqa: BLE001 - one strange file must not end the rest
        return Answer(f"cannot be decoded ({type(error).__name__})", b"", digest, size)


def main() -> None:
    """Run the child: limits first, then answer."""
    import warnings

    warnings.simplefilter("ignore")
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.nice(5)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    requests = os.fdopen(os.dup(0), "rb")
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        serve(requests, replies, answer)


if __name__ == "__main__":
    main()
