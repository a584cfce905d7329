"""The choice is made again without a part: nothing of the part is known to what chooses, whatever is chosen from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.services.test_judging import taught
from tests.services.test_teaching import id_of, shots
from workbench.core.context import Context
from workbench.learn.calibrate import held_out, task_temperatures
from workbench.learn.protocol import Support, generator
from workbench.services import knowledge, nesting, survey, teaching, trying
from workbench.transfer import nested, recipes

CTX = Context()
NAMES = [str(i) for i in range(12)]


@pytest.fixture
def looks(trained, classes, monkeypatch):
    """Everything that there is to choose from, by name and recipe."""
    menu = recipes.menu
    monkeypatch.setattr(recipes, "menu", lambda entries: menu(entries, 100))
    cache = knowledge.feature_cache()
    found = trying.with_recipes(survey.survey(classes, trained, "auto", cache, CTX), classes, cache, CTX)
    return {(s.knowledge.name, s.recipe.words): s for s in found.seen}


def hidden_of(seen):
    return nested.hidden(seen.support.y, 3, NAMES, 10)[0]


@pytest.mark.parametrize("which", [("proto", ""), ("ridge", ""), ("No transfer", "")])
def test_an_own_head_is_fitted_again_without_the_part_and_its_temperature_too(looks, which) -> None:
    seen = looks[which]
    k, f, y, hidden = seen.knowledge, seen.support.features, seen.support.y, hidden_of(seen)
    assert len(hidden) == 4
    found = nesting.losses_without(seen, hidden, NAMES, CTX)
    for r, gone in enumerate(hidden):
        rest = ~gone
        again = held_out(k.algorithm, k.state, Support(f[rest], y[rest], 3, f[rest]), CTX)
        labels = y[rest][again.rows]
        t = task_temperatures(again, y[rest], 3, k.figures["temperature"]).left_out
        losses = F.cross_entropy(again.logits / t, labels, reduction="none")
        torch.testing.assert_close(found[r, rest], losses.double(), rtol=1e-3, atol=1e-3)
        assert torch.isnan(found[r, gone]).all()


@pytest.mark.parametrize(
    "which",
    [
        ("proto", ""),
        ("ridge", ""),
        ("proto", "ridge head"),
        ("proto", "Mahalanobis head"),
        ("maml", "SimpleShot head on the block before the last"),
    ],
)
def test_other_features_of_what_is_hidden_change_nothing(looks, which) -> None:
    """As they would if the losses were those of heads that had learnt from it, or at a temperature fitted to it."""
    seen = looks[which]
    y, f, gone = seen.support.y, seen.embedding, torch.arange(12) % 4 == 2
    strange = f.clone()
    strange[gone] = 10 * torch.randn(f[gone].shape, generator=generator(0))
    other = replace(seen, support=Support(strange, y, 3, strange), embedding=strange)
    expected = nesting.losses_without(seen, gone[None], NAMES, CTX)
    got = nesting.losses_without(other, gone[None], NAMES, CTX)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert int(torch.isnan(got).sum()) == 3
    kept = seen.losses.double()[seen.left_out.rows.argsort()]
    assert not torch.allclose(expected[0, ~gone], kept[~gone], rtol=0.02, atol=0)


def test_what_adapts_by_gradient_steps_keeps_its_losses_and_of_the_hidden_none(looks) -> None:
    seen = next(s for s in looks.values() if s.gradient_based and s.recipe.own and len(s.left_out.rows))
    hidden = hidden_of(seen)
    found = nesting.losses_without(seen, hidden, NAMES, CTX)
    order = seen.left_out.rows.argsort()
    for r, gone in enumerate(hidden):
        assert torch.isnan(found[r, gone]).all()
        assert torch.equal(found[r, ~gone], seen.losses[order].double()[~gone])
    untried = replace(seen, left_out=seen.left_out._replace(rows=torch.zeros(0, dtype=torch.long)))
    assert torch.isnan(nesting.losses_without(untried, hidden, NAMES, CTX)).all()


def test_networks_that_were_made_of_the_examples_are_made_again_without_the_part(looks, monkeypatch) -> None:
    seen = looks["proto", "ridge head, norms measured on the examples"]
    asked = []
    see = seen.made.see
    spied = replace(seen, made=replace(seen.made, see=lambda kept, ctx: asked.append(kept) or see(kept, ctx)))
    hidden = hidden_of(seen)
    found = nesting.losses_without(spied, hidden, NAMES, CTX)
    assert torch.equal(torch.isnan(found), hidden)
    assert len(asked) == 12, "no network is made for a part that is hidden"
    assert all(not bool((kept & hidden[n // 3]).any()) for n, kept in enumerate(asked))


def test_every_choice_is_made_of_all_options_without_one_of_every_class(trained, classes, looks) -> None:
    seen = list(looks.values())
    answered = taught(classes, trained, id_of(trained, "proto")).seen
    index = next(i for i, s in enumerate(seen) if (s.knowledge.name, s.recipe.words) == ("proto", ""))
    asked = []

    def choose(options):
        asked.append(options)
        return index

    assert nesting.lost_by_choosing(seen, index, answered, classes, choose, CTX) == 0.0
    assert len(asked) == 4
    for options in asked:
        assert len(options) == len(seen)
        assert {len(o.loo_losses) for o in options if o.loo_losses is not None} == {9}
        assert sum(o.loo_losses is not None for o in options) == sum(len(s.left_out.rows) > 0 for s in seen)
    few = shots(classes, 2, 4, 4)
    two = taught(few, trained, id_of(trained, "proto")).seen
    asked.clear()
    nesting.lost_by_choosing([two], 0, two, few, lambda some: asked.append(some) or 0, CTX)
    assert len(asked) == 10, "of a class of two nothing could be left out any more: one by one"


def test_what_is_taken_off_was_counted_on_answers_of_the_same_kind(trained, classes, looks, monkeypatch) -> None:
    """Both are asked about one of every class at a time, with heads that were fitted without them."""
    seen = list(looks.values())
    answered = taught(classes, trained, id_of(trained, "proto")).seen
    index = next(i for i, s in enumerate(seen) if (s.knowledge.name, s.recipe.words) == ("proto", ""))
    wrong = answered.left_out._replace(
        logits=F.one_hot((answered.support.y[answered.left_out.rows] + 1) % 3, 3).float()
    )
    right = answered.left_out._replace(logits=F.one_hot(answered.support.y[answered.left_out.rows], 3).float())
    other = (index + 1) % len(seen)
    monkeypatch.setattr(nesting, "together", lambda *_: replace(answered, left_out=wrong))
    best = replace(answered, left_out=right)
    assert nesting.lost_by_choosing(seen, index, best, classes, lambda _: other, CTX) == 12
    assert nesting.lost_by_choosing(seen, index, best, classes, lambda _: index, CTX) == 0


def test_the_curse_is_measured_where_several_were_compared_and_nowhere_else(trained, classes) -> None:
    assert taught(classes, trained, id_of(trained, "proto")).lost is None
    assert taught(shots(classes, 1, 1, 1), trained, "auto").lost is None
    teaching._forget()
    found = taught(classes, trained, "auto")
    assert found.lost is not None
    plain, lowered = found.seen.estimate(5, lost=0.0), found.seen.estimate(5, lost=2.0)
    assert plain is not None
    assert lowered is not None
    assert lowered.low < plain.low
    assert found.estimate() == found.seen.estimate(found.picked_from, lost=found.lost)
