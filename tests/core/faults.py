"""Storage operations that fail, die, or are recorded, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError
from workbench.core.storage import Ops

NAMES = ("open", "write", "fsync", "close", "read", "link", "replace", "fsync_dir", "unlink")


class StopHereError(BaseException):
    """The process ends at this operation: nothing after it runs, not even tidying up."""


class Faulty(Ops):
    """Counts operations; the ``at``-th one raises ``error`` before it does anything, and after a stop none works."""

    def __init__(self, at: int = -1, error: Callable[[], BaseException] | None = None) -> None:
        self.count = 0
        self.at = at
        self.error = error
        self.failed = ""
        self._dead = False


def _wrapped(name: str) -> Callable[..., Any]:
    real = getattr(Ops, name)

    def operation(self: Faulty, *args: Any) -> Any:
        if self._dead and name != "close":  # closing a descriptor leaves nothing on the disk
            raise StopHereError
        self.count += 1
        if self.count == self.at and self.error is not None:
            self.failed = name
            error = self.error()
            self._dead = isinstance(error, StopHereError)
            if name == "close" or self._dead:
                _close(args if name == "close" else ())
            raise error
        return real(self, *args)

    return operation


def _close(args: tuple[Any, ...]) -> None:
    if args:
        Ops().close(args[0])


for _name in NAMES:
    setattr(Faulty, _name, _wrapped(_name))


class Recorder(Ops):
    """Does everything and writes down what it did, for replaying a part of it."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self._paths: dict[int, Path] = {}

    def open(self, path: Path) -> int:
        fd = super().open(path)
        self._paths[fd] = path
        self.log.append(("open", path))
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        n = super().write(fd, data[:3])
        self.log.append(("write", self._paths[fd], bytes(data[:n])))
        return n

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self.log.append(("fsync", self._paths[fd]))

    def link(self, src: Path, dst: Path) -> None:
        super().link(src, dst)
        self.log.append(("link", src, dst))

    def replace(self, src: Path, dst: Path) -> None:
        super().replace(src, dst)
        self.log.append(("replace", src, dst))

    def fsync_dir(self, path: Path) -> None:
        super().fsync_dir(path)
        self.log.append(("fsync_dir", path))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.log.append(("unlink", path))


def every_operation(run: Callable[[Ops], object], error: Callable[[], BaseException]) -> Iterator[Faulty]:
    """Fail the first operation of ``run``, then the second, ... until one run comes through; yields after each."""
    at = 1
    while True:
        ops = Faulty(at, error)
        try:
            run(ops)
        except (WorkbenchError, StopHereError):
            assert ops.failed, "it failed although nothing was made to fail"
        if not ops.failed:
            assert at > 1, "it uses no storage operation at all"
            return
        yield ops
        at += 1
