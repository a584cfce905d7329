"""The starter knowledge: a first prediction without training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workbench.core import paths
from workbench.core.context import Context
from workbench.project.library import Library
from workbench.services import jobs, probe
from workbench.services.teach import TeachRequest

pytestmark = pytest.mark.starter

ABSOLUTE = re.compile(r"(?<![\w.:/])(?:~?/|[A-Za-z]:\\)\w")
"""Where an absolute path begins in a text."""


def test_the_shipped_entries_are_whole_and_name_no_machine() -> None:
    library = Library(None)
    entries = library.entries()
    assert {e.name for e in entries} == {"Starter: drawn characters", "Starter: surfaces", "Starter: Omniglot"}
    assert not library.problems
    for entry in entries:
        assert library.load_tensors(entry)
        assert entry.provenance["licence"]
        assert entry.provenance["data"]
        assert entry.provenance["command"].startswith("uv run workbench train ")
        assert not ABSOLUTE.search(str(entry))
        assert all(s.path.startswith("samples/") or s.path == "omniglot28_background.zip" for s in entry.sources)
        assert len(probe.sources_of(entry, library.path_of(entry.id), library)) == len(entry.sources)
        assert all(len(s.class_names) == s.classes for s in entry.sources)
        assert entry.validation is not None


@pytest.mark.parametrize(
    ("kind", "expected", "floor"), [("characters", ("drawn", "Omniglot"), 0.8), ("surfaces", ("surfaces",), 0.45)]
)
def test_three_examples_are_enough_for_a_first_prediction(
    kind: str, expected: tuple[str, ...], floor: float, tmp_path: Path
) -> None:
    ctx = Context()
    folder = paths.samples() / "teach" / kind
    (support,) = jobs.scan((str(folder / "support"),), ctx).tasks
    (query,) = jobs.scan((str(folder / "query"),), ctx).tasks
    few = tuple(type(c)(c.name, c.images[:3]) for c in support.classes)
    asked = tuple(i for c in query.classes for i in c.images)
    result = jobs.teach(TeachRequest(1, few, asked), tmp_path, ctx)
    chosen = next(c for c in result.candidates if c.chosen)
    assert any(word in chosen.name for word in expected)
    truth = [k for k, c in enumerate(query.classes) for _ in c.images]
    right = sum(p.best == t for p, t in zip(result.steps[-1], truth, strict=True)) / len(truth)
    assert right >= floor, "five classes: chance is 0.2"
