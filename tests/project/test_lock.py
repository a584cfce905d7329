from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from workbench.project import lock
from workbench.project.lock import take


def _leave(folder: Path, **more: object) -> None:
    """A lock file as another process would have left it."""
    (folder / "lock").write_bytes(msgspec.json.encode(msgspec.structs.replace(lock.me(), nonce="other", **more)))


def _dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_one_writer_and_the_second_learns_who(tmp_path: Path) -> None:
    first = take(tmp_path)
    assert (first.reason, first.stale) == ("", False)
    second = take(tmp_path)
    assert f"process {os.getpid()}" in second.reason
    second.release()
    assert take(tmp_path).reason, "one that was refused cannot release it for others"
    first.release()
    third = take(tmp_path)
    assert not third.reason
    first.release()
    assert take(tmp_path).reason, "releasing twice does not release the next one's"
    third.release()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    _leave(tmp_path, pid=_dead_pid())
    taken = take(tmp_path)
    assert (taken.reason, taken.stale) == ("", True)
    taken.release()


def test_a_number_used_again_by_another_process_is_told_apart(tmp_path: Path) -> None:
    if not lock.birth_of(os.getpid()):
        pytest.skip("this system does not tell when a process began")
    _leave(tmp_path, birth="an earlier boot/17")
    assert take(tmp_path).stale


def test_a_lock_is_never_stale_by_age_alone(tmp_path: Path) -> None:
    _leave(tmp_path, since="1999-01-01T00:00:00+00:00")
    os.utime(tmp_path / "lock", (0, 0))
    assert take(tmp_path).reason


def test_another_machine_holds_it_until_it_says_otherwise(tmp_path: Path) -> None:
    _leave(tmp_path, pid=_dead_pid(), host="another-machine")
    assert "another-machine" in take(tmp_path).reason


def test_a_lock_file_cut_short_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b'{"pid": 1')
    assert not take(tmp_path).reason


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: object, flags: int, *rest: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *rest)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(os, "open", refuse)
    assert "cannot be written" in take(tmp_path).reason


def test_of_many_starters_over_a_stale_lock_exactly_one_writes(tmp_path: Path) -> None:
    dead = _dead_pid()
    for number in range(25):
        folder = tmp_path / str(number)
        folder.mkdir()
        _leave(folder, pid=dead)
        together = threading.Barrier(4)
        reasons: list[str] = []

        def start(folder: Path = folder, together: threading.Barrier = together, out: list[str] = reasons) -> None:
            together.wait()
            out.append(take(folder).reason)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(bool, reasons)) == [False, True, True, True]


def test_of_four_processes_exactly_one_writes_a_hundred_times(tmp_path: Path) -> None:
    dead = _dead_pid()
    for number in range(100):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number % 2:
            _leave(folder, pid=dead)
    code = (
        "import sys\nfrom pathlib import Path\nfrom workbench.project.lock import take\n"
        "sys.stdin.readline()\n"
        "print(*[n for n in range(100) if not take(Path(sys.argv[1]) / str(n)).reason], flush=True)\n"
        "sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    won: list[str] = []
    for word in ("go\n", "end\n"):
        for child in children:
            assert child.stdin is not None
            child.stdin.write(word)
            child.stdin.flush()
        if word == "go\n":
            for child in children:
                assert child.stdout is not None
                won += child.stdout.readline().split()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    assert sorted(map(int, won)) == list(range(100))
