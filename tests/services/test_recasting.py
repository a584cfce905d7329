"""One entry's trunk under other heads: features are shared, and what is written opens again and answers alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import EntryId
from workbench.learn import functional
from workbench.learn.algorithms.simpleshot import MEAN
from workbench.learn.leaving_out import held_out
from workbench.learn.protocol import Setting, State, Support, generator
from workbench.learn.registry import backbone, create
from workbench.project.library import Library
from workbench.services import experience, exporting, knowledge, models, predict, recasting, survey, teaching, trying
from workbench.services.requests import ApplyRequest, ExportRequest
from workbench.transfer import rank, recipes
from workbench.transfer.prior import Experience
from workbench.transfer.recipes import Recipe

CTX = Context()
KINDS = [kind for kind in recipes.KINDS if kind[2] != "own"]


def loaded(project, name):
    library = Library(project)
    entry, path = library.find(name)
    return knowledge.load(entry, path, library)


def looked_at(project, classes, name):
    found = survey.survey(classes, project, "auto", knowledge.feature_cache(), CTX)
    return next(s for s in found.seen if s.knowledge.name == name)


@pytest.mark.parametrize("name", ["proto", "maml"])
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_left_out_answers_are_those_of_the_knowledge_that_would_be_used(trained, classes, name, kind) -> None:
    """The closed form against adapting the recast entry once for each example, through its saved form."""
    base = looked_at(trained, classes, name)
    recipe = Recipe(base.knowledge.id, *kind)
    judged = trying._judged(base, recipe, classes, knowledge.feature_cache(), CTX, trying._Shared(classes))
    cast = trying.cast(judged, classes)
    again = held_out(cast.knowledge.algorithm, cast.knowledge.state, cast.support, CTX)
    assert judged.left_out.rows.tolist() == again.rows.tolist()
    gap = judged.left_out.logits.log_softmax(1) - again.logits.log_softmax(1)
    # measured norms have seen what is left out of the head: test_made holds these against what has not
    if recipe.adapter == "none":
        assert float(gap.abs().max()) < 2e-3, "single precision, and ridges of nearly singular systems"
    assert cast.knowledge.trunk is not None
    images = tuple(i for c in classes for i in c.images)
    x = knowledge.to_tensor(images, cast.knowledge.preprocess)
    torch.testing.assert_close(cast.knowledge.trunk(x), cast.support.features, rtol=1e-4, atol=1e-4)


def test_heads_on_one_trunk_share_their_features(trained) -> None:
    base = loaded(trained, "proto")
    heads = [recasting.recast(base, Recipe(base.id, head=h)) for h in recipes.CLOSED]
    assert {k.digest for k in heads} == {base.digest}
    assert [k.entry.algorithm for k in heads] == list(recipes.CLOSED)
    short = [recasting.recast(base, Recipe(base.id, layer="previous", head=h)) for h in recipes.CLOSED]
    assert len({k.digest for k in short}) == 1
    assert short[0].digest != base.digest
    assert short[0].entry.backbone == "conv4-32-block3"
    assert base.entry.algorithm == "protonet", "the entry itself stays as it is"


def test_figures_stay_where_the_features_are_the_same(trained) -> None:
    base, maml = loaded(trained, "proto"), loaded(trained, "maml")
    same = recasting.recast(base, Recipe(base.id, head="ridge")).entry.calibration
    assert same == {n: v for n, v in base.entry.calibration.items() if n != "temperature"}
    assert recasting.recast(base, Recipe(base.id, layer="previous", head="ridge")).entry.calibration == {}
    assert recasting.recast(maml, Recipe(maml.id, head="ridge")).entry.calibration == {}


def test_the_mean_of_the_sources_is_taken_off_where_it_is_known(trained) -> None:
    base = loaded(trained, "proto")
    recipe = Recipe(base.id, head="simpleshot")
    assert recasting.centre_of(base, recipe) is None
    assert recasting.recast(base, recipe).entry.params["transform"] == "L2N"
    mean = torch.arange(float(base.algorithm.features))

    knows = replace(base, state=State(base.state.learned, {**base.state.memory, MEAN: mean}))
    cast = recasting.recast(knows, recipe)
    assert torch.equal(cast.state.memory[MEAN], mean)
    assert cast.entry.params["transform"] == "CL2N"
    assert recasting.centre_of(knows, Recipe(base.id, layer="previous", head="simpleshot")) is None
    assert recasting.centre_of(knows, Recipe(base.id, head="cosine")) is None


def test_measured_norms_lie_between_the_running_and_the_examples_statistics(trained) -> None:
    """Each layer's behind the layers before it as they are in use: what is stored is what comes to pass."""
    base = loaded(trained, "proto")
    setting = base.algorithm.setting
    held = functional.under({**base.state.learned, **base.state.memory})
    x = 2 + 3 * torch.randn(50, setting.channels, setting.size, setting.size, generator=generator(1))
    cast = recasting.recast(base, Recipe(base.id, adapter="norm", head="ridge"), x)
    found = functional.under({**cast.state.learned, **cast.state.memory})
    network = backbone(setting.backbone).skeleton(setting.channels, setting.size)
    assert all(torch.equal(found[n], held[n]) for n, _ in network.named_parameters())
    came = {}
    for path, part in network.named_modules():
        if f"{path}.running_mean" in held:
            part.register_forward_pre_hook(lambda _, inputs, path=path: came.update({path: inputs[0]}))
    functional.call(network, {n: found[n] for n, _ in (*network.named_parameters(), *network.named_buffers())}, {}, x)
    share = 50 / 150
    assert len(came) == 4
    for path, inside in came.items():
        old, mean = held[f"{path}.running_mean"], inside.mean((0, 2, 3))
        expected = torch.lerp(old, mean, share)
        torch.testing.assert_close(found[f"{path}.running_mean"], expected, rtol=1e-3, atol=1e-4)
        var = share * inside.var((0, 2, 3)) + (1 - share) * held[f"{path}.running_var"]
        pooled = var + share * (1 - share) * (mean - old).square()
        torch.testing.assert_close(found[f"{path}.running_var"], pooled, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_recast_is_said(trained) -> None:
    base = loaded(trained, "proto")
    with pytest.raises(ValueError, match="measured on examples"):
        recasting.recast(base, Recipe(base.id, adapter="norm", head="ridge"))
    short = recasting.recast(base, Recipe(base.id, layer="previous", head="ridge"))
    with pytest.raises(WorkbenchError, match="earlier"):
        recasting.recast(short, Recipe(base.id, layer="previous", head="ridge"))
    assert not recasting.can(short, Recipe(base.id, layer="previous", head="ridge"))
    bare = create("ridge", {}, Setting("conv4-32", 3, 16))
    empty = knowledge.Knowledge(base.entry, "x", bare, State({}, {}), base.preprocess, "", (), None)
    assert not recasting.can(empty, Recipe(base.id, head="ridge"))
    assert recasting.recast(base, Recipe(base.id)) is base


@pytest.mark.parametrize(
    "kind", [("last", "none", "ridge"), ("previous", "none", "mahalanobis"), ("last", "norm", "simpleshot")]
)
def test_a_recast_model_is_written_opened_and_exported_and_answers_alike(
    trained, pictures, classes, queries, tmp_path, kind, monkeypatch
) -> None:
    """The whole way of a recipe that was chosen."""
    only_this = [kind]
    monkeypatch.setattr(recipes, "KINDS", (recipes.KINDS[0], *only_this))
    real = rank.choose

    def chosen_by_hand(options, *rest):
        found = real(options, *rest)
        wanted = next(i for i, o in enumerate(options) if o.name == "proto" and o.words)
        return found._replace(chosen=wanted)

    monkeypatch.setattr(teaching, "choose", chosen_by_hand)
    cache = knowledge.feature_cache()
    taught = teaching.adapt_to(classes, trained, "auto", cache, CTX, every_step=False)
    assert taught.seen.recipe.head == kind[2]
    out = models.write(taught, classes, taught.estimate(), "recast", 0, tmp_path / "recast", CTX)
    opened = models.open_model(out)
    assert opened.manifest.algorithm == kind[2]
    assert opened.manifest.entry == taught.seen.knowledge.id
    asked = tuple(i for c in queries for i in c.images)
    _, net, embedding = taught.networks[-1]
    examples = tuple(i for c in classes for i in c.images)
    here, _ = teaching.predict(net, taught.seen, embedding, examples, asked, cache, CTX)
    done = predict.apply(ApplyRequest(str(out), (str(pictures / "query"),)), trained, CTX)
    there = {p.image.sha256: p.probabilities for p in done.predictions}
    for p in here:
        assert there[p.image.sha256] == pytest.approx(p.probabilities, abs=1e-4)
    models.remember_pictures(trained, out, examples + asked)
    exported = exporting.export(ExportRequest(str(out), "onnx", str(tmp_path / "onnx")), trained, CTX)
    assert exported.verified


def test_a_library_of_many_is_short_listed_and_the_rest_can_be_chosen(project, classes, monkeypatch) -> None:
    monkeypatch.setattr(survey, "_SHORT_LIST", 2)
    past = experience.experience(project, classes, knowledge.feature_cache(), CTX)
    found = survey.survey(classes, project, "auto", knowledge.feature_cache(), CTX, past=past)
    assert len(found.seen) == 3, "two entries and no transfer"
    assert found.seen[-1].knowledge.entry is None
    everybody = {e.id for e in Library(project).entries()}
    assert {s.knowledge.id for s in found.seen[:-1]} | {o.entry_id for o in found.unseen} == everybody
    assert found.default is not None
    last = min(found.unseen, key=lambda o: o.prior)
    taught = teaching.adapt_to(classes, project, str(last.entry_id), knowledge.feature_cache(), CTX)
    assert taught.seen.knowledge.id == last.entry_id
    assert {c.entry for c in taught.candidates} == {*everybody, None}
    assert sum(c.weight for c in taught.candidates) == pytest.approx(1)
    assert EntryId(last.entry_id) == last.entry_id


def test_what_the_probe_does_not_know_never_comes_before_what_it_finds_most_similar(trained, classes) -> None:
    entries = Library(trained).entries()
    own = survey.survey(classes, trained, "auto", knowledge.feature_cache(), CTX).seen[:-1]
    known, value = entries[1].id, 0.5 * max(s.likeness for s in own if s.knowledge.id != entries[1].id)
    past = Experience(known, {known: (("under the probe", value),)})
    found = survey.survey(classes, trained, "auto", knowledge.feature_cache(), CTX, past=past)
    options = {s.knowledge.id: s.option(()) for s in found.seen[:-1]}
    assert options[known].prior == value
    others = [o for e, o in options.items() if e != known]
    assert max(o.nearest[1] or 0 for o in others) > value, "under their own networks they look more similar"
    assert all(o.prior < value for o in others)


def test_at_one_example_each_nothing_but_entries_as_they_are_is_considered(trained, classes) -> None:

    one = tuple(replace(c, images=c.images[:1]) for c in classes)
    taught = teaching.adapt_to(one, trained, "auto", knowledge.feature_cache(), CTX)
    assert taught.images == 0
    assert taught.seen.recipe.own
    assert not any(c.words for c in taught.candidates)
    assert isinstance(taught.seen.support, Support)
