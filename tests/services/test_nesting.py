"""The choice is made again without a part: nothing of the part is known to what chooses, whatever is chosen from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.services.test_judging import taught
from tests.services.test_teaching import id_of, shots
from workbench.core.context import Context
from workbench.learn.calibrate import task_temperatures
from workbench.learn.leaving_out import HeldOut, held_out
from workbench.learn.protocol import Support, generator
from workbench.learn.registry import create
from workbench.services import judging, knowledge, nesting, survey, teaching, trying
from workbench.services.looks import Seen
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
        t = task_temperatures(again, y[rest], 3, seen.typical, centres=which[0] != "ridge").left_out
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


def with_head(seen, key):
    """The same features under another method's head, as if an entry had been trained with it."""
    k = seen.knowledge
    algorithm = create(key, {}, k.algorithm.setting)
    other = replace(k, algorithm=algorithm, state=algorithm.init(generator(0)))
    return replace(seen, knowledge=other)


def test_a_closed_form_is_solved_without_an_adaptation(looks, monkeypatch) -> None:
    """One for every example and part would take half a second an entry."""
    for name in ("proto", "ridge"):
        seen = looks[name, ""]
        monkeypatch.setattr(type(seen.knowledge.algorithm), "adapt", lambda *_, **__: pytest.fail("adapted"))
        assert nesting.adaptations(seen, hidden_of(seen)) == 0
        found = nesting.losses_without(seen, hidden_of(seen), NAMES, CTX)
        assert torch.equal(torch.isnan(found), hidden_of(seen))


@pytest.mark.parametrize("key", ["baseline", "anil", "tadam"])
def test_costly_heads_on_fixed_networks_keep_their_losses_too(looks, key, monkeypatch) -> None:
    seen = with_head(looks["proto", ""], key)
    monkeypatch.setattr(type(seen.knowledge.algorithm), "adapt", lambda *_, **__: pytest.fail("adapted"))
    hidden = hidden_of(seen)
    assert nesting.adaptations(seen, hidden) == 0
    found, order = nesting.losses_without(seen, hidden, NAMES, CTX), seen.left_out.rows.argsort()
    assert torch.equal(torch.isnan(found), hidden)
    assert torch.equal(found[0, ~hidden[0]], seen.losses[order].double()[~hidden[0]])


@pytest.mark.parametrize(("count", "fitted"), [(1, 1), (2, 0)])
def test_heads_without_a_closed_form_are_all_fitted_again_or_none_of_them(
    looks, trained, classes, monkeypatch, count, fitted
) -> None:
    """One whose losses the hidden examples had a share in would be favoured among its like; none knows what is hidden.

    One asks for 36 of 40 fits. However near the first of several is, it is not fitted again alone.
    """
    seen = with_head(looks["proto", ""], "cosine")
    alike = [replace(seen, similarities=(("source", 0.9 - 0.8 * n),), most=1.0) for n in range(count)]
    fits = []
    adapt = type(seen.knowledge.algorithm).adapt
    monkeypatch.setattr(
        type(seen.knowledge.algorithm), "adapt", lambda *a, **kw: fits.append(len(a[2].y)) or adapt(*a, **kw)
    )
    asked, chosen = [], count  # the ridge head, whose losses are found anew
    options = [*alike, looks["ridge", ""]]
    nesting.lost_by_choosing(options, chosen, options[-1], classes, lambda some: asked.append(some) or chosen, CTX)
    assert nesting.adaptations(seen, hidden_of(seen)) == 36
    assert fits == [8] * 36 * fitted
    kept = seen.losses.double()[seen.left_out.rows.argsort()]
    for gone, (*heads, ridge) in zip(hidden_of(seen), asked, strict=True):
        for head in heads:
            assert (head.loo_losses == tuple(kept[~gone].tolist())) == (not fitted)
            assert len(head.loo_losses) == len(ridge.loo_losses) == 9


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
    # neither takes steps: the chosen one keeps the answers that its accuracy is estimated by
    other = next(i for i, s in enumerate(seen) if (s.knowledge.name, s.recipe.words) == ("ridge", ""))
    assert not seen[other].gradient_based
    monkeypatch.setattr(nesting, "together", lambda *_: replace(answered, left_out=wrong))
    best = replace(answered, left_out=right)
    assert nesting.lost_by_choosing(seen, index, best, classes, lambda _: other, CTX) == 12
    assert nesting.lost_by_choosing(seen, index, best, classes, lambda _: index, CTX) == 0


