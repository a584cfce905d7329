"""Every task and every source under one small network."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.services.conftest import quick
from tests.services.material import folder, request, task
from workbench.core.context import Context
from workbench.core.values import EntryId, ImageRef, KnowledgeEntry, Preprocess, TaskClass
from workbench.learn.features import FeatureCache
from workbench.project.library import Library
from workbench.services import jobs, probe
from workbench.services import knowledge as known


def make_probe(where: Path) -> Path:
    """An untrained Conv-4 of 16 pixels as the shipped network."""
    itself = known.untrained(Preprocess(16), "conv4-32")
    entry = KnowledgeEntry(
        id=EntryId("probe"),
        name="Probe",
        algorithm="protonet",
        params={},
        backbone="conv4-32",
        preprocess=itself.preprocess,
        ways=(5, 5),
        shots=(1, 1),
        sources=(),
        validation=None,
        weights_sha256="",
        created="2026-01-01T00:00:00+00:00",
    )
    arrays = {n: np.asarray(t.numpy(), order="C") for n, t in known.join_state(itself.state).items()}
    return Library(None).save(entry, arrays, where)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A probe that is installed."""
    jobs.load_runtime(Context())
    path = make_probe(tmp_path / "shipped")
    monkeypatch.setattr(probe, "probe_folder", lambda: path)
    return path


def labelled(classes: tuple[TaskClass, ...]) -> tuple[tuple[ImageRef, ...], torch.Tensor]:
    """Pictures and their classes."""
    return tuple(i for c in classes for i in c.images), torch.tensor(
        [k for k, c in enumerate(classes) for _ in c.images]
    )


def train(source: Path, project: Path, monkeypatch: pytest.MonkeyPatch, ctx: Context | None = None) -> KnowledgeEntry:
    """A run of two episodes."""
    quick(monkeypatch)
    return jobs.train(request(task(source)), project, ctx or Context()).entry


def test_a_task_is_the_same_in_any_order_of_pictures_and_classes(
    installed: Path, classes: tuple[TaskClass, ...], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    images, y = labelled(classes)
    one = probe.represent_task(images, y, cache, Context())
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    turned = probe.represent_task(tuple(images[i] for i in order), torch.tensor([2, 0, 1])[y][order], cache, Context())
    assert one is not None
    assert turned is not None
    assert torch.allclose(one.gaussian.mean, turned.gaussian.mean, atol=1e-5)
    assert torch.allclose(one.gaussian.covariance, turned.gaussian.covariance, atol=1e-5)
    assert torch.allclose(one.metafeatures, turned.metafeatures, atol=1e-9)
    named = dict(zip(probe.NAMES, one.metafeatures, strict=False))
    assert float(named["classes"]) == pytest.approx(np.log2(3))
    assert float(named["shots_fewest"]) == pytest.approx(2), "four examples of each: two doublings"


def test_one_example_of_each_class_gives_finite_numbers(
    installed: Path, classes: tuple[TaskClass, ...], tmp_path: Path
) -> None:
    few = tuple(replace(c, images=c.images[:1]) for c in classes[:1])
    seen = probe.represent_task(*labelled(few), FeatureCache(tmp_path / "cache"), Context())
    assert seen is not None
    for part in (seen.gaussian.mean, seen.gaussian.covariance, seen.metafeatures):
        assert bool(torch.isfinite(part).all())


def test_a_run_leaves_its_sources_as_the_probe_sees_them(
    installed: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = train(pictures / "source", tmp_path / "project", monkeypatch)
    library = Library(tmp_path / "project")
    (source,) = probe.sources_of(entry, library.path_of(entry.id), library)
    assert source.name == "source"
    network = probe.probe()
    assert network is not None
    assert entry.provenance["probe"] == network.digest
    assert entry.provenance["metafeatures"] == list(probe.NAMES)
    assert source.seen.gaussian.n == entry.sources[0].images, "all pictures that were trained on, and no others"
    own = task(pictures / "source").classes
    seen = probe.represent_task(*labelled(own), FeatureCache(tmp_path / "cache"), Context())
    assert seen is not None
    folder(tmp_path / "far", range(90, 93), 6)
    for image in (tmp_path / "far").rglob("*.png"):  # dark pictures, nothing like the source
        Image.fromarray((np.asarray(Image.open(image)) // 8).astype(np.uint8)).save(image)
    far = probe.represent_task(*labelled(task(tmp_path / "far").classes), FeatureCache(tmp_path / "cache"), Context())
    assert far is not None
    ((_, near),) = probe.similarities(seen, (source,))
    ((_, other),) = probe.similarities(far, (source,))
    assert near > 0.9
    assert other < near - 0.3


def test_an_entry_of_another_probe_or_of_none_has_no_sources_here(
    installed: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = train(pictures / "source", tmp_path / "project", monkeypatch)
    library = Library(tmp_path / "project")
    before = replace(entry, provenance={k: v for k, v in entry.provenance.items() if k != "probe"})
    assert probe.sources_of(before, library.path_of(entry.id), library) == ()
    other = replace(entry, provenance=entry.provenance | {"probe": "0" * 64})
    assert probe.sources_of(other, library.path_of(entry.id), library) == ()
    assert len(probe.sources_of(entry, library.path_of(entry.id), library)) == 1
    shutil.rmtree(installed)
    assert probe.probe() is None
    assert probe.sources_of(entry, library.path_of(entry.id), library) == ()
    assert probe.represent_task(*labelled(task(pictures / "teach").classes), known.feature_cache(), Context()) is None


def test_pictures_that_are_gone_are_passed_over_and_what_is_left_is_described(installed: Path, tmp_path: Path) -> None:
    folder(tmp_path / "teach", range(120, 123), 4)
    found = task(tmp_path / "teach")
    for image in found.classes[1].images:
        Path(image.path).unlink()
    Path(found.classes[2].images[0].path).unlink()
    tensors = probe.represent_sources((found,), 0, lambda: False, Context())
    assert int(tensors["probe.0.pictures"]) == 4 + 3
    assert float(tensors["metafeatures.0"][0]) == pytest.approx(1), "two classes are left"


def test_a_run_that_is_stopped_describes_what_it_can_in_half_a_second(
    installed: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_SHORT", 0.0)
    tasks = (task(pictures / "teach"), task(pictures / "query"))
    assert set(probe.represent_sources(tasks, 0, lambda: False, Context())) >= {"probe.0.mean", "probe.1.mean"}
    stopped = probe.represent_sources(tasks, 0, lambda: True, Context())
    assert "probe.1.mean" not in stopped


def test_sources_of_another_width_are_left_out(installed: Path, classes: tuple[TaskClass, ...], tmp_path: Path) -> None:
    seen = probe.represent_task(*labelled(classes), FeatureCache(tmp_path / "cache"), Context())
    assert seen is not None
    narrow = probe.Represented(type(seen.gaussian)(torch.zeros(3), torch.eye(3), 5), seen.metafeatures)
    assert probe.similarities(seen, (probe.ProbedSource("a", narrow), probe.ProbedSource("b", seen))) == (("b", 1.0),)
