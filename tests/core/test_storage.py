from __future__ import annotations

import errno
import hashlib
import os
import random  # noqa: TID251
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.faults import Faulty, Recorder, StopHereError, every_operation
from workbench.core import storage
from workbench.core.errors import StorageError
from workbench.core.storage import Ops

OLD, NEW = b"the old content", b"the new and longer content"


def _os_error(number: int) -> Callable[[], BaseException]:
    return lambda: OSError(number, os.strerror(number))


FAULTS = [
    pytest.param(_os_error(errno.ENOSPC), id="ENOSPC"),
    pytest.param(_os_error(errno.EIO), id="EIO"),
    pytest.param(_os_error(errno.EACCES), id="EACCES"),
    pytest.param(StopHereError, id="stop"),
]


def test_save_returns_the_hash_and_keeps_the_previous(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "a.json"
    storage.save(file, OLD)
    assert not file.with_name("a.json.prev").exists()
    digest = storage.save(file, NEW)
    assert digest == hashlib.sha256(NEW).hexdigest()
    assert storage.load(file, digest) == NEW
    assert file.with_name("a.json.prev").read_bytes() == OLD
    assert sorted(p.name for p in file.parent.iterdir()) == ["a.json", "a.json.prev"]
    storage.save(file, OLD, keep_previous=False)
    assert file.with_name("a.json.prev").read_bytes() == OLD


def test_a_part_written_at_a_time_arrives_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "ops", Recorder())
    storage.save(tmp_path / "a", NEW)
    assert (tmp_path / "a").read_bytes() == NEW


@pytest.mark.parametrize("error", FAULTS)
@pytest.mark.parametrize("before", [OLD, None], ids=["over an old file", "a new file"])
def test_every_single_fault_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException], before: bytes | None
) -> None:
    failed = []
    for number in range(1000):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = folder / "a.json"
        if before is not None:
            file.write_bytes(before)

        def run(ops: Ops, file: Path = file) -> None:
            monkeypatch.setattr(storage, "ops", ops)
            storage.save(file, NEW)

        ops = Faulty(number + 1, error)
        said = "nothing"
        try:
            run(ops)
        except StorageError as raised:
            said = str(raised)
        except StopHereError:
            said = "stopped"
        if not ops.failed:
            break
        assert said == "stopped" or (str(file) in said and "free)" in said), ops.failed
        failed.append(ops.failed)
        content = file.read_bytes() if file.exists() else None
        replaced = "replace" in failed[:-1]
        assert content == (NEW if replaced else before), ops.failed
        # the state is never stuck: the same save succeeds afterwards
        monkeypatch.setattr(storage, "ops", Ops())
        storage.save(file, NEW)
        assert file.read_bytes() == NEW
    expected = ["open", "write", "fsync", "close", "read", *(["link"] if before else []), "replace", "fsync_dir"]
    assert failed == expected


def test_after_an_error_no_temporary_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"

    def run(ops: Ops) -> None:
        monkeypatch.setattr(storage, "ops", ops)
        storage.save(file, NEW)

    for ops in every_operation(run, _os_error(errno.ENOSPC)):
        if ops.failed != "unlink":
            assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == [], ops.failed


def test_bytes_that_read_back_differently_are_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lying(Ops):
        def read(self, path: Path) -> bytes:
            return super().read(path)[:-1]

    storage.save(tmp_path / "a", OLD)
    monkeypatch.setattr(storage, "ops", Lying())
    with pytest.raises(StorageError, match="differs"):
        storage.save(tmp_path / "a", NEW)
    assert (tmp_path / "a").read_bytes() == OLD


def test_a_failing_link_does_not_lose_the_previous_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tmp_path / "a"
    storage.save(first, b"1")
    storage.save(first, b"2")

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(storage.shutil, "copy2", refuse)
    with pytest.raises(StorageError):
        storage.save(first, b"3")
    assert (first.read_bytes(), (tmp_path / "a.prev").read_bytes()) == (b"2", b"1")


def test_a_folder_that_cannot_be_flushed_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "not for folders")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.save(tmp_path / "a", NEW)
    assert (tmp_path / "a").read_bytes() == NEW


@pytest.mark.parametrize("name", ["字" * 80 + ".json", "😀" * 60, "é" * 120 + ".x", "n" * 250])
def test_long_names_of_long_characters(tmp_path: Path, name: str) -> None:
    assert len(os.fsencode(name)) <= 255
    storage.save(tmp_path / name, NEW, keep_previous=False)
    assert (tmp_path / name).read_bytes() == NEW


