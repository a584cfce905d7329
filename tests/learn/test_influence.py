"""Influence in closed form is that of refitting without the examples, and finds what is labelled wrongly."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import registry
from workbench.learn.calibrate import compares_means
from workbench.learn.influence import Centroids, UnitRidge, at_once, influence
from workbench.learn.leaving_out import held_out
from workbench.learn.protocol import Setting, State, Support, generator

SETTING = Setting("conv4-32", 1, 16, 4)


def examples(shots, seed=0, features=12, apart=1.0):
    """Features ``[S, D]`` of overlapping classes, float64, in mixed order, and their classes."""
    gen = generator(seed)
    y = torch.tensor([c for c, n in enumerate(shots) for _ in range(n)])
    x = apart * torch.randn(len(shots), features, generator=gen, dtype=torch.float64)[y]
    x = x + torch.randn(len(y), features, generator=gen, dtype=torch.float64)
    order = torch.randperm(len(y), generator=gen)
    return x[order], y[order]


def centroid_logits(scale):
    def fitted(x, y, ways, asked):
        centres = torch.stack([x[y == c].mean(0) for c in range(ways)])
        return -scale * (asked[:, None] - centres).square().sum(2)

    return fitted


def ridge_logits(strength, scale):
    """The weighted ridge by its normal equations."""

    def fitted(x, y, ways, asked):
        x, asked = F.normalize(x, dim=1), F.normalize(asked, dim=1)
        weights = len(y) / ways / torch.bincount(y, minlength=ways)[y].double()
        left = x.T @ (weights[:, None] * x) + strength * torch.eye(x.shape[1], dtype=x.dtype)
        return scale * asked @ torch.linalg.solve(left, x.T @ (weights[:, None] * F.one_hot(y, ways).double()))

    return fitted


def by_refitting(x, y, ways, fitted, temperature):
    """``(own, others)`` from the definition, one classifier after the other."""

    def loss(j, without):
        keep = torch.tensor([i not in without for i in range(len(y))])
        logits = fitted(x[keep], y[keep], ways, x[j : j + 1]) / temperature
        return float(F.cross_entropy(logits, y[j : j + 1]))

    count = torch.bincount(y, minlength=ways).tolist()
    own, others = torch.zeros(len(y)).double(), torch.zeros(len(y)).double()
    for i, c in enumerate(y.tolist()):
        if count[c] < 2:
            continue
        own[i] = loss(i, {i})
        for j, k in enumerate(y.tolist()):
            if j != i and count[k] - (c == k) >= 2:
                others[i] += loss(j, {j}) - loss(j, {i, j})
    return own, others


FORMS = {
    "centroids": (lambda x: Centroids(x, 0.3), centroid_logits(0.3)),
    "ridge": (lambda x: UnitRidge(x, 0.5, 10.0), ridge_logits(0.5, 10.0)),
}


@pytest.mark.parametrize("shots", [(5, 5, 5), (2, 2, 2), (3, 1, 4), (2, 7), (1, 2), (3, 3, 3, 1)])
@pytest.mark.parametrize("form", FORMS)
def test_it_is_that_of_refitting_without_the_examples(form, shots):
    x, y = examples(shots)
    made, fitted = FORMS[form]
    found = made(x).influence(y, len(shots), temperature=1.7)
    own, others = by_refitting(x, y, len(shots), fitted, 1.7)
    assert torch.allclose(found.own, own, rtol=0, atol=1e-9)
    assert torch.allclose(found.others, others, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_pieces_give_the_same_as_the_whole(form, monkeypatch):
    x, y = examples((4, 5, 3))
    whole = FORMS[form][0](x).influence(y, 3)
    monkeypatch.setattr("workbench.learn.influence._AT_ONCE", 1)
    assert torch.allclose(FORMS[form][0](x).influence(y, 3).others, whole.others, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_one_example_a_class_has_none(form):
    x, y = examples((1, 1, 1))
    found = FORMS[form][0](x).influence(y, 3)
    assert not found.own.any()
    assert not found.others.any()


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_label_stands_out_and_harms_the_others(form):
    harm, help_ = [], []
    for seed in range(20):
        x, y = examples((5, 5, 5), seed, apart=3.0)
        wrong = int(torch.nonzero(y == 0)[0])
        planted = y.clone()
        planted[wrong] = 1
        found = FORMS[form][0](x).influence(planted, 3, temperature=10.0)
        assert int((found.own + found.others).argmax()) == wrong
        harm.append(float(found.others[wrong]))
        help_.append(float(FORMS[form][0](x).influence(y, 3, temperature=10.0).others[wrong]))
    assert sum(harm) > 0 > sum(help_), "with its own label the same picture helps"


def algorithm(key, **settings):
    kind = registry.algorithms()[key]
    return registry.create(key, dataclasses.asdict(build_params(kind.Params, settings)), SETTING)


@pytest.mark.parametrize(
    ("key", "settings"),
    [("protonet", {}), ("simpleshot", {}), ("simpleshot", {"transform": "UN"}), ("ridge", {"strength": "0.2"})],
)
def test_algorithms_with_a_closed_form_give_what_their_own_adapting_gives(key, settings):
    """Against the algorithm itself, adapted anew without each pair."""
    made = algorithm(key, **settings)
    state = made.init(generator(0))
    state = State(state.learned, {k: v + 0.1 if k == "mean" else v for k, v in state.memory.items()})
    features = made._features(state, torch.rand(9, 1, 16, 16, generator=generator(1))).detach()
    y = torch.tensor([0, 1, 2, 0, 1, 0, 2, 1, 0])

    def fitted(x, labels, ways, asked):
        adapted = made.adapt(state, Support(x, labels, ways, x), Context())
        return made.head(state, adapted)(asked).detach().double()

    found, exact = influence(made, state, Support(features, y, 3, features), features, 2.0)
    assert exact
    own, others = by_refitting(features, y, 3, fitted, 2.0)
    assert torch.allclose(found.own, own, atol=2e-4)
    assert torch.allclose(found.others, others, atol=2e-3)


def test_others_are_looked_at_through_their_features_and_it_is_said():
    x, y = examples((4, 4), apart=2.0)
    made = algorithm("maml")
    found, exact = influence(made, made.init(generator(0)), Support(torch.zeros(8, 1, 16, 16), y, 2), x, 1.0)
    assert not exact
    planted = y.clone()
    planted[0] = 1 - y[0]
    found, _ = influence(made, made.init(generator(0)), Support(torch.zeros(8, 1, 16, 16), planted, 2), x, 1.0)
    assert int((found.own + found.others).argmax()) == 0


@pytest.mark.parametrize("shots", [(3, 3, 3), (1, 4, 2)])
def test_left_out_at_once_is_adapting_again_for_each(shots):
    algorithm = registry.create("protonet", {}, SETTING)
    x, y = examples(shots, features=algorithm.features)
    state = algorithm.init(generator(0))
    support = Support(x, y, len(shots), x)
    found, again = at_once(algorithm, state, support), held_out(algorithm, state, support, Context())
    order = found.rows.argsort(), again.rows.argsort()
    assert found.rows[order[0]].tolist() == again.rows[order[1]].tolist()
    gap = found.logits[order[0]].log_softmax(1) - again.logits[order[1]].log_softmax(1)
    assert float(gap.abs().max()) < 1e-6
    assert at_once(registry.create("ridge", {}, SETTING), state, support) is None
    assert at_once(algorithm, state, Support(x, y, len(shots))) is None


def test_squared_distances_to_centres_are_told_from_other_heads():
    asked = {}
    for key in (
        "protonet",
        "simpleshot",
        "ridge",
        "logistic",
        "cosine",
        "mahalanobis",
        "baseline",
        "maml",
        "tadam",
        "width",
    ):
        algorithm = registry.create(key, {}, SETTING)
        asked[key] = compares_means(algorithm)
    assert {key for key, yes in asked.items() if yes} == {"protonet", "simpleshot", "tadam", "width"}
    for head, yes in {"nearest": True, "ridge": False}.items():
        depth = registry.create("depth", {"head": head}, SETTING)
        assert compares_means(depth) == yes
