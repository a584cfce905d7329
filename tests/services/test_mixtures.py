"""Mixtures of a family: chosen, tried beside the others, written and opened again; and refused where there is none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.services.conftest import quick
from tests.services.material import folder, request, task
from tests.services.test_teaching import ask, id_of, only, pictures_of
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn import functional
from workbench.learn.protocol import Support
from workbench.learn.registry import backbone
from workbench.project.library import Library
from workbench.services import exporting, jobs, knowledge, mixtures, models, predict, teaching
from workbench.services.requests import AdaptRequest, ApplyRequest, ExportRequest
from workbench.transfer import fine_tuning, mixing

CTX = Context()
META_SGD = {"algorithm": "meta-sgd", "params": {"inner_steps": 1, "test_steps": 1, "tasks": 1}}
KEYS = {"entry", "name", "weight", "similarity", "loss"}


@pytest.fixture(scope="module")
def family(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``first``, two ProtoNets that were trained from it, and two Meta-SGDs of a family of their own."""
    project = tmp_path_factory.mktemp("family")
    source = task(pictures / "source")
    other = task(folder(project / "other", range(40, 46), 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(project / "home"))
        patch.setenv("WORKBENCH_THREADS", "1")
        jobs.load_runtime(CTX)
        quick(patch)
        for name, at, changes in (
            ("first", source, {}),
            ("left", source, {"start": "first", "seed": 1}),
            ("right", other, {"start": "first", "seed": 2}),
            ("steps", source, META_SGD),
            ("other steps", other, META_SGD | {"start": "steps", "seed": 3}),
        ):
            jobs.train(request(at, name=name, **changes), project, CTX)
    return project


@pytest.fixture
def related(family: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(family, tmp_path / "project", ignore=shutil.ignore_patterns("home", "runs", "other")))


def taught(project, classes, choice="auto"):
    return teaching.adapt_to(classes, project, choice, knowledge.feature_cache(), CTX, every_step=False)


def alike(monkeypatch, project, **values):
    """Let the survey find these similarities, by the entries' names."""
    found = {id_of(project, name.replace("_", " ")): value for name, value in values.items()}
    monkeypatch.setattr(mixtures, "similarities", lambda _: found)


def steps(monkeypatch, count):
    """Let so many steps be found to help; which examples the search was given."""
    asked = []

    def tune(_network, _trunk, support, _recipe, _ctx, *, groups):
        asked.append((support.y.tolist(), list(groups)))
        return SimpleNamespace(steps=count)

    monkeypatch.setattr(fine_tuning, "tune", tune)
    mixtures._forget()
    return asked


def test_the_mixture_is_the_weighted_mean_of_the_family(related, classes, monkeypatch) -> None:
    alike(monkeypatch, related, left=0.4, right=0.3)
    steps(monkeypatch, 0)
    found = taught(related, classes, "similarity")
    mixed = mixtures.parts(found.seen.knowledge.entry)
    assert [p["name"] for p in mixed] == ["left", "right", "first"]
    raised = torch.softmax(torch.tensor([4.0, 3.0, 1.0], dtype=torch.float64), 0)
    assert [p["weight"] for p in mixed] == pytest.approx(raised.tolist())
    assert found.seen.knowledge.name == "Mix of left and right"
    assert found.strategy == "mixture by similarity"
    library = Library(related)
    states = [knowledge.load(*library.find(p["name"]), library).state for p in mixed]
    trunks = [functional.under(state.learned)["0.conv.weight"] for state in states]
    mean = sum(w * t.double() for w, t in zip(raised, trunks, strict=True))
    got = found.seen.knowledge.state.learned["trunk.0.conv.weight"]
    torch.testing.assert_close(got.double(), mean, rtol=1e-5, atol=1e-7)
    assert not torch.equal(got, trunks[0])


def test_a_mixture_that_was_asked_for_is_fine_tuned_and_judged_by_what_was_tuned_without_the_part(
    related, classes, monkeypatch
) -> None:
    """The network that is used has learnt from all examples, each that answers about one from those of other parts."""
    alike(monkeypatch, related, left=0.4, right=0.3)
    untouched = steps(monkeypatch, 3)
    taught(related, classes)
    assert untouched == [], "as one of many candidates it is not tuned"
    asked = steps(monkeypatch, 3)
    found = taught(related, classes, "similarity")
    images = [i for c in classes for i in c.images]
    assert asked == [([0] * 4 + [1] * 4 + [2] * 4, [i.sha256 for i in images])]
    seen = found.seen
    k, y = seen.knowledge, seen.support.y
    assert k.name == "Mix of left and right, fine-tuned by 3 steps"
    setting = k.algorithm.setting
    network = backbone(setting.backbone).skeleton(setting.channels, setting.size)
    x = knowledge.to_tensor(tuple(images), k.preprocess)
    library = Library(related)
    parts = {
        p["entry"] if p["name"] != "first" else mixing.NULL: (p["weight"], p["name"]) for p in mixtures.parts(k.entry)
    }
    states = {i: knowledge.load(*library.find(name), library) for i, (_, name) in parts.items()}
    trunks = {i: mixing.trunk_of(network, s.state, i, mixtures._mark(s)) for i, s in states.items()}
    family = mixing.Family(trunks.pop(mixing.NULL), tuple(trunks.values()))
    start = mixing.mixed(family, {i: w for i, (w, _) in parts.items()}).trunk

    def tuned(rows):
        how = fine_tuning.Recipe(pictures=mixing.PICTURES)
        return fine_tuning.after(network, start, Support(x[rows], y[rows], 3), how, 3, CTX)

    whole = tuned(torch.ones(12, dtype=torch.bool))
    got = mixing.trunk_of(network, k.state, "got")
    for n, t in whole.tensors.items():
        torch.testing.assert_close(got.tensors[n], t, rtol=1e-4, atol=1e-6)
    assert not torch.equal(got.parameters["0.conv.weight"], start.parameters["0.conv.weight"])
    for i, logits in zip(seen.left_out.rows.tolist(), seen.left_out.logits, strict=True):
        rest = torch.arange(12) % 4 != i % 4
        other = tuned(rest)
        with torch.no_grad():
            f = functional.call(network, other.parameters, other.buffers, x)
            adapted = k.algorithm.adapt(k.state, Support(f[rest], y[rest], 3, f[rest]), CTX)
            expected = k.algorithm.head(k.state, adapted)(f[i : i + 1])[0]
        torch.testing.assert_close(logits.log_softmax(0), expected.log_softmax(0), rtol=2e-3, atol=2e-3)


def test_left_out_examples_have_no_share_in_the_mixtures_running_averages(related, classes, monkeypatch) -> None:
    """Its answers are those of the mixture that is made of the other examples alone, asked in the same parts."""
    alike(monkeypatch, related, left=0.4, right=0.3)
    steps(monkeypatch, 0)
    seen = taught(related, classes, "similarity").seen
    assert seen.made is not None
    k, y = seen.knowledge, seen.support.y
    x = knowledge.to_tensor(tuple(i for c in classes for i in c.images), k.preprocess)
    differs = 0.0
    for i, logits in zip(seen.left_out.rows.tolist(), seen.left_out.logits, strict=True):
        rest = torch.arange(12) % 4 != i % 4
        made = seen.made.make(rest)
        own = made.algorithm.trunk(made.state)
        assert own is not None
        torch.testing.assert_close(seen.made.see(rest), own(x), rtol=1e-4, atol=1e-5)
        for trunk, same in ((own, True), (k.trunk, False)):
            f = trunk(x)
            adapted = made.algorithm.adapt(made.state, Support(f[rest], y[rest], 3, f[rest]), CTX)
            gap = logits - made.algorithm.head(made.state, adapted)(f[i : i + 1])[0]
            if same:
                assert float(gap.detach().abs().max()) < 1e-3
            else:
                differs = max(differs, float(gap.detach().abs().max()))
    assert differs > 2e-3


def test_where_nothing_resembles_the_task_it_is_the_ancestor(related, classes, monkeypatch) -> None:
    alike(monkeypatch, related, left=0.05, right=0.0)
    steps(monkeypatch, 0)
    found = taught(related, classes, "similarity")
    assert [(p["name"], p["weight"]) for p in mixtures.parts(found.seen.knowledge.entry)] == [("first", 1.0)]
    library = Library(related)
    first = knowledge.load(*library.find("first"), library).state.learned
    assert all(torch.equal(t, first[n]) for n, t in found.seen.knowledge.state.learned.items())
    assert mixing.NULL not in {c.entry for c in taught(related, classes).candidates}


def test_step_sizes_are_mixed_with_the_same_weights(related, classes, monkeypatch) -> None:
    alike(monkeypatch, related, other_steps=0.3, left=0.9)
    found = taught(related, classes, "optimiser")
    k = found.seen.knowledge
    assert k.algorithm.info.key == "meta-sgd"
    assert found.strategy == "mixture of step sizes by similarity"
    mixed = mixtures.parts(k.entry)
    assert [p["name"] for p in mixed] == ["other steps", "steps"]
    library = Library(related)
    name = next(n for n in k.state.learned if n.startswith("alpha."))
    for n in (name, "trunk.0.conv.weight"):
        parts = [knowledge.load(*library.find(p["name"]), library).state.learned[n].double() for p in mixed]
        mean = sum(p["weight"] * t for p, t in zip(mixed, parts, strict=True))
        torch.testing.assert_close(k.state.learned[n].double(), mean, rtol=1e-5, atol=1e-7)


def test_a_mixture_is_one_more_candidate_under_the_gate(related, classes, monkeypatch) -> None:
    alike(monkeypatch, related, left=0.4, right=0.3, other_steps=0.3)
    found = taught(related, classes)
    assert {"similarity", "optimiser"} <= {c.entry for c in found.candidates}
    assert "similarity" not in {c.entry for c in taught(related, classes, "recipes").candidates}
    again = taught(related, classes)
    assert taught(related, classes) is again, "asked again, nothing is mixed or adapted anew"
    few = tuple(replace(c, images=c.images[:1]) for c in classes)
    assert not {"similarity", "optimiser"} & {c.entry for c in taught(related, few).candidates}
    assert taught(related, few, "similarity").seen.knowledge.id == "similarity"


@pytest.mark.parametrize("way", ["similarity", "optimiser"])
def test_what_is_written_opens_again_and_answers_alike(
    related, classes, queries, pictures, tmp_path, way, monkeypatch
) -> None:
    steps(monkeypatch, 2)
    out = tmp_path / "model"
    made = jobs.adapt(AdaptRequest("auto", str(pictures / "teach"), str(out), by=way), related, CTX)
    chosen = made["chosen"]
    assert chosen["entry"] == way
    assert all(set(w) == KEYS for w in chosen["weights"])
    assert sum(w["weight"] for w in chosen["weights"]) == pytest.approx(1)
    assert {w["entry"] for w in chosen["weights"]} <= {e.id for e in Library(related).entries()}
    asked = pictures_of(queries)
    shown = ask(task(pictures / "teach").classes, related, asked, way)
    opened = models.open_model(out)
    assert opened.manifest.strategy == chosen["strategy"]
    applied = predict.apply(ApplyRequest(str(out), (str(pictures / "query"),)), related, CTX)
    there = {p.image.sha256: p.probabilities for p in applied.predictions}
    for p in shown.steps[-1]:
        assert p.probabilities == pytest.approx(there[p.image.sha256], abs=1e-4)
    assert exporting.export(ExportRequest(str(out), "onnx", str(tmp_path / "onnx")), related, CTX).verified


def test_what_cannot_be_mixed_is_refused_in_a_sentence(related, classes, pictures, tmp_path, monkeypatch) -> None:
    asked = AdaptRequest(id_of(related, "left"), str(pictures / "teach"), str(tmp_path / "m"), by="similarity")
    with pytest.raises(WorkbenchError, match="as well"):
        jobs.adapt(asked, related, CTX)
    family = only(related, "first", "left", "right")
    with pytest.raises(WorkbenchError, match="learnt step sizes"):
        ask(classes, family, choice="optimiser")
    alike(monkeypatch, related, left=0.4, right=0.3)
    stranger(family)
    with pytest.raises(WorkbenchError, match="numbered differently"):
        ask(classes, family, choice="similarity")
    assert not {"similarity", "optimiser"} & {c.entry for c in ask(classes, family).candidates}
    with pytest.raises(WorkbenchError, match="only such a family can be mixed"):
        ask(classes, only(related, "first"), choice="similarity")


def stranger(project: Path) -> None:
    """Let ``left`` and ``right`` come from another network than the one that they name."""
    library = Library(project)
    for name in ("left", "right"):
        entry, path = library.find(name)
        tensors = library.load_tensors(path)
        shutil.rmtree(path)
        library.save(replace(entry, provenance=entry.provenance | {"ancestor": "0" * 64}), tensors)
