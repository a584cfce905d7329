from __future__ import annotations

import os
import random  # noqa: TID251
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.material import hashes, images
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.teach import (
    NONE,
    AddClass,
    AddExamples,
    AddQueries,
    Choose,
    Edit,
    Label,
    RenameClass,
    TeachTask,
    Together,
    apply,
)
from workbench.core.values import ClassId
from workbench.project import history, journal
from workbench.project.journal import Journal

A = ClassId("a")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.db"


@pytest.fixture
def opened(file: Path) -> Iterator[Journal]:
    j = Journal(file, str(file.parent))
    yield j
    j.close()


def again(j: Journal, file: Path) -> Journal:
    """What a kill leaves: the files are copied while the first still holds them open."""
    folder = file.parent / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in file.parent.glob("labels.db*"):
        shutil.copy(part, folder)
    return Journal(folder / file.name, str(file.parent))


def _hasty(file: Path) -> Journal:
    """One that does not wait for the disk, where a test is about something else."""
    j = Journal(file, str(file.parent))
    assert j._db is not None
    j._db.execute("PRAGMA synchronous = OFF")
    return j


def state(j: Journal) -> tuple[object, ...]:
    return (j.teach(), j.can_undo, j.can_redo, j.undo_text, j.redo_text)


def test_an_edit_is_on_the_disk_when_it_returns(opened: Journal, file: Path) -> None:
    for edit in (
        AddClass(A, "shorts", images(1)),
        AddQueries(images(5, 6)),
        Label(hashes(5), A),
        Label(hashes(6), NONE),
    ):
        opened.edit(edit)
        copy = again(opened, file)
        assert state(copy) == state(opened)
        copy.close()


def test_undo_and_redo_with_words(opened: Journal) -> None:
    assert state(opened) == (TeachTask(), False, False, "", "")
    opened.edit(AddClass(A, "shorts"))
    before = opened.teach()
    after = opened.edit(AddExamples(A, images(1, 2, 3)))
    assert opened.undo_text == "add 3 pictures to shorts"
    assert opened.undo() == before
    assert (opened.redo_text, opened.undo_text) == ("add 3 pictures to shorts", "add the class shorts")
    assert opened.redo() == after
    opened.undo()
    opened.edit(RenameClass(A, "trousers"))
    assert not opened.can_redo, "a new edit forgets what was undone"
    opened.undo()
    opened.undo()
    assert opened.undo() == TeachTask()
    assert opened.seq == 8, "there was nothing to undo the last time, so nothing was written"


def test_several_edits_are_one_for_undo_and_fail_together(opened: Journal, file: Path) -> None:
    both = Together((AddClass(A, "shorts", images(1)), AddQueries(images(5))))
    opened.edit(both)
    copy = again(opened, file)
    assert copy.teach() == opened.teach()
    copy.close()
    assert opened.undo() == TeachTask()
    with pytest.raises(WorkbenchError):
        opened.edit(Together((AddQueries(images(6)), AddExamples(ClassId("gone"), images(1)))))
    assert (opened.teach(), opened.redo_text) == (TeachTask(), "add the class shorts with 1 picture and 1 more")


def test_writing_waits_for_the_disk(opened: Journal) -> None:
    assert opened._db is not None
    assert opened._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert opened._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_changes_nothing_leaves_no_trace(opened: Journal) -> None:
    opened.edit(AddClass(A, "shorts", images(1)))
    opened.edit(AddExamples(A, images(1)))
    assert opened.edit(Choose("auto")) == opened.teach()
    assert (opened.seq, opened.undo_text) == (1, "add the class shorts with 1 picture")


def test_an_edit_that_does_not_fit_changes_nothing(opened: Journal, file: Path) -> None:
    opened.edit(AddClass(A, "shorts"))
    with pytest.raises(WorkbenchError):
        opened.edit(AddExamples(ClassId("gone"), images(1)))
    with pytest.raises(WorkbenchError):
        opened.edit(AddClass(ClassId("b"), "\ud83d"))
    assert opened.seq == 1
    opened.edit(Choose("none"))
    copy = again(opened, file)
    assert copy.teach().choice == "none"
    copy.close()


