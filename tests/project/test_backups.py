from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.core.faults import StopHereError, every_operation
from tests.project.material import images
from workbench.core import storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.storage import Ops
from workbench.core.teach import AddClass, AddQueries
from workbench.core.values import ClassId
from workbench.project import backups as module
from workbench.project.backups import KEPT, back_up, backups, restore_backup
from workbench.project.journal import Journal
from workbench.project.project import Project, restore


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 3, 28, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "now", clock)
    return clock


def _project(folder: Path) -> None:
    with Project.open(folder) as p:
        p.edit(AddClass(ClassId("a"), "shorts", images(1)))


def test_one_a_day_is_made_when_a_project_opens_and_seven_are_kept(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "p"
    Project.open(folder).close()
    assert backups(folder) == (), "there is nothing to back up yet"
    _project(folder)
    for day in range(10):
        Project.open(folder).close()
        Project.open(folder).close()
        assert len(backups(folder)) == min(day + 1, KEPT)
        clock.time += timedelta(hours=25)
    assert [p.name.split("-")[1] for p in backups(folder)] == [f"{n:04d}" for n in range(10, 3, -1)]


@pytest.mark.parametrize("jump", [timedelta(days=-730), timedelta(days=3650)])
def test_a_clock_that_jumps_neither_stops_backups_nor_mixes_their_order(
    tmp_path: Path, clock: Clock, jump: timedelta
) -> None:
    folder = tmp_path / "p"
    _project(folder)
    for _ in range(3):
        Project.open(folder).close()
        clock.time += jump
    assert [p.name.split("-")[1] for p in backups(folder)] == ["0003", "0002", "0001"]


def test_damaged_labels_are_refused_and_put_back(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "p"
    _project(folder)
    with Project.open(folder) as p:
        kept = p.teach()
        p.edit(AddQueries(images(9)))
    file = folder / "labels.db"
    data = bytearray(file.read_bytes())
    at = data.index(b"shorts")
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(StorageError, match="damaged") as raised:
        Project.open(folder)
    assert "backup" in raised.value.what_to_do
    assert restore(folder) == (f"the labels, from {backups(folder)[0].name}",)
    with Project.open(folder) as p:
        assert p.teach() == kept
        assert not p.read_only
    assert (folder / "labels-damaged-1.db").read_bytes() == bytes(data), "what was there is kept"
    assert restore(folder) == ()


def test_a_damaged_backup_is_passed_over_and_without_any_it_says_so(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "p"
    _project(folder)
    Project.open(folder).close()
    clock.time += timedelta(days=2)
    Project.open(folder).close()
    newest, older = backups(folder)
    newest.write_bytes(b"rubbish")
    assert restore_backup(folder) == older
    older.write_bytes(b"rubbish")
    with pytest.raises(WorkbenchError, match="no backup that opens"):
        restore_backup(folder)
    with Project.open(folder) as p:
        assert len(p.teach().classes) == 1


@pytest.mark.parametrize("error", [lambda: OSError(28, "No space left on device"), StopHereError])
def test_every_fault_while_restoring_leaves_labels_that_open_or_can_be_restored(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    folder = tmp_path / "p"
    _project(folder)
    Project.open(folder).close()
    file = folder / "labels.db"

    def run(ops: Ops) -> None:
        monkeypatch.setattr(storage, "ops", ops)
        file.write_bytes(b"rubbish")
        restore_backup(folder)

    for _ in every_operation(run, error):
        monkeypatch.setattr(storage, "ops", Ops())
        assert file.exists(), "labels that are missing would be taken for a new project's"
        restore(folder)
        with Project.open(folder) as p:
            assert len(p.teach().classes) == 1


@pytest.mark.parametrize("error", [lambda: OSError(28, "No space left on device"), StopHereError])
def test_every_fault_while_backing_up_leaves_whole_backups_only(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    folder = tmp_path / "p"
    _project(folder)
    journal = Journal(folder / "labels.db", str(folder))

    def run(ops: Ops) -> None:
        monkeypatch.setattr(storage, "ops", ops)
        back_up(journal, folder, force=True)

    for _ in every_operation(run, error):
        for copy in backups(folder):
            read = Journal(copy, str(folder), read_only=True)
            assert read.teach() == journal.teach()
            read.close()
    assert backups(folder)
    journal.close()


def test_a_backup_that_fails_does_not_keep_the_project_shut(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "p"
    _project(folder)
    (folder / "backups").write_bytes(b"a file where a folder should be")
    with Project.open(folder) as p:
        assert len(p.teach().classes) == 1
    assert "not backed up" in caplog.text
