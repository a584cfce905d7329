"""Records of what was taught, and what became of them."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from tests.core.faults import every_operation
from workbench.core import paths, storage
from workbench.core.errors import StorageError
from workbench.core.storage import Ops
from workbench.core.values import EntryId
from workbench.project import past_tasks, sealed
from workbench.project.past_tasks import PastTask, Tried, Used

OWN = Used(EntryId("a1"))
RIDGE = Used(EntryId("a1"), "previous", "norm", "ridge")
NOTHING = Used(None)


def record(id_: str = "0" * 16, **more: object) -> PastTask:
    """Two classes, three candidates."""
    given = {
        "id": id_,
        "when": "2026-01-02T03:04:05+00:00",
        "shots": (1, 3),
        "probe": "f" * 64,
        "representation": (0.25, -1.5, 2.0),
        "metafeatures": (1.0, 0.5, 1.0, 1.0),
        "names": ("classes", "side"),
        "tried": (Tried(OWN, 0.8, 0.5), Tried(RIDGE, 0.8, None), Tried(NOTHING, 0.1, 1.25)),
        "chosen": OWN,
    }
    return PastTask(**(given | more))  # type: ignore[arg-type]


def test_a_record_survives_and_is_replaced_by_the_next_of_its_task(tmp_path: Path) -> None:
    past_tasks.save(tmp_path, record())
    assert past_tasks.read(tmp_path) == ((record(),), ())
    later = changed(record(), when="2026-02-01T00:00:00+00:00", chosen=RIDGE).seen_right(RIDGE, 2, 3)
    past_tasks.save(tmp_path, later)
    assert past_tasks.find(tmp_path, later.id) == later
    assert past_tasks.read(tmp_path)[0] == (later,)
    assert past_tasks.find(tmp_path, "1" * 16) is None
    assert later.ways == 2


def test_what_was_realised_is_counted_for_each_recipe_apart() -> None:
    found = record().seen_right(OWN, 1, 1).seen_right(RIDGE, 0, 2).seen_right(OWN, 0, 1)
    assert {r.used: (r.right, r.of) for r in found.realised} == {OWN: (1, 2), RIDGE: (0, 2)}
    with pytest.raises(ValueError, match="cannot be right"):
        record().seen_right(OWN, 2, 1)


def test_what_is_taken_back_leaves_what_was_there_before() -> None:
    one, two = (past_tasks.mark_of("t", [n]) for n in "xy")
    both = record().seen_right(OWN, 1, 1, one).seen_right(OWN, 0, 1, two)
    assert both.realised[0].pictures == past_tasks.mark_of("t", "yx") != past_tasks.mark_of("u", "yx")
    assert both.seen_right(OWN, 0, -1, two) == record().seen_right(OWN, 1, 1, one)
    assert both.seen_right(OWN, 0, -1, two).seen_right(OWN, -1, -1, one) == record()
    for right, of in ((-1, 0), (0, -2), (0, -3), (-2, -2)):
        with pytest.raises(ValueError, match="cannot be right"):
            both.seen_right(OWN, right, of, one)


def test_the_id_is_that_of_the_set_of_classes() -> None:
    assert past_tasks.task_id(["a", "b"]) == past_tasks.task_id(["b", "a"])
    assert len({past_tasks.task_id(c) for c in (["a", "b"], ["ab"], ["a", "b", "b"], ["a\udcff"])}) == 4


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [past_tasks.save(tmp_path, record(f"{n:016d}")) for n in range(3)]
    found = past_tasks.distilled(tmp_path, lambda t: t.id, {})
    assert sorted(x or "" for _, x in found.values()) == [f"{n:016d}" for n in range(3)]
    opened = []
    real = past_tasks._read
    monkeypatch.setattr(past_tasks, "_read", lambda file: opened.append(file) or real(file))
    assert past_tasks.distilled(tmp_path, lambda t: t.id, found) == found
    assert opened == []
    past_tasks.save(tmp_path, record("1".zfill(16), chosen=RIDGE))
    files[2].unlink()
    (tmp_path / past_tasks.FOLDER / "x.json").write_text("damaged")
    found = past_tasks.distilled(tmp_path, lambda t: t.chosen, found)
    assert {f.stem for f in opened} == {files[1].stem, "x"}
    assert {f.stem for f in found} == {files[0].stem, files[1].stem, "x"}
    assert found[files[1]][1] == RIDGE
    assert found[tmp_path / past_tasks.FOLDER / "x.json"][1] is None


def test_records_of_other_projects_are_read_and_ones_own_stand_for_them(tmp_path: Path, home: Path) -> None:
    past_tasks.save(paths.data_home(), record())
    past_tasks.save(paths.data_home(), record("2" * 16))
    mine = record("2" * 16, chosen=RIDGE)
    past_tasks.save(tmp_path, mine)
    assert {t.id: t for t in past_tasks.read(tmp_path)[0]} == {record().id: record(), mine.id: mine}
    assert past_tasks.find(tmp_path, record().id) is None, "it is not this project's"
    found = past_tasks.distilled(tmp_path, lambda t: t.chosen, {})
    assert sorted(str(x) for _, x in found.values()) == sorted(map(str, (OWN, RIDGE)))
    assert len(past_tasks.read(paths.data_home())[0]) == 2


def test_two_who_change_a_record_wait_for_each_other(tmp_path: Path) -> None:
    past_tasks.save(tmp_path, record())

    def count() -> None:
        for _ in range(20):
            with past_tasks.alone(tmp_path):
                now = past_tasks.find(tmp_path, record().id)
                assert now is not None
                past_tasks.save(tmp_path, now.seen_right(OWN, 1, 1))

    both = [threading.Thread(target=count) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    (found,) = past_tasks.read(tmp_path)[0]
    assert [(r.right, r.of) for r in found.realised] == [(40, 40)]


def test_the_oldest_beyond_the_limit_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_tasks, "MOST", 3)
    for n in range(5):
        file = past_tasks.save(tmp_path, record(f"{n:016d}"))
        os.utime(file, (n + 1, n + 1))
    assert {t.id for t in past_tasks.read(tmp_path)[0]} == {f"{n:016d}" for n in (2, 3, 4)}
    assert len(list((tmp_path / past_tasks.FOLDER).iterdir())) == 3, "nothing else is left behind"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hook": 1}, "hook"),
        ({"id": "1" * 16}, "figures"),
        ({"shots": [0, 1]}, "figures"),
        ({"shots": []}, "figures"),
        ({"realised": [{"used": {"entry": None, "layer": "", "adapter": "", "head": ""}, "right": 3, "of": 2}]}, "fig"),
        ({"representation": ["x"]}, "float"),
        ({"chosen": {"entry": None, "hidden": 1}}, "hidden"),
        ({"realised": [{"used": {"entry": None}, "right": 1, "of": 2, "pictures": "../x"}]}, "figures"),
    ],
)
def test_records_that_cannot_be_are_left_out_and_listed(tmp_path: Path, change: dict[str, object], said: str) -> None:
    past_tasks.save(tmp_path, record("2" * 16))
    file = past_tasks.save(tmp_path, record())
    value = json.loads(file.read_bytes())["value"]
    del value["seal"]
    file.write_bytes(sealed.seal(past_tasks.KIND, past_tasks.VERSION, value | change))
    found, problems = past_tasks.read(tmp_path)
    assert [t.id for t in found] == ["2" * 16]
    assert said in problems[0].reason
    assert past_tasks.find(tmp_path, "0" * 16) is None


def test_a_file_that_is_damaged_or_too_large_is_left_out(tmp_path: Path) -> None:
    file = past_tasks.save(tmp_path, record())
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"0.8", b"0.9", 1))
    assert "not what was saved" in past_tasks.read(tmp_path)[1][0].reason
    file.write_bytes(whole + b" " * past_tasks.LARGEST)
    assert "MB" in past_tasks.read(tmp_path)[1][0].reason or "KB" in past_tasks.read(tmp_path)[1][0].reason
    file.write_bytes(whole)
    assert past_tasks.read(tmp_path) == ((record(),), ())


def test_a_save_that_fails_leaves_the_record_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    past_tasks.save(tmp_path, record())
    later = record().seen_right(OWN, 1, 1)

    def attempt(ops: Ops) -> None:
        monkeypatch.setattr(storage, "ops", ops)
        past_tasks.save(tmp_path, later)

    outcomes = []
    for ops in every_operation(attempt, lambda: OSError(errno.ENOSPC, "No space left on device")):
        monkeypatch.setattr(storage, "ops", Ops())
        found, problems = past_tasks.read(tmp_path)
        assert problems == ()
        assert found == ((later,) if ops.failed == "fsync_dir" else (record(),))
        outcomes.append(found)
        past_tasks.save(tmp_path, record())
    assert len(outcomes) > 4


def test_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises((ValueError, StorageError)):
        past_tasks.save(tmp_path, record(representation=(float("nan"),)))
    assert past_tasks.read(tmp_path) == ((), ())
