"""What pictures without labels resemble, as the choice in Teach sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.material import folder, task
from tests.services.test_probe import installed as installed
from tests.services.test_probe import train
from workbench.core.context import Context
from workbench.core.values import EntryId, ImageRef
from workbench.learn.features import FeatureCache
from workbench.project.library import Library
from workbench.services import probe
from workbench.services.experience import experience
from workbench.services.resembling import resembling


@pytest.fixture
def two(
    installed: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Library, EntryId, EntryId]:
    """An entry that was trained on ``source``, and one on other pictures."""
    folder(tmp_path / "other", range(60, 66), 5)
    near = train(pictures / "source", tmp_path / "project", monkeypatch)
    far = train(tmp_path / "other", tmp_path / "project", monkeypatch)
    return Library(tmp_path / "project"), near.id, far.id


def images_of(where: Path) -> tuple[ImageRef, ...]:
    return tuple(i for c in task(where).classes for i in c.images)


def test_figures_are_those_of_the_choice_in_teach(
    two: tuple[Library, EntryId, EntryId], pictures: Path, tmp_path: Path
) -> None:
    library, near, far = two
    found = resembling(images_of(pictures / "source"), library, Context())
    assert [(r.entry, r.source, r.by_probe) for r in found] == [(near, "source", True), (far, "other", True)]
    assert found[0].similarity > 0.99, "the very same pictures"
    past = experience(tmp_path / "project", task(pictures / "source").classes, FeatureCache(tmp_path / "c"), Context())
    known = {e: pairs[0][1] for e, pairs in past.similarities.items()}
    assert {r.entry: r.similarity for r in found} == pytest.approx(known, abs=1e-5)


def test_what_only_its_own_network_can_measure_never_comes_first(
    two: tuple[Library, EntryId, EntryId], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, near, far = two
    measured = probe.sources_of
    monkeypatch.setattr(probe, "sources_of", lambda e, *rest: () if e.id == near else measured(e, *rest))
    found = resembling(images_of(pictures / "source"), library, Context())
    assert [(r.entry, r.by_probe) for r in found] == [(far, True), (near, False)]
    assert found[1].similarity > found[0].similarity, "the figure itself is as it was measured"


def test_pictures_and_entries_that_cannot_be_read_are_passed_over(
    two: tuple[Library, EntryId, EntryId], pictures: Path, tmp_path: Path
) -> None:
    library, near, far = two
    gone = ImageRef(str(tmp_path / "gone.png"), "", "0" * 64, 10, 16, 16)
    images = images_of(pictures / "source")
    assert resembling((gone, *images), library, Context()) == resembling(images, library, Context())
    assert resembling((gone,), library, Context()) == ()
    for file in library.path_of(near).glob("*.safetensors"):
        file.write_bytes(b"damaged")
    probe._forget()
    assert [r.entry for r in resembling(images, Library(tmp_path / "project"), Context())] == [far]
