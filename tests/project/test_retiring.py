"""Knowledge that is put away and comes back, and words that find it."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from tests.core.faults import every_operation
from tests.project.material import entry
from workbench.core import storage
from workbench.core.storage import Ops
from workbench.core.values import EntryId, SourceInfo
from workbench.project import retiring
from workbench.project.library import Library
from workbench.project.searching import search

TENSORS = {"learned.w": np.zeros(2, dtype=np.float32)}
WHEN = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Two entries of a project."""
    made = Library(tmp_path / "project")
    made.save(entry("a1", "Letters"), TENSORS)
    made.save(entry("a2", "Letters"), TENSORS)
    return made


def test_what_is_retired_is_in_no_list_but_is_found_and_comes_back(library: Library) -> None:
    own = library.folders[0]
    before = sorted(p.name for p in (own / "a1").iterdir())
    retiring.retire(own, EntryId("a1"), WHEN, "too old\udcff")
    retiring.retire(own, EntryId("a1"), "later", "again")
    assert [e.id for e in library.entries()] == ["a2"]
    assert [e.id for e in Library(own.parent).retired()] == ["a1"]
    assert library.find("a1")[0].id == "a1"
    assert library.find("letters")[0].id == "a2", "the name means the one that is in use"
    assert retiring.reason(library.folders, EntryId("a1")) == (WHEN, "too old\udcff")
    assert sorted(p.name for p in (own / "a1").iterdir()) == before, "the entry itself is as it was"
    assert retiring.restore(library.folders, EntryId("a1"))
    assert not retiring.restore(library.folders, EntryId("a1"))
    assert retiring.reason(library.folders, EntryId("a1")) is None
    assert {e.id for e in library.entries()} == {"a1", "a2"}
    assert library.problems == ()


def test_a_damaged_mark_still_hides(library: Library) -> None:
    own = library.folders[0]
    retiring.retire(own, EntryId("a1"), WHEN)
    (own / retiring.MARKS / "a1.json").write_bytes(b"")
    assert [e.id for e in library.entries()] == ["a2"]
    assert retiring.reason(library.folders, EntryId("a1")) == ("", "")


def test_a_mark_that_cannot_be_written_leaves_the_entry_in_use(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = library.folders[0]
    mark = own / retiring.MARKS / "a1.json"

    def attempt(ops: Ops) -> None:
        monkeypatch.setattr(storage, "ops", ops)
        retiring.retire(own, EntryId("a1"), WHEN)

    outcomes = set()
    for ops in every_operation(attempt, lambda: OSError(errno.ENOSPC, "No space left on device")):
        monkeypatch.setattr(storage, "ops", Ops())
        outcomes.add(bool(library.retired()))
        assert mark.exists() == (ops.failed == "fsync_dir"), "only that comes after the rename"
        mark.unlink(missing_ok=True)
    assert outcomes == {False, True}


def test_every_word_must_be_found_and_the_name_comes_first() -> None:
    source = SourceInfo("Br\u00e4uche", "/data/stra\u00dfe", 2, 9, "f", ("\uff21lpha", "crack"))
    one = entry("a1", "Surfaces", sources=(source,), algorithm="maml", provenance={"data": "floor tiles"})
    two = entry("a2", "Cracks in walls", sources=())
    both = (one, two)
    assert search("", both) == both
    assert search("CRACK", both) == (two, one), "a name says more than a class"
    assert search("alpha", both) == (one,)
    assert search("brauche STRASSE", both) == (one,)
    assert search("crack protonet", both) == (two,)
    assert search("prototypical", both, {"protonet": "Prototypical Networks"}) == (two,)
    assert search("tiles", both) == (one,)
    assert search("crack nothing", both) == ()
