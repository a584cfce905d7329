"""Group these: unlabelled pictures in groups that are those of the labels nobody showed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.services.conftest import quick
from tests.services.material import folder, request, task
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.values import EntryId, ImageRef
from workbench.learn import clusters
from workbench.project.library import Library
from workbench.services import jobs
from workbench.services.grouping import group
from workbench.services.requests import Grouped, GroupRequest
from workbench.services.resembling import Resembled
from workbench.services.train import train


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``source``: six kinds to learn from; ``flat``: four other kinds of eight in one folder."""
    root = tmp_path_factory.mktemp("grouping")
    folder(root / "source", range(6), 6)
    folder(root / "kinds", range(20, 24), 8)
    (root / "flat").mkdir()
    for path in (root / "kinds").glob("*/*.png"):
        (root / "flat" / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    return root


def loose(places: Path) -> tuple[ImageRef, ...]:
    (found,) = jobs.scan((str(places / "flat"),), Context()).tasks
    return found.unlabelled


def agreement(found: Grouped) -> float:
    pairs = [(int(i.name[1:3]), at) for at, g in enumerate(found.groups) for i in g.images]
    kinds, at = zip(*pairs, strict=True)
    return clusters.adjusted_rand(torch.tensor(kinds), torch.tensor(at))


def test_the_groups_are_the_kinds_that_nobody_named(places: Path, tmp_path: Path) -> None:
    images = loose(places)
    found = group(GroupRequest(images, count=4, suggest=True), tmp_path, Context(seed=1))
    assert agreement(found) == 1.0
    assert [len(g.images) for g in found.groups] == [8, 8, 8, 8]
    assert {i.sha256 for g in found.groups for i in g.images} == {i.sha256 for i in images}
    assert found.entry == "", "nothing was learnt yet, and that is said"
    assert found.suggested == max(found.silhouettes, key=lambda k: found.silhouettes[k])
    again = group(GroupRequest(images, count=4, suggest=True), tmp_path, Context(seed=1))
    assert again == found


def test_a_number_that_was_asked_for_is_not_looked_for(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "suggested", lambda *_: pytest.fail("other numbers were tried"))
    found = group(GroupRequest(loose(places), count=4), tmp_path, Context(seed=1))
    assert agreement(found) == 1.0
    assert (found.suggested, found.silhouettes) == (None, {})


def test_of_all_entries_the_one_is_used_that_the_pictures_resemble(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def order(images: tuple[ImageRef, ...], library: Library, ctx: Context) -> tuple[Resembled, ...]:
        asked.append(len(images))
        likely = [e.id for e in library.entries() if e.name == "b"] + [e.id for e in library.entries()]
        return (Resembled(EntryId("gone"), "", 0.9, by_probe=True), *(Resembled(i, "", 0.5, True) for i in likely))

    quick(monkeypatch)
    for name in "abc":
        train(request(task(places / "source"), name=name), tmp_path, Context())
    monkeypatch.setattr("workbench.services.grouping.resembling", order)
    assert group(GroupRequest(loose(places), count=4), tmp_path, Context()).name == "b"
    assert asked == [32], "and what has gone meanwhile is passed over"


def test_as_many_groups_as_asked_for_by_the_knowledge_asked_for(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    entry = train(request(task(places / "source")), tmp_path, Context()).entry
    images = loose(places)
    for asked in (entry.id, ""):
        found = group(GroupRequest(images, asked, 6), tmp_path, Context())
        assert found.entry == entry.id
        assert found.name == entry.name
        assert len(found.groups) == 6
    suggested = group(GroupRequest(images), tmp_path, Context())
    assert len(suggested.groups) == suggested.suggested
    with pytest.raises(WorkbenchError, match="nobody"):
        group(GroupRequest(images, "nobody"), tmp_path, Context())


def test_pictures_that_cannot_be_read_are_left_out_and_counted(places: Path, tmp_path: Path) -> None:
    images = loose(places)
    gone = ImageRef(str(tmp_path / "gone.png"), "", "0" * 64, 10, 16, 16)
    found = group(GroupRequest((gone, *images[:9], images[0])), tmp_path, Context())
    assert found.left_out == 1
    assert sum(len(g.images) for g in found.groups) == 9, "one that stands twice is one picture"
    with pytest.raises(WorkbenchError, match="2 of them can be read"):
        group(GroupRequest((gone, *images[:2])), tmp_path, Context())


def test_a_stop_is_heeded(places: Path, tmp_path: Path) -> None:
    ctx = Context()
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        group(GroupRequest(loose(places)), tmp_path, ctx)
