"""Networks that were changed by the examples: what is left out of the heads is left out of them as well."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType

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
from workbench.services import knowledge, looks, made, recasting, shelf, survey, trying
from workbench.services.shelf import storages
from workbench.transfer import mixing, recipes
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
    few = made.answered(fixed, k, typical, y, 3, names, CTX)
    alone = made.judged(fixed, y, 3, names, CTX)
    assert torch.equal(few.logits, alone.logits)
    monkeypatch.setattr(recipes, "ONE_BY_ONE", 3)
    asked.clear()
    found = made.answered(fixed, k, typical, y, 3, names, CTX)
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


def alive(root: object, beside: object = None) -> dict[int, int]:
    """Bytes of all that tensors lie in which this keeps alive, by address, but what ``beside`` keeps as well.

    Found by following references, so that it knows of nothing that somebody says is held.
    """
    met, found = {id(beside)}, []
    todo = [root]
    while todo:
        one = todo.pop()
        if id(one) in met or isinstance(one, type | ModuleType):
            continue
        met.add(id(one))
        if isinstance(one, torch.Tensor):
            found += [] if one.is_meta else [one]
        elif isinstance(one, FunctionType):  # not its module
            todo += [cell.cell_contents for cell in one.__closure__ or ()] + [one.__defaults__]
        else:
            todo += gc.get_referents(one)
    kept = storages(found)
    return kept if beside is None else {n: size for n, size in kept.items() if n not in alive(beside)}


def tried_with_norms(project, classes, monkeypatch):
    """The two recipes of ``proto`` that share its norms, with nothing else remembered."""
    monkeypatch.setattr(recipes, "KINDS", (recipes.KINDS[0], NORM, ("last", "norm", "simpleshot")))
    looks._forget()
    cache = knowledge.feature_cache()
    found = trying.with_recipes(survey.survey(classes, project, "auto", cache, CTX), classes, cache, CTX)
    return [s for s in found.seen if s.recipe.adapter == "norm" and s.knowledge.name == "proto"]


@pytest.mark.parametrize("shown", [4, 2])
def test_what_looks_hold_is_what_is_alive(trained, classes, monkeypatch, shown) -> None:
    """Also with views, of which nobody needs another copy, and what is measured later."""
    both = tried_with_norms(trained, shots(classes, *[shown] * 3), monkeypatch)
    kept = looks._remembered.looks
    assert len(both) == 2
    assert len(kept) > 10

    def check() -> int:
        every = {}
        for seen in kept.values():
            own = alive(seen, beside=seen.knowledge)
            assert storages(looks._held(seen)) == own, (seen.knowledge.name, seen.recipe.words)
            every |= own
        assert kept.nbytes == sum(every.values())
        return kept.nbytes

    before, y = check(), both[0].support.y
    both[0].made.see(torch.arange(len(y)) > 4, CTX)
    features = y.numel() * both[0].made.views * both[0].embedding.shape[1] * 4
    assert check() == before + features, "once for both heads"


def test_pictures_are_held_once_for_all_that_see_them_alike(trained, classes, monkeypatch) -> None:
    tried_with_norms(trained, shots(classes, 2, 2, 2), monkeypatch)
    kept = [s for s in looks._remembered.looks.values() if s.made is not None]
    preprocessed = {s.knowledge.preprocess for s in kept}
    assert len({s.knowledge.id for s in kept}) > len(preprocessed)
    pictures = {t.untyped_storage().data_ptr() for s in kept for t in s.made.held() if t.ndim == 4}
    assert len(pictures) == 2 * len(preprocessed), "the examples, and their views"


def test_a_look_costs_no_walk_through_the_others_and_what_grows_is_bounded(trained, classes, monkeypatch) -> None:
    walked, real = [], shelf.storages
    monkeypatch.setattr(shelf, "storages", lambda tensors: walked.append(1) or real(tensors))
    both = tried_with_norms(trained, classes, monkeypatch)
    kept = looks._remembered.looks
    assert len(walked) == len(kept) > 10
    walked.clear()
    looks.remember(("again",), both[0])
    assert len(walked) == 1
    both[0].made.see(torch.arange(12) > 4, CTX)
    assert len(walked) == 4, "itself under both keys, and the other head"
    monkeypatch.setattr(looks, "_REMEMBERED", kept.nbytes)
    before = len(kept)
    both[0].made.see(torch.arange(12) > 5, CTX)
    assert len(kept) < before
    assert kept.nbytes <= looks._REMEMBERED


def test_parts_that_are_left_out_together_need_no_second_pass(trained, classes, monkeypatch) -> None:
    """Features under the norms are known from trying; the network itself is not made to ask its head."""
    both = tried_with_norms(trained, classes, monkeypatch)
    y, names, passes = both[0].support.y, [str(i) for i in range(12)], []
    found = {}
    with monkeypatch.context() as patch:
        patch.setattr(mixing, "measured", lambda *a, **k: passes.append(1))
        for seen in both:
            found[seen.recipe.head] = made.in_parts(seen.made, y, 3, names, 4, CTX)
    assert not passes
    for seen in both:
        k, x = seen.knowledge, examples(classes, seen.knowledge)
        answered = found[seen.recipe.head]
        assert answered.rows.tolist() == list(range(12))
        for part in range(4):
            kept = torch.arange(12) % 4 != part
            whole = recasting.recast(k, seen.recipe, x[kept])
            f = knowledge.plain_embedding(whole, x, CTX)
            adapted = whole.algorithm.adapt(whole.state, Support(f[kept], y[kept], 3, f[kept]), CTX)
            expected = whole.algorithm.head(whole.state, adapted)(f[~kept]).detach().log_softmax(1)
            torch.testing.assert_close(answered.logits[~kept].log_softmax(1), expected, rtol=1e-3, atol=1e-3)


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