def _random_edit(pick: random.Random, task: TeachTask) -> Edit:
    ids = [c.id for c in task.classes]
    n = pick.randrange(30)
    match pick.randrange(5) if ids else 0:
        case 0:
            return AddClass(ClassId(f"id{pick.randrange(10**9)}"), f"class {pick.randrange(10**9)}", images(n))
        case 1:
            return AddExamples(pick.choice(ids), images(n, n + 1))
        case 2:
            return AddQueries(images(n + 50))
        case 3:
            return Label(hashes(n + 50), pick.choice([*ids, NONE]))
        case _:
            return RenameClass(pick.choice(ids), f"class {pick.randrange(10**9)}")


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_equals_plain_stacks_and_survives(file: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(journal, "SNAPSHOT_EVERY", 40)
    monkeypatch.setattr(history, "DEEPEST", 10_000)
    pick = random.Random(seed)
    states, undone = [TeachTask()], []
    j = _hasty(file)
    for number in range(300):
        move = pick.random()
        if move < 0.25 and len(states) > 1:
            undone.append(states.pop())
            j.undo()
        elif move < 0.45 and undone:
            states.append(undone.pop())
            j.redo()
        else:
            edit = _random_edit(pick, states[-1])
            after = apply(states[-1], edit)
            if after != states[-1]:
                states.append(after)
                undone.clear()
            j.edit(edit)
        assert j.teach() == states[-1]
        assert (j.can_undo, j.can_redo) == (len(states) > 1, bool(undone))
        if number % 50 == 49:
            words = state(j)
            j.close()
            j = _hasty(file)
            assert state(j) == words
    j.close()


def test_undo_goes_back_at_least_two_hundred_edits_after_a_restart(file: Path) -> None:
    j = _hasty(file)
    states = [j.edit(AddClass(A, "shorts"))]
    states += [j.edit(AddExamples(A, images(n))) for n in range(1, 620)]
    j.close()
    j = _hasty(file)
    undone = 0
    while j.can_undo:
        j.undo()
        undone += 1
        assert len(j.teach().classes[0].images if j.teach().classes else ()) == max(0, 619 - undone)
    assert undone >= 200
    assert len(j._history.done) + len(j._history.undone) <= 2 * history.DEEPEST, "what is held does not grow for ever"
    for _ in range(undone):
        j.redo()
    assert j.teach() == states[-1]
    j.close()


def test_a_full_disk_keeps_what_was_acknowledged_and_edits_go_on_when_there_is_space(
    opened: Journal, file: Path
) -> None:
    opened.edit(AddClass(A, "shorts"))
    assert opened._db is not None
    opened._db.execute("PRAGMA max_page_count = 20")
    acknowledged = opened.teach()
    said = None
    for n in range(1000):
        try:
            acknowledged = opened.edit(AddQueries(images(*range(20 * n, 20 * n + 20))))
        except StorageError as error:
            said = error
            break
    assert said is not None
    assert ("full" in said.why, "free)" in said.why, said.what_to_do[:15]) == (True, True, "Free some space")
    assert opened.teach() == acknowledged
    assert len(acknowledged.queries) > 20
    copy = again(opened, file)
    assert copy.teach() == acknowledged
    copy.close()
    opened._db.execute("PRAGMA max_page_count = 100000")
    assert opened.edit(Choose("none")).choice == "none"


class _Half:
    """A connection whose next commit succeeds and then says that it failed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.armed = True

    def execute(self, sql: str, *rest: object) -> object:
        result = self.db.execute(sql, *rest)  # type: ignore[arg-type]
        if sql == "COMMIT" and self.armed:
            self.armed = False
            raise sqlite3.OperationalError("disk I/O error")
        return result

    def close(self) -> None:
        self.db.close()


def test_a_commit_that_failed_only_in_appearance_does_not_block_the_next(opened: Journal) -> None:
    opened.edit(AddClass(A, "shorts"))
    assert opened._db is not None
    opened._db = _Half(opened._db)  # type: ignore[assignment]
    with pytest.raises(StorageError):
        opened.edit(Choose("none"))
    assert opened.teach().choice == "auto"
    task = opened.edit(AddExamples(A, images(1)))
    assert (task.choice, len(task.classes[0].images)) == ("none", 1), "the file decides what happened"


def test_any_thread_may_edit(opened: Journal) -> None:
    opened.edit(AddClass(A, "shorts"))
    threads = [threading.Thread(target=opened.edit, args=(AddExamples(A, images(n)),)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened.teach().classes[0].images) == 8
    assert opened.seq == 9


def test_read_only_sees_everything_and_changes_nothing(opened: Journal, file: Path) -> None:
    opened.edit(AddClass(A, "shorts"))
    reader = Journal(file, str(file.parent), read_only=True)
    assert reader.teach() == opened.teach()
    with pytest.raises(WorkbenchError, match="reading only"):
        reader.edit(Choose("none"))
    reader.close()
    nothing = Journal(file.with_name("none.db"), "", read_only=True)
    assert nothing.teach() == TeachTask()
    nothing.close()


def test_read_only_where_not_even_a_side_file_can_be_made(
    opened: Journal, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.edit(AddClass(A, "shorts"))
    real = sqlite3.connect

    def connect(name: object, *args: object, **more: object) -> sqlite3.Connection:
        if "mode=ro" in str(name):
            raise sqlite3.OperationalError("unable to open database file")
        return real(name, *args, **more)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite3, "connect", connect)
    reader = Journal(file, str(file.parent), read_only=True)
    assert reader.teach() == opened.teach(), "what lies in the write-ahead log is read too"
    reader.close()
    assert reader._copy is None


def _filled(file: Path) -> TeachTask:
    j = Journal(file, str(file.parent))
    j.edit(AddClass(A, "shorts", images(1, 2)))
    for n in range(30):
        j.edit(AddQueries(images(100 + n)))
        j.edit(Label(hashes(100 + n), A if n % 3 else NONE))
    j.undo()
    task = j.teach()
    j.close()
    assert not file.with_name("labels.db-wal").exists()
    return task


def test_flipped_bits_are_noticed_or_harmless(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SNAPSHOT_EVERY", 25)
    good = _filled(file)
    data = file.read_bytes()
    pick = random.Random(0)
    noticed = 0
    for _ in range(300):
        bad = bytearray(data)
        bad[pick.randrange(len(bad))] ^= 1 << pick.randrange(8)
        file.write_bytes(bad)
        try:
            j = Journal(file, str(file.parent), read_only=True)
        except StorageError as error:
            assert str(file) in error.what_happened or "newer" in error.why  # noqa: PT017
            noticed += 1
        else:
            found = j.teach()
            j.close()
            assert found == good, "a flipped bit went unnoticed"
    assert noticed > 100


@pytest.mark.parametrize("damage", ["cut", "zeros", "rubbish"])
def test_larger_damage_is_noticed(file: Path, damage: str) -> None:
    good = _filled(file)
    data = file.read_bytes()
    for at in range(0, len(data), 4096):
        page = bytes(4096) if damage == "zeros" else os.urandom(4096)
        file.write_bytes(data[:at] if damage == "cut" else data[:at] + page + data[at + 4096 :])
        if damage == "cut" and at == 0:
            continue  # an empty file is what SQLite makes of a new one
        try:
            j = Journal(file, str(file.parent))
        except StorageError:
            continue
        found = j.teach()
        j.close()
        assert found == good


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM events WHERE seq = 61",
        "DELETE FROM events WHERE seq = 30",
        "DELETE FROM events",
        "DELETE FROM head",
        "UPDATE events SET kind = 'redo' WHERE seq = 62",
        "UPDATE events SET body = CAST(body AS TEXT) WHERE seq = 5",
        "UPDATE events SET at = 'x' WHERE seq = 5",
        "UPDATE events SET seq = 99 WHERE seq = 62",
        "INSERT INTO events SELECT 63, kind, at, body, seal FROM events WHERE seq = 62",
        "CREATE TABLE more (x)",
        "DROP TABLE snapshot",
        "PRAGMA application_id = 7",
    ],
)
def test_whatever_is_done_to_its_rows_is_noticed(file: Path, sql: str) -> None:
    _filled(file)
    db = sqlite3.connect(file)
    db.execute(sql)
    db.commit()
    db.close()
    with pytest.raises(StorageError, match="is damaged"):
        Journal(file, str(file.parent))


def test_a_newer_version_is_refused_and_left_alone(file: Path) -> None:
    _filled(file)
    db = sqlite3.connect(file)
    db.execute(f"PRAGMA user_version = {journal.VERSION + 1}")
    db.close()
    before = file.read_bytes()
    with pytest.raises(StorageError, match="newer version"):
        Journal(file, str(file.parent))
    assert file.read_bytes() == before


def test_a_file_that_is_no_database(file: Path) -> None:
    file.write_bytes(b"this is not a database, whatever its name says" * 40)
    with pytest.raises(StorageError, match="damaged"):
        Journal(file, str(file.parent))
