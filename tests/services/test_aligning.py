"""Knowledge aligned with another domain: what is used of it, what is kept, and what is claimed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.services.conftest import quick
from tests.services.material import folder, request, task
from workbench.__main__ import main
from workbench.cli.learn_commands import aligned_lines
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.training import TrainRequest
from workbench.core.values import Task
from workbench.learn import domain, recoloured
from workbench.learn.registry import backbone
from workbench.project import runs
from workbench.project.library import Library
from workbench.project.lineage import lineage
from workbench.services import aligning, aligning_report, jobs, probe
from workbench.services import knowledge as known
from workbench.services.continuing import continued
from workbench.services.train import train
from workbench.transfer import mixing


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``source`` and ``target`` (the same, darker and flatter), labelled; ``flat``: without labels."""
    root = tmp_path_factory.mktemp("aligning")
    folder(root / "source", range(6), 6)
    folder(root / "target", range(6), 8, first=100)
    (root / "flat").mkdir()
    for i, path in enumerate(sorted((root / "target").glob("*/*.png"))):
        dark = Image.fromarray((np.asarray(Image.open(path)) // 3 + 10).astype(np.uint8))
        dark.save(path)
        dark.save(root / "flat" / f"{i}.png")
    return root


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    monkeypatch.setattr(aligning_report, "_EPISODES", 12)


@pytest.fixture
def entry(places: Path, tmp_path: Path, _quick: None) -> str:
    return train(request(task(places / "source"), seed=3), tmp_path, Context()).entry.id


def flat(where: Path) -> Task:
    (found,) = jobs.scan((str(where),), Context()).tasks
    return found


def aligned(places: Path, entry: str, method: str, where: str = "target", **changes: object) -> TrainRequest:
    target = (flat(places / where),)
    options = {"episodes": None} if method in ("adabn", "coral") and "episodes" not in changes else {}
    return request(task(places / "source"), start=entry, target=target, align=method, **options, **changes)


def test_adabn_gives_a_new_entry_whose_statistics_are_the_targets(places, entry, tmp_path):
    library = Library(tmp_path)
    old, path = library.find(entry)
    result = train(aligned(places, entry, "adabn"), tmp_path, Context())
    before, after = library.load_tensors(path), library.load_tensors(Path(result.entry_path))
    moved = {n for n in before if not np.array_equal(before[n], after[n])}
    assert moved == {n for n in before if "running_" in n}, "nothing but the statistics"
    assert {n.split(".")[0] for n in after.keys() - before.keys()} == {"probe", "metafeatures"}, "where the target lies"
    assert not before.keys() - after.keys()
    assert result.entry.id != entry
    assert result.entry.validation is None, "its figure was of the old domain"
    assert result.entry.calibration == old.calibration
    record = result.entry.provenance["aligned"]
    assert record["method"] == "adabn"
    assert record["pictures"] == 24, "half of each class, as if it had no labels"
    assert record["held_out"]["episodes"] == 12
    assert runs.read_run(tmp_path / "runs" / result.run).entry == result.entry.id
    taken = known.load(result.entry, Path(result.entry_path), library)
    assert taken.trunk is not None


def test_adabn_on_the_sources_own_pictures_is_the_same_network_again(places, entry, tmp_path):
    """Aligned with one folder twice, the second time changes nothing."""
    once = train(aligned(places, entry, "adabn"), tmp_path, Context())
    twice = train(aligned(places, once.entry.id, "adabn"), tmp_path, Context())
    library = Library(tmp_path)
    a, b = (library.load_tensors(Path(r.entry_path)) for r in (once, twice))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_coral_gives_the_targets_features_the_covariance_of_the_sources(places, entry, tmp_path):
    library, ctx = Library(tmp_path), Context()
    result = train(aligned(places, entry, "coral", "flat"), tmp_path, ctx)
    assert result.entry.backbone == "conv4-32" + recoloured.SUFFIX
    assert result.entry.provenance["aligned"]["held_out"] is None, "no labels, no accuracy"
    old = known.load(*library.find(entry), library)
    new = known.load(result.entry, Path(result.entry_path), library)
    cache = known.feature_cache()
    images = flat(places / "flat").unlabelled
    source = tuple(i for c in task(places / "source").classes for i in c.images)
    f, g = known.embed(old, images, cache, ctx), known.embed(new, images, cache, ctx)
    given, wanted = domain.spread(f), domain.spread(known.embed(old, source, cache, ctx))
    expected = (f.double() - given.mean) @ given.power(-0.5) @ wanted.power(0.5) + wanted.mean
    torch.testing.assert_close(g.double(), expected, rtol=1e-3, atol=1e-3)
    again = train(aligned(places, result.entry.id, "coral", "flat"), tmp_path, ctx)
    assert again.entry.backbone == result.entry.backbone, "two layers are one"


def test_coral_aligned_knowledge_is_taught_exported_and_trained_on(places, entry, tmp_path):
    result = train(aligned(places, entry, "coral"), tmp_path, Context())
    out = tmp_path / "model"
    assert main(["adapt", result.entry.id, str(places / "target"), "--out", str(out), "--project", str(tmp_path)]) == 0
    made = tmp_path / "onnx"
    assert main(["export", str(out), "--format", "onnx", "--out", str(made), "--project", str(tmp_path)]) == 0
    further = train(request(task(places / "source"), start=result.entry.id), tmp_path, Context())
    assert further.entry.backbone == "conv4-32"


@pytest.mark.parametrize("method", ["mmd", "dann", "coral"])
def test_a_penalty_of_training_says_what_it_did(places, entry, tmp_path, method):
    asked = aligned(places, entry, method, episodes=3)
    assert not asked.closed_form
    result = train(asked, tmp_path, Context())
    record = result.entry.provenance["aligned"]
    assert record["method"] == method
    assert 0 <= record["separation"]["after"] <= 1
    assert record["held_out"]["episodes"] == 12
    names = {m.name for m in runs.read_metrics(tmp_path / "runs" / result.run)}
    assert {"train/align/told_apart" if method == "dann" else f"train/align/{method}"} <= names
    arrays = Library(tmp_path).load_tensors(Path(result.entry_path))
    assert not any("keep." in n for n in arrays), "what the run remembers is no part of the entry"
    assert runs.read_request(tmp_path / "runs" / result.run) == asked


@pytest.mark.parametrize(("method", "changes"), [("adabn", {}), ("coral", {}), ("mmd", {"episodes": 3})])
def test_aligned_knowledge_is_found_for_pictures_of_its_target(places, entry, tmp_path, method, changes):
    """Under the probe, which sees pictures as they are, it would resemble the target as little as before."""
    result = train(aligned(places, entry, method, "flat", **changes), tmp_path, Context())
    library, cache, ctx = Library(tmp_path), known.feature_cache(), Context()
    classes = [c.images[-2:] for c in task(places / "target").classes]
    images = tuple(i for some in classes for i in some)
    seen = probe.represent_task(images, torch.arange(len(classes)).repeat_interleave(2), cache, ctx)
    assert seen is not None
    before, after = (
        dict(probe.similarities(seen, probe.sources_of(e, library.path_of(e.id), library)))
        for e in (library.find(entry)[0], result.entry)
    )
    assert after.keys() - before.keys() == {"flat"}
    assert after["source"] == pytest.approx(before["source"], abs=0.2)
    assert after["flat"] > before["source"] + 0.2


def test_the_card_of_aligned_knowledge_tells_of_itself(places, entry, tmp_path):
    folder(places / "more", range(10, 16), 6)
    asked = request(task(places / "more"), start=entry, keep="l2", name="second", seed=3)
    second = train(asked, tmp_path, Context()).entry
    result = train(aligned(places, "second", "adabn"), tmp_path, Context())
    p, library = result.entry.provenance, Library(tmp_path)
    assert [a.entry for a in lineage(result.entry, library.entries())] == [second.id, entry]
    assert not p.keys() & {"kept", "validation_kind"}, "figures of another network"
    path = library.find("second")[1]
    held = known.load(second, path, library)
    setting = held.algorithm.setting
    network = backbone(setting.backbone).skeleton(setting.channels, setting.size)
    assert p["ancestor"] == mixing.trunk_of(network, held.state, "second").digest
    c = continued(request(task(places / "source"), start=result.entry.id, keep="none"), tmp_path, Context())
    assert c is not None
    assert [s.name for s in c.old] == ["more", "source"], "what was learnt before is not forgotten on the way"


def test_a_report_that_cannot_be_made_does_not_lose_what_was_learnt(places, entry, tmp_path):
    class Losing(Context):
        def status(self, text: str) -> None:
            super().status(text)
            if text == "Saving what was learnt":
                shutil.rmtree(Library(tmp_path).find(entry)[1])

    result = train(aligned(places, entry, "mmd", episodes=3, name="kept"), tmp_path, Losing())
    record = result.entry.provenance["aligned"]
    assert Library(tmp_path).find("kept")[0].id == result.entry.id
    assert record["held_out"] is None
    assert record["unmeasured"] in list(aligned_lines(record))[1]


def test_labels_of_the_target_change_nothing_but_the_report(places, entry, tmp_path):
    labelled = flat(places / "target")
    names = [c.name for c in labelled.classes]
    shuffled = replace(
        labelled, classes=tuple(replace(c, name=n) for c, n in zip(labelled.classes, names[::-1], strict=True))
    )
    library = Library(tmp_path)
    found = []
    for target in (labelled, shuffled):
        asked = replace(aligned(places, entry, "adabn"), target=(target,), seed=5)
        found.append(library.load_tensors(Path(train(asked, tmp_path, Context()).entry_path)))
    assert all(np.array_equal(found[0][n], found[1][n]) for n in found[0])
    divided = aligning.divided((labelled,), 1)
    held = {i.sha256 for t in divided.held for c in t.classes for i in c.images}
    assert held
    assert held.isdisjoint(i.sha256 for i in divided.images), "what is measured on is not aligned with"


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("adabn", {"start": ""}, "no knowledge to align"),
        ("adabn", {"target": ()}, "no target was given"),
        ("adabn", {"start": "nobody"}, "nobody"),
    ],
)
def test_what_cannot_be_aligned_is_refused_before_anything_is_read(places, entry, tmp_path, method, changes, said):
    with pytest.raises(WorkbenchError, match=said):
        train(replace(aligned(places, entry, method), **changes), tmp_path, Context())