def _crash(log: list[tuple[object, ...]], disk: dict[Path, bytes], pick: random.Random) -> dict[Path, bytes]:
    """What a disk holds after power went: an un-flushed file may hold any beginning of it, names change in order."""
    inodes = {path: [content, content] for path, content in disk.items()}  # [in memory, surely on disk]
    pending: list[dict[Path, list[bytes]]] = [dict(inodes)]
    for entry in log:
        kind, path = entry[0], entry[1]
        assert isinstance(path, Path)
        if kind == "open":
            inodes[path] = [b"", b""]
        elif kind == "write":
            inodes[path][0] += entry[2]
        elif kind == "fsync":
            inodes[path][1] = inodes[path][0]
        elif kind in ("link", "replace"):
            inodes[entry[2]] = inodes[path]
            if kind == "replace":
                del inodes[path]
        elif kind == "unlink":
            inodes.pop(path, None)
        elif kind == "fsync_dir":
            pending = []
        pending.append(dict(inodes))
    names = pick.choice(pending)
    found = {}
    for path, (memory, durable) in names.items():
        known = memory == durable
        found[path] = durable if known else memory[: pick.randrange(len(memory) + 1)]
    return found


def test_power_loss_at_any_moment_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    storage.save(file, OLD)
    recorder = Recorder()
    monkeypatch.setattr(storage, "ops", recorder)
    storage.save(file, NEW)
    pick = random.Random(0)
    seen = set()
    for _ in range(500):
        done = pick.randrange(len(recorder.log) + 1)
        seen.add(_crash(recorder.log[:done], {file: OLD}, pick)[file])
    assert seen == {OLD, NEW}
    # once save has returned, only the new content can be found
    assert {_crash(recorder.log, {file: OLD}, pick)[file] for _ in range(50)} == {NEW}


def test_the_power_loss_model_notices_a_missing_flush() -> None:
    tmp, file = Path("t"), Path("a")
    log = [("open", tmp), ("write", tmp, NEW), ("replace", tmp, file), ("fsync_dir", Path())]
    pick = random.Random(0)
    assert {_crash(log, {file: OLD}, pick)[file] for _ in range(200)} - {OLD, NEW}


@pytest.mark.parametrize("damage", ["flip", "cut", "zero"])
def test_load_notices_every_damage(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "a"
    data = bytes(range(1, 256))
    digest = storage.save(file, data)
    for i in range(0, len(data), 5):
        bad = bytearray(data)
        if damage == "flip":
            bad[i] ^= 1 << (i % 8)
        elif damage == "cut":
            del bad[i:]
        else:
            bad[i : i + 16] = bytes(len(bad[i : i + 16]))
        file.write_bytes(bad)
        with pytest.raises(StorageError, match="damaged"):
            storage.load(file, digest)


def test_load_names_the_copy_before_it(tmp_path: Path) -> None:
    file = tmp_path / "a"
    storage.save(file, OLD)
    digest = storage.save(file, NEW)
    file.write_bytes(b"rubbish")
    with pytest.raises(StorageError) as raised:
        storage.load(file, digest)
    assert "a.prev" in raised.value.what_to_do
    with pytest.raises(StorageError, match="cannot be read"):
        storage.load(tmp_path / "none")


def test_json_round_trip_refuses_what_it_cannot_hold() -> None:
    data = storage.encode_json("thing", 2, {"a": [1, 2.5, "é"], "b": None})
    assert storage.decode_json(data, "thing", 2, dict) == {"a": [1, 2.5, "é"], "b": None}
    assert storage.decode_json(data, "thing", 3, dict) == {"a": [1, 2.5, "é"], "b": None}
    with pytest.raises(StorageError, match="newer version"):
        storage.decode_json(data, "thing", 1, dict)
    with pytest.raises(StorageError, match="not a other"):
        storage.decode_json(data, "other", 2, dict)
    with pytest.raises(StorageError):
        storage.decode_json(data[:-3], "thing", 2, dict)
    with pytest.raises(StorageError):
        storage.decode_json(data.replace("é".encode(), b"\xff\xfe"), "thing", 2, dict)
    for bad in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match=r"thing\.a\[0\]\.b"):
            storage.encode_json("thing", 1, {"a": [{"b": bad}]})


def test_strays_are_swept_if_old_and_ours(tmp_path: Path) -> None:
    old, young, foreign = tmp_path / "x" / ".a.json.123.tmp", tmp_path / ".b.77.tmp", tmp_path / ".editor.tmp"
    old.parent.mkdir()
    for path in (old, young, foreign):
        path.write_bytes(b"")
    os.utime(old, (1000, 1000))
    os.utime(foreign, (1000, 1000))
    os.utime(young, (9000, 9000))
    assert storage.sweep_strays(tmp_path, 3600, now=10_000) == [old]
    assert young.exists()
    assert foreign.exists()


def test_sizes_in_words() -> None:
    assert storage.len_text(999) == "999 bytes"
    assert storage.len_text(1500) == "1.5 KB"
    assert storage.len_text(2_500_000) == "2.5 MB"
    assert storage.len_text(3_000_000_000) == "3.0 GB"
