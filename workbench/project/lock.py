"""One writer per project folder: a lock file with process, host and start, taken over only when its process is dead.

The file is made with ``O_EXCL``. Looking at a stale one and replacing it is done under a short-lived lock of the
operating system, which dies with its process, so that of several starters exactly one becomes the writer. Age alone
never makes a lock stale: clocks jump.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

_FILE = "lock"
_GUARD = ".lock-guard"


class Holder(msgspec.Struct, frozen=True):
    """Who holds a project: process, machine, what tells the process from a later one of its number, since when."""

    pid: int
    host: str
    birth: str
    since: str
    nonce: str


def me() -> Holder:
    """This process."""
    pid = os.getpid()
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(pid, socket.gethostname(), birth_of(pid), since, secrets.token_hex(8))


def birth_of(pid: int) -> str:
    """What tells a process from a later one of its number (boot and start tick), or "" where it cannot be known."""
    if not sys.platform.startswith("linux"):
        return ""
    with contextlib.suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # the second field is the program's name in brackets and may hold spaces; the start tick is the 22nd
        return f"{boot}/{Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[19]}"
    return ""


def alive(pid: int, host: str, birth: str) -> bool:
    """Whether a process still runs; one on another machine is taken to."""
    if host != socket.gethostname():
        return True
    if not _exists(pid):
        return False
    return not birth or birth_of(pid) in ("", birth)


def _exists(pid: int) -> bool:
    if sys.platform == "win32":  # there, os.kill with signal 0 ends the process
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)
        if not handle:
            return False
        code = ctypes.c_ulong()
        ctypes.windll.kernel32.GetExitCodeProcess(handle, ctypes.byref(code))
        ctypes.windll.kernel32.CloseHandle(handle)
        return code.value == 259
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


class Taken:
    """The outcome of :func:`take`.

    Attributes:
        reason: why it was not taken, in words, or "".
        stale: whether a dead process had left it.
    """

    def __init__(self, folder: Path, mine: Holder | None, reason: str = "", *, stale: bool = False) -> None:
        self.reason = reason
        self.stale = stale
        self._folder = folder
        self._mine = mine

    def release(self) -> None:
        """Give it back, if it was taken."""
        if self._mine is None:
            return
        with contextlib.suppress(OSError), guard(self._folder):
            held = _holder(self._folder / _FILE)
            if held is not None and held.nonce == self._mine.nonce:
                (self._folder / _FILE).unlink()
        self._mine = None


def take(folder: Path) -> Taken:
    """Become the writer of a project, or learn who is."""
    mine = me()
    file = folder / _FILE
    stale = False
    try:
        with guard(folder):
            for _ in range(3):
                try:
                    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                except FileExistsError:
                    held = _holder(file)
                    if held is not None and alive(held.pid, held.host, held.birth):
                        return Taken(folder, None, _words(held))
                    file.unlink(missing_ok=True)
                    stale = True
                    continue
                with os.fdopen(fd, "wb") as stream:
                    stream.write(msgspec.json.encode(mine))
                return Taken(folder, mine, stale=stale)
    except OSError as error:
        return Taken(folder, None, f"the folder cannot be written ({error.strerror or error})")
    return Taken(folder, None, "another program keeps making its lock file")


def _holder(file: Path) -> Holder | None:
    """Who wrote a lock file; ``None`` for one that was cut short, which only a dead process leaves (see ``guard``)."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Holder)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _words(held: Holder) -> str:
    where = "" if held.host == socket.gethostname() else f" on {held.host}"
    return f"it is open in another window or command (process {held.pid}{where}, since {held.since})"


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[None]:
    """Hold the operating system's lock on a file of the folder; where there is none to be had, go on without."""
    fd = os.open(folder / _GUARD, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(fd, msvcrt.LK_LOCK, 1)
            else:
                import fcntl

                fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