@pytest.mark.usefixtures("_quick")
def test_knowledge_that_keeps_no_statistics_has_none_to_replace(places, tmp_path):
    maml = train(request(task(places / "source"), algorithm="maml"), tmp_path, Context()).entry.id
    with pytest.raises(WorkbenchError, match="no statistics to replace"):
        train(aligned(places, maml, "adabn"), tmp_path, Context())
    with pytest.raises(WorkbenchError, match="no one covariance"):
        train(aligned(places, maml, "coral"), tmp_path, Context())


def test_the_command_line_aligns_and_says_what_came_of_it(places, entry, tmp_path, capsys):
    options = ["--project", str(tmp_path), "--json"]
    command = ["train", str(places / "source"), "--from", entry, "--align", "adabn", "--target"]
    assert main([*command, str(places / "target"), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["algorithm"] == "protonet"
    assert found["episodes"] == 0
    assert found["aligned"]["held_out"]["before"] >= 0
    assert main([*command, str(places / "flat"), "--project", str(tmp_path)]) == 0
    assert "no accuracy is claimed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--target", "t", "--from", "e"], "belong together"),
        (["--align", "adabn", "--from", "e"], "belong together"),
        (["--align", "adabn", "--target", "t"], "--from ENTRY"),
        (["--align", "adabn", "--target", "t", "--from", "e", "--episodes", "3"], "needs no training"),
        (["--align", "dann", "--target", "t", "--from", "e"], "--algorithm"),
        (["--align", "mmd", "--target", "t", "--from", "e", "--algorithm", "protonet"], "--episodes --minutes"),
        (["--align", "magic", "--target", "t", "--from", "e"], "invalid choice"),
    ],
)
def test_usage_that_makes_no_sense_is_refused_in_one_sentence(given, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "x", *given])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
