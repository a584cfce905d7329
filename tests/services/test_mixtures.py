"""Mixtures of a family: chosen, tried beside the others, written and opened again; and refused where there is none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.services.conftest import quick
from tests.services.material import folder, request, task
from tests.services.test_teaching import ask, id_of, only, pictures_of
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.learn import functional
from workbench.learn.calibrate import task_temperatures
from workbench.learn.leaving_out import HeldOut
from workbench.learn.protocol import Support
from workbench.learn.registry import backbone
from workbench.project.library import Library
from workbench.services import exporting, jobs, knowledge, looks, made, mixtures, models, predict, teaching, tuning
from workbench.services.requests import AdaptRequest, ApplyRequest, ExportRequest
from workbench.transfer import fine_tuning, mixing, recipes

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


def forget():
    mixtures._forget()
    looks._forget()
    teaching._forget()


def steps(monkeypatch, count):
    """Let so many steps be found to help; the left-out losses that this was asked of."""
    asked = []
    monkeypatch.setattr(mixtures, "_HOW", replace(mixtures._HOW, steps=(0, count) if count else (0, 1)))
    monkeypatch.setattr(tuning, "helping", lambda losses: asked.append(losses) or count)
    forget()
    return asked


def start_of(project, seen, classes):
    """The mixture as it was before it was tuned, its skeleton, and the examples."""
    k = seen.knowledge
    setting = k.algorithm.setting
    network = backbone(setting.backbone).skeleton(setting.channels, setting.size)
    x = knowledge.to_tensor(tuple(i for c in classes for i in c.images), k.preprocess)
    library = Library(project)
    parts = {
        p["entry"] if p["name"] != "first" else mixing.NULL: (p["weight"], p["name"]) for p in mixtures.parts(k.entry)
    }
    states = {i: knowledge.load(*library.find(name), library) for i, (_, name) in parts.items()}
    trunks = {i: mixing.trunk_of(network, s.state, i, mixtures._mark(s)) for i, s in states.items()}
    family = mixing.Family(trunks.pop(mixing.NULL), tuple(trunks.values()))
    return network, mixing.mixed(family, {i: w for i, (w, _) in parts.items()}).trunk, x


def tuned_on(start, y, rows, how, count):
    network, trunk, x = start
    (after,) = fine_tuning.along(network, trunk, Support(x[rows], y[rows], 3), how, (count,), CTX)
    with torch.no_grad():
        return after, functional.call(network, after.parameters, after.buffers, x)


def own_losses(start, seen, how, count):
    """Log-loss of each example under the mixture's own head, tuned without one of every class, fitted without it."""
    k, y = seen.knowledge, seen.support.y
    logits = torch.zeros(12, 3, dtype=torch.float64)
    for part in range(4):
        _, f = tuned_on(start, y, torch.arange(12) % 4 != part, how, count)
        for i in range(part, 12, 4):
            rest = torch.arange(12) != i
            adapted = k.algorithm.adapt(k.state, Support(f[rest], y[rest], 3, f[rest]), CTX)
            with torch.no_grad():
                logits[i] = k.algorithm.head(k.state, adapted)(f[i : i + 1])[0]
    nothing = HeldOut(y[:0], torch.zeros(0, 3), None)
    near = task_temperatures(nothing, y, 3, k.figures["temperature"]).answers
    return recipes.judged(recipes.LeftOut(torch.arange(12), logits[None]), y, near).losses.tolist()


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
    found = taught(related, classes, "similarity")
    assert [set(losses) for losses in untouched] == [{0, 3}]
    seen, how = found.seen, mixtures._HOW
    k, y = seen.knowledge, seen.support.y
    assert k.name == "Mix of left and right, fine-tuned by 3 steps"
    start = start_of(related, seen, classes)
    for n, losses in untouched[0].items():
        assert losses == pytest.approx(own_losses(start, seen, how, n), rel=1e-2, abs=2e-3)
    whole, _ = tuned_on(start, y, torch.ones(12, dtype=torch.bool), how, 3)
    got = mixing.trunk_of(start[0], k.state, "got")
    for n, t in whole.tensors.items():
        torch.testing.assert_close(got.tensors[n], t, rtol=1e-4, atol=1e-6)
    assert not torch.equal(got.parameters["0.conv.weight"], start[1].parameters["0.conv.weight"])
    for i, logits in zip(seen.left_out.rows.tolist(), seen.left_out.logits, strict=True):
        rest = torch.arange(12) % 4 != i % 4
        _, f = tuned_on(start, y, rest, how, 3)
        with torch.no_grad():
            adapted = k.algorithm.adapt(k.state, Support(f[rest], y[rest], 3, f[rest]), CTX)
            expected = k.algorithm.head(k.state, adapted)(f[i : i + 1])[0]
        torch.testing.assert_close(logits.log_softmax(0), expected.log_softmax(0), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("lr", [0.05, 0.3])
def test_the_number_of_steps_is_the_one_that_helps_the_head_that_answers(related, classes, monkeypatch, lr) -> None:
    """Whatever a linear head that is tuned with the network would gain."""
    alike(monkeypatch, related, left=0.4, right=0.3)
    how = replace(mixtures._HOW, lr=lr, steps=(0, 5))
    monkeypatch.setattr(mixtures, "_HOW", how)
    forget()
    seen = taught(related, classes, "similarity").seen
    start, y = start_of(related, seen, classes), seen.support.y
    losses = {n: own_losses(start, seen, how, n) for n in how.steps}
    assert seen.knowledge.entry.provenance["tuned"] == tuning.helping(losses)
    linear = fine_tuning.tune(start[0], start[1], Support(start[2], y, 3), how, CTX).steps
    assert (linear, tuning.helping(losses)) == ((5, 0) if lr == 0.05 else (0, 0)), "they do not always say the same"


def test_the_estimate_is_lowered_for_the_numbers_of_steps_it_was_picked_from(related, classes, monkeypatch) -> None:
    alike(monkeypatch, related, left=0.4, right=0.3)
    for count in (0, 3):
        steps(monkeypatch, count)
        found = taught(related, classes, "similarity")
        assert found.picked_from == 2
        plain, lowered = found.seen.estimate(1), found.estimate()
        assert lowered.low < plain.low
        assert "picked from 2" in lowered.how
    few = tuple(replace(c, images=c.images[:1]) for c in classes)
    assert taught(related, few, "similarity").picked_from == 1


def test_tuning_stops_within_a_step_and_leaves_nothing_half_done(related, classes, monkeypatch) -> None:
    alike(monkeypatch, related, left=0.4, right=0.3)
    steps(monkeypatch, 3)
    taken = []
    logits = fine_tuning._logits
    monkeypatch.setattr(fine_tuning, "_logits", lambda *a: taken.append(1) or logits(*a))
    said = []

    def stop(ctx):
        said.append(ctx.status_text)
        if taken:
            ctx.cancel()

    ctx = Context(on_change=stop)
    with pytest.raises(JobCancelledError):
        teaching.adapt_to(classes, related, "similarity", knowledge.feature_cache(), ctx, every_step=False)
    assert "Fine-tuning the mixture without a part of the examples" in said
    assert len(taken) == 3, "the first part alone"
    seen = taught(related, classes, "similarity").seen
    part = torch.arange(12) > 2
    with pytest.raises(JobCancelledError):
        seen.made.see(part, ctx)
    start = start_of(related, seen, classes)
    _, expected = tuned_on(start, seen.support.y, part, mixtures._HOW, 3)
    torch.testing.assert_close(seen.made.see(part, CTX), expected, rtol=1e-4, atol=1e-5)


def test_what_mixtures_hold_is_counted_and_bounded(related, classes, monkeypatch) -> None:
    """Pictures, mixed weights and features, and of the networks that were made without a part nothing but these."""
    alike(monkeypatch, related, left=0.4, right=0.3)
    steps(monkeypatch, 3)
    seen = taught(related, classes, "similarity").seen
    held = list(looks._held(seen))
    _, trunk, x = start_of(related, seen, classes)
    mixed = sum(t.nbytes for t in trunk.tensors.values())
    size = made.nbytes(held)
    features = 4 * seen.support.x.nbytes
    assert size >= x.nbytes + 2 * mixed + features, "its start, and where it came to"
    assert size <= x.nbytes + 4 * mixed + 3 * features
    seen.made.see(torch.arange(12) > 2, CTX)
    assert made.nbytes(looks._held(seen)) == size + seen.support.x.nbytes
    monkeypatch.setattr(looks, "_REMEMBERED", 2 * size)
    monkeypatch.setattr(mixtures, "_KEPT", 2 * size)
    for n in range(4):
        some = tuple(replace(c, images=c.images[: 2 + n % 3]) for c in classes[: 2 + n // 3])
        taught(related, some, "similarity")
        remembered = looks._remembered.looks
        walked = made.nbytes(t for s in remembered.values() for t in looks._held(s))
        assert walked == remembered.nbytes <= 2 * size
        kept = mixtures._made.mixtures.values()
        assert made.nbytes(t for m in kept for t in mixtures._held(*m)) <= 2 * size


def test_a_mixture_of_what_takes_steps_on_known_features_answers_by_a_ridge_head(
    related, classes, pictures, monkeypatch
) -> None:
    """A Baseline fits its head by steps, which each answer to what is left out and each number of steps would cost."""
    quick(monkeypatch)
    jobs.train(request(task(pictures / "source"), name="base", algorithm="baseline", start="first"), related, CTX)
    alike(monkeypatch, related, base=0.4)
    base = knowledge.load(*Library(related).find("base"), Library(related))
    assert base.cacheable
    assert "gradient-based" in base.algorithm.info.tags
    steps(monkeypatch, 2)
    seen = taught(related, classes, "similarity").seen
    assert seen.knowledge.algorithm.info.key == "ridge"
    assert not seen.gradient_based
    assert [p["name"] for p in mixtures.parts(seen.knowledge.entry)] == ["base", "first"]
    got = functional.under(seen.knowledge.state.memory | seen.knowledge.state.learned)["0.conv.weight"]
    first = knowledge.load(*Library(related).find("first"), Library(related)).state.learned["trunk.0.conv.weight"]
    assert not torch.equal(got, first)


def test_with_very_many_examples_a_mixed_network_is_tried_only_where_it_was_asked_for(
    related, classes, monkeypatch
) -> None:
    """Each part of them is a pass of them all at once."""
    alike(monkeypatch, related, left=0.4, right=0.3, other_steps=0.3)
    steps(monkeypatch, 0)
    monkeypatch.setattr(mixtures, "_TRIED", 11)
    found = taught(related, classes)
    assert "similarity" not in {c.entry for c in found.candidates}
    assert "optimiser" in {c.entry for c in found.candidates}
    assert taught(related, classes, "similarity").seen.knowledge.id == "similarity"


def test_left_out_examples_have_no_share_in_the_mixtures_running_averages(related, classes, monkeypatch) -> None:
    """Its answers are those of the mixture that is made of the other examples alone, asked in the same parts."""
    alike(monkeypatch, related, left=0.4, right=0.3)
    steps(monkeypatch, 0)
    seen = taught(related, classes, "similarity").seen
    assert seen.made is not None
    k, y = seen.knowledge, seen.support.y
    x = knowledge.to_tensor(tuple(i for c in classes for i in c.images), k.preprocess)
    network, trunk, _ = start_of(related, seen, classes)
    differs = 0.0
    for i, logits in zip(seen.left_out.rows.tolist(), seen.left_out.logits, strict=True):
        rest = torch.arange(12) % 4 != i % 4
        part = mixing.restated(network, trunk, x[rest])
        with torch.no_grad():
            own = functional.call(network, part.parameters, part.buffers, x)
        torch.testing.assert_close(seen.made.see(rest, CTX), own, rtol=1e-4, atol=1e-5)
        for f, same in ((own, True), (k.trunk(x), False)):
            adapted = k.algorithm.adapt(k.state, Support(f[rest], y[rest], 3, f[rest]), CTX)
            gap = logits - k.algorithm.head(k.state, adapted)(f[i : i + 1])[0]
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
