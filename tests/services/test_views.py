"""Altered views of two examples a class: left out with their picture, learnt from and asked about until then; what is
used in the end learns from the pictures alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.services.test_judging import taught
from tests.services.test_made import loaded
from tests.services.test_teaching import id_of, shots
from workbench.core.context import Context
from workbench.core.values import Preprocess
from workbench.learn import augment, features
from workbench.learn.calibrate import fit_temperature
from workbench.learn.features import FeatureCache
from workbench.learn.protocol import Support
from workbench.services import knowledge, nesting, recasting, survey, trying, views
from workbench.transfer import nested, recipes

CTX = Context()


@pytest.fixture
def two(classes):
    return shots(classes, 2, 2, 2)


def images_of(classes):
    return tuple(i for c in classes for i in c.images)


def test_views_are_wanted_of_two_examples_a_class_and_of_no_more_or_less(classes) -> None:
    wanted = {counts: views.wanted(shots(classes, *counts)) for counts in ((1, 2, 2), (2, 2, 2), (2, 2, 4), (3, 3, 3))}
    assert wanted == {(1, 2, 2): False, (2, 2, 2): True, (2, 2, 4): True, (3, 3, 3): False}


def test_a_picture_has_the_same_views_whoever_asks_and_they_differ(trained, two) -> None:
    k, images = loaded(trained, "proto"), images_of(two)
    first = [views.altered(images[0], n, k.preprocess) for n in range(views.VIEWS)]
    assert all(np.array_equal(a, views.altered(images[0], n, k.preprocess)) for n, a in enumerate(first))
    original = knowledge.to_tensor(images[:1], k.preprocess)
    inputs = views.inputs(k.preprocess, two)
    assert len(inputs) == 4 * 6
    assert len(torch.unique(torch.cat([inputs[::6], original]), dim=0)) == 5
    cache = knowledge.feature_cache()
    found = views.embed(k, images, cache, CTX)
    torch.testing.assert_close(found, k.trunk(inputs), rtol=1e-4, atol=1e-5)
    order = (*images[3:], *images[:3])
    again = views.embed(k, order, cache, CTX).view(4, 6, -1)
    assert torch.equal(again.roll(3, 1).flatten(0, 1), found)
    plain = knowledge.embed(k, images, cache, CTX)
    assert not torch.equal(plain[0], found[0]), "kept under a name of its own"


@pytest.fixture
def restarted():
    """Makes views forget what only lasts until the program ends."""
    views._how.cache_clear()
    yield views._how.cache_clear
    views._how.cache_clear()


@pytest.mark.parametrize("what", ["LIKELY", "LIGHT", "CONTRAST", "ASIDE", "shifted"])
def test_features_of_views_that_were_altered_otherwise_are_not_taken_for_these(
    two, tmp_path, monkeypatch, restarted, what
) -> None:
    k = knowledge.Knowledge(None, "", None, None, Preprocess(size=32), "digest", (), torch.nn.Flatten())
    images = images_of(two)
    before = views.embed(k, images, FeatureCache(tmp_path), CTX)
    passes = []
    real = features.embed
    monkeypatch.setattr(features, "embed", lambda *a: passes.append(a[2]) or real(*a))
    restarted()
    assert torch.equal(views.embed(k, images, FeatureCache(tmp_path), CTX), before)
    assert not passes, "the same program finds them"
    other = (lambda x, *_: x) if what == "shifted" else getattr(augment, what) / 4
    monkeypatch.setattr(augment, what, other)
    restarted()
    found = views.embed(k, images, FeatureCache(tmp_path), CTX)
    torch.testing.assert_close(found, k.trunk(views.inputs(k.preprocess, two)), rtol=1e-4, atol=1e-5)
    assert not torch.equal(found, before)


def looks(project, classes):
    cache = knowledge.feature_cache()
    found = trying.with_recipes(survey.survey(classes, project, "auto", cache, CTX), classes, cache, CTX)
    return {(s.knowledge.name, s.recipe.words): s for s in found.seen}


@pytest.mark.parametrize("which", [("proto", ""), ("ridge", ""), ("proto", "ridge head"), ("No transfer", "")])
def test_a_picture_is_left_out_with_all_its_views_and_asked_about_in_all(trained, two, which) -> None:
    """Against adapting without it; a view of it that stayed would be told by."""
    seen = looks(trained, two)[which]
    cast = trying.cast(seen, two).knowledge
    images = images_of(two)
    f = torch.cat(
        [
            knowledge.embed(cast, images, knowledge.feature_cache(), CTX),
            views.embed(cast, images, knowledge.feature_cache(), CTX),
        ]
    )
    y, group = seen.support.y.repeat(5), torch.arange(6).repeat(5)
    z = torch.zeros(30, 3)
    for g in range(6):
        rest = group != g
        adapted = cast.algorithm.adapt(cast.state, Support(f[rest], y[rest], 3, f[rest]), CTX)
        z[~rest] = cast.algorithm.head(cast.state, adapted)(f[~rest]).detach()
    losses = F.cross_entropy(z / seen.temperature, y, reduction="none").view(5, 6).mean(0)
    assert seen.left_out.rows.tolist() == list(range(6))
    torch.testing.assert_close(seen.losses, losses, rtol=5e-3, atol=1e-3)
    torch.testing.assert_close(seen.left_out.logits.log_softmax(1), z[:6].log_softmax(1), rtol=1e-2, atol=1e-2)


def test_norms_are_measured_on_the_pictures_alone(trained, two, monkeypatch) -> None:
    monkeypatch.setattr(recipes, "KINDS", (recipes.KINDS[0], ("last", "norm", "ridge")))
    seen = looks(trained, two)["proto", "ridge head, norms measured on the examples"]
    assert seen.made.views == 5
    kept = torch.tensor([True, False] * 3)
    x = knowledge.to_tensor(images_of(two), seen.knowledge.preprocess)
    made = recasting.recast(seen.knowledge, seen.recipe, x[kept])
    torch.testing.assert_close(
        seen.made.see(kept, CTX)[6:], made.trunk(views.inputs(made.preprocess, two)), rtol=1e-4, atol=1e-5
    )
    assert len(seen.losses) == 6


def test_the_choice_is_made_again_with_views_of_what_is_not_hidden(trained, two) -> None:
    hidden = nested.hidden(torch.tensor([0, 0, 1, 1, 2, 2]), 3, list("abcdef"), 10)[0]
    assert len(hidden) == 6
    for which in (("proto", ""), ("ridge", ""), ("proto", "SimpleShot head")):
        seen = looks(trained, two)[which]
        found = nesting.losses_without(seen, hidden, list("abcdef"), CTX)
        assert torch.isnan(found).sum(1).tolist() == [2] * 6, "what is hidden, and who is alone in its class then"
        gone = hidden[0]
        strange = seen.views.clone()
        strange[gone.repeat(4)] = 100.0
        embedding = seen.embedding.clone()
        embedding[gone] = 100.0
        support = Support(embedding, seen.support.y, 3, embedding)
        other = replace(seen, views=strange, embedding=embedding, support=support)
        got = nesting.losses_without(other, hidden[:1], list("abcdef"), CTX)
        torch.testing.assert_close(got, found[:1], rtol=1e-4, atol=1e-5, equal_nan=True)


def test_what_is_used_has_learnt_from_the_pictures_alone(trained, two) -> None:
    found = taught(two, trained, id_of(trained, "proto"))
    assert len(found.seen.support.y) == 6
    assert found.seen.left_out.rows.tolist().count(0) == 1
    z, y = found.seen.left_out.logits, found.seen.support.y[found.seen.left_out.rows]
    assert z.shape == (6, 3)
    assert fit_temperature(z, y) > 0