def test_methods_of_both_speeds_are_compared_on_answers_without_the_same_parts(
    trained, classes, looks, monkeypatch
) -> None:
    """What takes steps was asked in three parts, so the other is, too, and not in four where it has four examples."""
    seen = list(looks.values())
    slow = next(i for i, s in enumerate(seen) if s.gradient_based and s.recipe.own and len(s.left_out.rows))
    quick = next(i for i, s in enumerate(seen) if (s.knowledge.name, s.recipe.words) == ("proto", ""))
    answered = taught(classes, trained, id_of(trained, "proto")).seen
    y = answered.support.y

    def right(which: Seen, few: int) -> Seen:
        """It knows the first so many examples."""
        rows = torch.arange(12)
        truth = torch.where(rows < few, y, (y + 1) % 3)
        return replace(which, left_out=HeldOut(rows, F.one_hot(truth, 3).float(), None))

    def parted(which, _classes, _ctx, most):
        return right(which, 7) if which.gradient_based else right(which, {3: 9, 10: 12}[most])

    monkeypatch.setattr(nesting, "together", parted)
    for chosen, other, lost in ((quick, slow, 2.0), (slow, quick, -2.0)):
        best = right(seen[slow], 7) if chosen == slow else right(answered, 12)
        assert nesting.lost_by_choosing(seen, chosen, best, classes, lambda _, o=other: o, CTX) == lost


def test_the_chosen_one_is_asked_in_few_parts_once_and_only_for_what_takes_steps(
    trained, classes, looks, monkeypatch
) -> None:
    """A closed head on an entry that takes steps takes none, so it is asked in as many parts as the others."""
    seen = list(looks.values())
    slow = [i for i, s in enumerate(seen) if s.gradient_based and s.recipe.own and len(s.left_out.rows)][:2]
    assert len(slow) == 2
    recast = next(i for i, s in enumerate(seen) if s.gradient_based and s.recipe.words == "ridge head")
    quick = next(i for i, s in enumerate(seen) if (s.knowledge.name, s.recipe.words) == ("proto", ""))
    answered = taught(classes, trained, id_of(trained, "proto")).seen
    asked, together = [], nesting.together
    monkeypatch.setattr(nesting, "together", lambda *a: asked.append((a[0], a[3])) or together(*a))
    picked = iter([*slow, recast, quick])
    nesting.lost_by_choosing(seen, quick, answered, classes, lambda _: next(picked), CTX)
    assert [n for which, n in asked if which is answered] == [3]
    assert sorted(n for which, n in asked if which is not answered) == [3, 3, 10]


def test_a_network_that_was_made_of_the_examples_is_asked_in_parts_in_the_end(classes, looks) -> None:
    """Whatever its entry does, it was asked one by one, where a class lacks an example that the others have."""
    seen = looks["proto", "ridge head, norms measured on the examples"]
    stepping = with_head(seen, "anil")
    assert stepping.gradient_based
    found, plain = judging.together(stepping, classes, CTX), judging.together(seen, classes, CTX)
    torch.testing.assert_close(found.left_out.logits, plain.left_out.logits)
    assert not torch.equal(found.left_out.logits, seen.left_out.logits)


def test_what_takes_steps_on_known_features_is_asked_in_parts_in_the_end(trained, classes) -> None:
    """Two examples a class had it asked one by one, with views, where a class lacks an example that the others have."""
    two, cache = shots(classes, 2, 2, 2), knowledge.feature_cache()
    seen = next(s for s in survey.survey(two, trained, "auto", cache, CTX).seen if s.knowledge.name == "proto")
    seen = with_head(seen, "anil")
    assert seen.gradient_based
    assert seen.views is not None
    found = judging.together(seen, two, CTX)
    expected = held_out(seen.knowledge.algorithm, seen.knowledge.state, seen.support, CTX, 2)
    assert torch.equal(found.left_out.rows, expected.rows)
    torch.testing.assert_close(found.left_out.logits, expected.logits)
    assert found.left_out.before is not None


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
