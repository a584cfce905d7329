"""Where knowledge came from, and what became of it."""

from __future__ import annotations

import pytest

from tests.project.material import entry
from tests.project.test_past_tasks import NOTHING, OWN, RIDGE, record
from workbench.core.values import EntryId
from workbench.project.lineage import Ancestor, lineage, recipes, went
from workbench.project.past_tasks import Used

OTHER = Used(EntryId("b2"))


def test_the_line_of_ancestors_ends_where_one_is_gone_and_a_circle_is_cut() -> None:
    grandparent = entry("g", "Grandparent", provenance={"ancestor_entry": "gone"})
    parent = entry("p", "Parent", provenance={"ancestor_entry": "g"})
    child = entry("c", "Child", provenance={"ancestor_entry": "p"})
    every = (child, parent, grandparent)
    assert lineage(child, every) == (
        Ancestor(EntryId("p"), "Parent"),
        Ancestor(EntryId("g"), "Grandparent"),
        Ancestor(EntryId("gone"), None),
    )
    assert lineage(entry("x", provenance={"ancestor_entry": 7}), every) == ()
    a, b = (entry(i, i, provenance={"ancestor_entry": j}) for i, j in (("a", "b"), ("b", "a")))
    assert lineage(a, (a, b)) == (Ancestor(EntryId("b"), "b"),)


def test_what_was_realised_is_set_beside_what_else_was_used_for_the_same_tasks() -> None:
    first = record("1" * 16).seen_right(OWN, 3, 4).seen_right(RIDGE, 1, 1).seen_right(NOTHING, 1, 5)
    second = record("2" * 16, chosen=OTHER).seen_right(OTHER, 0, 9)
    third = record("3" * 16)
    found = went(EntryId("a1"), (first, second, third))
    assert (found.tasks, found.right, found.of) == (2, 4, 5)
    assert found.beside == pytest.approx(1 / 5)
    assert found.gain == pytest.approx(4 / 5 - 1 / 5)
    assert went(EntryId("b2"), (first, second, third)).gain is None, "nothing else was used for its task"
    assert went(EntryId("nobody"), (first,)).tasks == 0
    assert recipes(EntryId("a1"), (first, second)) == {OWN: (3, 4), RIDGE: (1, 1)}
