"""Networks that were changed by the examples: what is left out of the heads is left out of them as well."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.services.test_judging import taught
from tests.services.test_teaching import id_of, shots
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.learn.calibrate import task_temperatures
from workbench.learn.protocol import Support, generator
from workbench.project.library import Library
from workbench.services import knowledge, looks, made, recasting, survey, trying
from workbench.transfer import recipes
from workbench.transfer.recipes import Recipe

CTX = Context()
NORM = ("last", "norm", "ridge")


def loaded(project, name):
    library = Library(project)
    return knowledge.load(*library.find(name), library)


def examples(classes, k):
    return knowledge.to_tensor(tuple(i for c in classes for i in c.images), k.preprocess)


@pytest.mark.parametrize("layer", ["last", "previous"])
def test_all_examples_are_seen_in_one_pass_as_under_the_network_that_was_made_of_some(trained, classes, layer) -> None:
    k = loaded(trained, "proto")
    x, recipe = examples(classes, k), Recipe(k.id, layer, "norm", "ridge")
    kept = torch.arange(12) % 4 != 1
    found = recasting.measuring(k, recipe, x, x[:0])(kept, CTX)
    expected = knowledge.plain_embedding(recasting.recast(k, recipe, x[kept]), x, CTX)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    other = x.clone()
    other[~kept] = torch.randn(other[~kept].shape, generator=generator(0))
    again = recasting.measuring(k, recipe, other, x[:2])(kept, CTX)
    torch.testing.assert_close(again[:12][kept], found[kept], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again[12:], found[:2], rtol=1e-4, atol=1e-5, msg="what follows is never measured")


def looked(project, classes, monkeypatch, kind=NORM):
    """What the survey finds of a recipe."""
    monkeypatch.setattr(recipes, "KINDS", (recipes.KINDS[0], kind))
    cache = knowledge.feature_cache()
    found = survey.survey(classes, project, "auto", cache, CTX)
    found = trying.with_recipes(found, classes, cache, CTX)
    return next((s for s in found.seen if s.recipe.adapter == "norm" and s.knowledge.name == "proto"), None)


@pytest.mark.parametrize("head", ["ridge", "simpleshot"])
def test_norms_are_measured_without_the_example_that_is_asked_about(trained, classes, monkeypatch, head) -> None:
    """With norms measured on all examples the answers differ from those of the whole recipe made without the part."""
    seen = looked(trained, classes, monkeypatch, ("last", "norm", head))
    k, y = loaded(trained, "proto"), seen.support.y
    x = examples(classes, k)
    assert seen.left_out.rows.tolist() == list(range(12))
    differs = 0.0
    for i in range(12):
        rest = torch.arange(12) != i

        def answer(measured: torch.Tensor, i: int = i, rest: torch.Tensor = rest) -> torch.Tensor:
            made = recasting.recast(k, seen.recipe, x[measured])
            f = knowledge.plain_embedding(made, x, CTX)
            adapted = made.algorithm.adapt(made.state, Support(f[rest], y[rest], 3, f[rest]), CTX)
            return made.algorithm.head(made.state, adapted)(f[i : i + 1])[0].log_softmax(0)

        found = seen.left_out.logits[i].log_softmax(0)
        torch.testing.assert_close(found, answer(torch.arange(12) % 4 != i % 4), rtol=1e-3, atol=1e-3)
        differs = max(differs, float((found - answer(torch.ones(12, dtype=torch.bool))).detach().abs().max()))
    assert differs > 5e-3


def test_what_is_gone_has_no_share_in_anything(trained, classes, monkeypatch) -> None:
    """The planted mistake, norms that are measured on what is gone, changes the answers."""
    seen = looked(trained, classes, monkeypatch)
    k, y = loaded(trained, "proto"), seen.support.y
    x, names = examples(classes, k), [str(i) for i in range(12)]
    gone = torch.arange(12) % 4 == 2
    other = x.clone()
    other[gone] = torch.randn(other[gone].shape, generator=generator(0))

    def answers(pictures: torch.Tensor, forget: bool = False) -> torch.Tensor:
        see = recasting.measuring(k, seen.recipe, pictures, pictures[:0])
        if forget:
            plain, see = see, lambda kept, ctx: plain(kept | gone, ctx)
        found = made.judged(made.Made(lambda _: k, see, "ridge"), y, 3, names, CTX, gone=gone)
        assert found.rows.tolist() == torch.nonzero(~gone).flatten().tolist()
        return found.logits

    torch.testing.assert_close(answers(x), answers(other), rtol=1e-3, atol=1e-4)
    assert float((answers(x, True) - answers(other, True)).abs().max()) > 1e-2


@pytest.mark.parametrize("own", ["proto", "ridge"])
def test_heads_without_a_closed_form_are_asked_alike(trained, classes, own) -> None:
    """Under features that do not change, an example left out in turn answers as it always does."""
    seen = taught(classes, trained, id_of(trained, own)).seen
    k, f, y = seen.knowledge, seen.support.features, seen.support.y
    names = [str(i) for i in range(12)]
    fixed = made.Made(lambda _: k, lambda *_: f)
    found = made.judged(fixed, y, 3, names, CTX)
    for i, logits in zip(found.rows.tolist(), found.logits, strict=True):
        rest = torch.arange(12) != i
        adapted = k.algorithm.adapt(k.state, Support(f[rest], y[rest], 3, f[rest]), CTX)
        expected = k.algorithm.head(k.state, adapted)(f[i : i + 1])[0]
        torch.testing.assert_close(logits.float().log_softmax(0), expected.log_softmax(0), rtol=1e-3, atol=1e-3)
    together = made.in_parts(fixed, y, 3, names, 4, CTX)
    assert together.rows.tolist() == list(range(12))
    order = seen.left_out.rows.argsort()
    torch.testing.assert_close(together.logits, seen.left_out.logits[order], rtol=1e-3, atol=1e-3)


def test_norms_are_measured_only_where_few_examples_are_left_out_one_by_one(trained, classes, monkeypatch) -> None:
    assert looked(trained, shots(classes, 2, 4, 4), monkeypatch) is not None
    monkeypatch.setattr(recipes, "ONE_BY_ONE", 3)
    assert looked(trained, classes, monkeypatch) is None
    assert not made.few([5] * 11)


def test_more_examples_are_left_out_in_ten_parts_and_so_are_their_networks(trained, classes, monkeypatch) -> None:
    """Not in fifteen, of which each would be a fit of its own under each of five networks."""
    seen = taught(classes, trained, id_of(trained, "proto")).seen
    k, f, y = seen.knowledge, seen.support.features, seen.support.y
    names, typical, asked = [str(i) for i in range(12)], k.figures["temperature"], []
    fixed = made.Made(lambda _: k, lambda kept, _: asked.append(kept.tolist()) or f)
    few = made.answered(fixed, k, y, 3, names, CTX)
    alone = made.judged(fixed, y, 3, names, CTX)
    assert torch.equal(few.logits, alone.logits)
    monkeypatch.setattr(recipes, "ONE_BY_ONE", 3)
    asked.clear()
    found = made.answered(fixed, k, y, 3, names, CTX)
    expected = made.in_parts(fixed, y, 3, names, 10, CTX)
    assert torch.equal(found.logits, expected.logits)
    assert asked[:4] == asked[4:] == [[i % 4 != part for i in range(12)] for part in range(4)]
    fitted = task_temperatures(expected, y, 3, typical, 10)
    losses = F.cross_entropy(expected.logits / fitted.left_out, y, reduction="none")
    torch.testing.assert_close(found.losses, losses)
    assert found.temperature == fitted.answers


def test_what_was_measured_once_is_not_measured_again() -> None:
    asked = []
    see = made.once(lambda kept, _: asked.append(kept) or kept.float())
    for _ in range(2):
        assert see(torch.tensor([True, False]), CTX).tolist() == [1, 0]
        assert see(torch.tensor([True, True]), CTX).tolist() == [1, 1]
    assert len(asked) == 2


def test_what_norms_hold_is_counted_once_for_all_heads_that_share_it(trained, classes, monkeypatch) -> None:
    monkeypatch.setattr(recipes, "KINDS", (recipes.KINDS[0], NORM, ("last", "norm", "simpleshot")))
    looks._forget()
    cache = knowledge.feature_cache()
    found = trying.with_recipes(survey.survey(classes, trained, "auto", cache, CTX), classes, cache, CTX)
    both = [s for s in found.seen if s.recipe.adapter == "norm" and s.knowledge.name == "proto"]
    x, y = examples(classes, both[0].knowledge), both[0].support.y
    alone, together = (made.nbytes(t for s in some for t in looks._held(s)) for some in (both[:1], both))
    assert len(both) == 2
    assert alone == together
    features = both[0].support.x.nbytes
    assert together == x.nbytes + 5 * features, "the pictures, and features under all norms and those of four parts"
    both[0].made.see(torch.arange(len(y)) > 4, CTX)
    assert made.nbytes(t for s in both for t in looks._held(s)) == together + features


def test_measuring_stops_before_the_next_layer(trained, classes) -> None:
    k = loaded(trained, "proto")
    x, layers = examples(classes, k), []
    see = made.once(recasting.measuring(k, Recipe(k.id, "last", "norm", "ridge"), x, x[:0]))

    class Stopping(Context):
        def check(self) -> None:
            layers.append(1)
            if len(layers) == 2:
                self.cancel()
            super().check()

    with pytest.raises(JobCancelledError):
        see(torch.ones(12, dtype=torch.bool), Stopping())
    assert len(layers) == 2
    assert len(see(torch.ones(12, dtype=torch.bool), CTX)) == 12
