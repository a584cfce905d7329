"""Hard sharing: one source is plain training, sources are weighed as they should be, conflicts go (float64)."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, conformance, many, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import balance, functional, norm, supervised
from workbench.learn.algorithms.hard_sharing import HardSharing
from workbench.learn.optimiser import Moments, stepped
from workbench.learn.optimiser import norm as size_of
from workbench.learn.protocol import At, Phase, Setting, State, StepResult, generator

AT = At("sources", 3, 0.0)
CLASSES = (5, 2, 4)
FORMS = ("uniform", "uncertainty", "pcgrad")


def built(cls=HardSharing, classes=CLASSES, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE, classes_per_source=classes))


def trained(algorithm, steps=3):
    """A state in the midst of its phase, in double precision."""
    s, phase, moments = algorithm.init(generator(0)), Phase("sources", lr={"": 0.01}), Moments()
    for i in range(steps):
        s = advanced(algorithm, s, many.several(generator(i), 24, CLASSES), phase, moments)
    return cases.double(s)


def gradients(result, learned):
    if result.grads is not None:
        return result.grads
    found = torch.autograd.grad(result.loss, list(learned.values()), allow_unused=True)
    return {n: g for n, g in zip(learned, found, strict=True) if g is not None}


def advanced(algorithm, s, batch, phase, moments):
    """One step as the engine takes it."""
    learned = {n: t.detach().requires_grad_() for n, t in s.learned.items()}
    result = algorithm.step(State(learned, s.memory), batch, AT, Context())
    grads = gradients(result, learned)
    return State(stepped(s.learned, grads, moments, phase, 0.0, size_of(grads)), result.memory)


def batch(size=24, seed=9, classes=CLASSES):
    return many.several(generator(seed), size, classes, torch.float64)


def leaves(s):
    return {n: t.detach().requires_grad_() for n, t in s.learned.items()}


# ---- one source ------------------------------------------------------------------------------------------


class Plain:
    """Single-task training of the same network."""

    def __init__(self, network):
        self.network = network

    def step(self, s, batch, at, ctx):
        return supervised.step(self.network, s, batch, (6,))


@pytest.mark.parametrize("weights", ["uniform", "pcgrad"])
def test_one_source_is_single_task_training_to_the_last_bit(weights):
    algorithm = built(classes=(6,), weights=weights)
    ours = algorithm.init(generator(0))
    plain = State({n.replace("classifier.0.", "classifier."): t for n, t in ours.learned.items()}, ours.memory)
    learned = functional.named(functional.initial(algorithm.network, gen := generator(0))[0])
    assert cases.same(plain.learned, learned | supervised.classifier((6,), algorithm.features, gen))
    phase, moments = algorithm.phases(None)[0], (Moments(), Moments())
    for i in range(4):
        b = many.several(generator(i), 16, (6,))
        ours = advanced(algorithm, ours, b, phase, moments[0])
        plain = advanced(Plain(algorithm.network), plain, b, phase, moments[1])
    trunk = [{n: t for n, t in s.learned.items() if n.startswith("trunk.")} for s in (ours, plain)]
    assert cases.same(*trunk)
    assert cases.same(ours.memory, plain.memory)


# ---- the weights -----------------------------------------------------------------------------------------


def by_hand(algorithm, s, b):
    """The loss of each source and its gradients, each from a forward pass of its own."""
    losses, grads = [], []
    for t, classes in enumerate(CLASSES):
        own = leaves(s)
        with norm.batch_statistics():
            f = functional.call(algorithm.network, functional.under(own), {}, b.x)
        z = f @ own[f"classifier.{t}.weight"].T + own[f"classifier.{t}.bias"]
        assert z.shape == (len(b.y), classes)
        rows = [i for i in range(len(b.y)) if int(b.source[i]) == t]
        loss = torch.stack([-z[i].log_softmax(0)[b.y[i]] for i in rows]).mean()
        found = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
        losses.append(float(loss.detach()))
        grads.append({n: g for n, g in zip(own, found, strict=True) if g is not None})
    return losses, grads


def is_the_weighted_mean(cls, weights):
    algorithm = built(cls, weights=weights)
    s, b = trained(algorithm), batch()
    losses, each = by_hand(algorithm, s, b)
    own = leaves(s)
    result = algorithm.step(State(own, s.memory), b, AT, Context())
    found = gradients(result, own)
    w = [1.0] * 3 if weights == "uniform" else [math.exp(-float(s.learned[f"log_variance.{t}"])) for t in range(3)]
    for name in found:
        if not name.startswith("log_variance."):
            expected = sum(x * g.get(name, torch.zeros(())) for x, g in zip(w, each, strict=True)) / 3
            torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12)
    if weights == "uncertainty":
        assert min(w) < 0.999
        for t, loss in enumerate(losses):
            assert float(found[f"log_variance.{t}"]) == pytest.approx((0.5 - w[t] * loss) / 3, abs=1e-12)
    assert result.metrics["loss"] == pytest.approx(sum(losses) / 3, abs=1e-12)


@pytest.mark.parametrize("weights", ["uniform", "uncertainty"])
def test_the_gradient_is_the_weighted_mean_of_the_sources(weights):
    is_the_weighted_mean(HardSharing, weights)


class SumOfSources(HardSharing):
    def step(self, s, batch, at, ctx):
        r = super().step(s, batch, at, ctx)
        return StepResult(loss=3 * r.loss, memory=r.memory, metrics=r.metrics)


class OneSoftmax(HardSharing):
    """A picture is told apart from the classes of the other sources too."""

    def source_loss(self, learned, features, batch, t):
        own = batch.source == t
        rows = [[learned[f"classifier.{u}.{part}"] for u in range(3)] for part in ("weight", "bias")]
        z = F.linear(features[own], *(torch.cat(r) for r in rows))
        y = sum(CLASSES[:t]) + batch.y[own]
        return F.cross_entropy(z, y), z.argmax(1) == y


class MorePicturesCountMore(HardSharing):
    def source_loss(self, learned, features, batch, t):
        loss, right = super().source_loss(learned, features, batch, t)
        return loss * 3 * float((batch.source == t).double().mean()), right


@pytest.mark.parametrize("cls", [SumOfSources, OneSoftmax])
def test_the_weighted_mean_notices(cls):
    with pytest.raises(AssertionError):
        is_the_weighted_mean(cls, "uniform")


def test_a_source_of_many_pictures_counts_no_more_than_one_of_few():
    """The same pictures of source 1 again and again do not change what source 0 is worth."""

    def share(cls):
        algorithm = built(cls)
        s, b = trained(algorithm), batch(12)
        more = torch.cat([torch.arange(12), *[torch.nonzero(b.source == 1).flatten()] * 4])
        heavy = tasks.Labelled(b.x[more], b.y[more], b.source[more])
        found = []
        for some in (b, heavy):
            own = leaves(s)
            result = algorithm.step(State(own, s.memory), some, AT, Context())
            # at the classifier's bias the pictures' statistics matter little, the weight of the source alone
            found.append(gradients(result, own)["classifier.1.bias"].norm())
        return float(found[1] / found[0])

    assert 0.8 < share(HardSharing) < 1.25
    assert share(MorePicturesCountMore) > 1.5


def smallest(form, losses, loss=balance.uncertain):
    """``s^2`` where plain descent ends."""
    v = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in losses]
    for _ in range(400):
        grads = torch.autograd.grad(loss([torch.tensor(x, dtype=torch.float64) for x in losses], v, form), v)
        v = [(t - 2.0 * g).detach().requires_grad_() for t, g in zip(v, grads, strict=True)]
    return [float(t.detach().exp()) for t in v]


@pytest.mark.parametrize(("form", "factor"), [("classification", 2.0), ("regression", 1.0)])
def test_the_learnt_variance_is_the_loss_or_twice_it(form, factor):
    losses = [0.3, 1.0, 2.5]
    assert smallest(form, losses) == pytest.approx([factor * x for x in losses], rel=1e-9)


def test_the_variance_notices_a_missing_or_wrong_logarithm():
    def without(losses, v, form):
        return torch.stack([torch.exp(-x) * loss for loss, x in zip(losses, v, strict=True)]).mean()

    def of_the_variance(losses, v, form):  # log s^2 where log s is meant
        return torch.stack([torch.exp(-x) * loss + x for loss, x in zip(losses, v, strict=True)]).mean()

    for wrong in (without, of_the_variance):
        assert smallest("classification", [1.0], wrong) != pytest.approx([2.0], rel=0.1)


# ---- conflicts -------------------------------------------------------------------------------------------


def vectors(*rows):
    return [
        {"a": torch.tensor(r[:1], dtype=torch.float64), "b": torch.tensor(r[1:], dtype=torch.float64)} for r in rows
    ]


def flat(g):
    return torch.cat([g["a"], g["b"]])


def conflict_is_removed(surgery):
    given = vectors((1.0, 2.0, 0.0), (-3.0, 0.5, 1.0))
    assert float(flat(given[0]) @ flat(given[1])) < 0
    found = [flat(g) for g in surgery(given, generator(0))]
    for i, g in enumerate(found):
        other = flat(given[1 - i])
        assert abs(float(g @ other)) < 1e-14
        # what is taken out points along the other gradient and nowhere else
        gone = flat(given[i]) - g
        assert float((gone - (gone @ other) / (other @ other) * other).norm()) < 1e-14
        assert float(sum(found) @ other) >= -1e-14


def agreement_is_kept(surgery):
    given = vectors((1.0, 2.0, 0.0), (3.0, 0.5, 1.0), (0.0, 0.0, 0.0))
    for g, own in zip(surgery(given, generator(0)), given, strict=True):
        assert torch.equal(flat(g), flat(own))


def test_two_gradients_that_conflict_end_at_right_angles_and_others_stay():
    conflict_is_removed(balance.surgery)
    agreement_is_kept(balance.surgery)


def test_each_is_projected_on_the_gradients_as_they_were():
    """Three that conflict pairwise, against a loop over every order that may have been drawn."""
    given = vectors((1.0, 0.0, 0.3), (-0.6, 1.0, 0.0), (-0.5, -0.8, 0.4))
    v = [flat(g) for g in given]

    def one(i, order):
        g = v[i].clone()
        for j in order:
            if float(g @ v[j]) < 0:
                g = g - (g @ v[j]) / (v[j] @ v[j]) * v[j]
        return g

    drawn = set()
    for seed in range(12):
        found = [flat(g) for g in balance.surgery(given, generator(seed))]
        for i, g in enumerate(found):
            j, k = (x for x in range(3) if x != i)
            gaps = [float((g - one(i, o)).norm()) for o in ((j, k), (k, j))]
            assert min(gaps) < 1e-14
            drawn.add((i, gaps[0] < gaps[1]))
    assert len(drawn) == 6


def test_conflicts_notice_planted_mistakes():
    def sign(gradients, gen):
        return [
            {n: 2 * t - h[n] for n, t in g.items()}
            for g, h in zip(gradients, balance.surgery(gradients, gen), strict=True)
        ]

    def always(gradients, gen):
        v = [flat(g) for g in gradients]
        out = [v[i] - (v[i] @ v[1 - i]) / (v[1 - i] @ v[1 - i]) * v[1 - i] for i in (0, 1)]
        return [{"a": g[:1], "b": g[1:]} for g in out]

    def on_the_projected(gradients, gen):
        first, second = balance.surgery(gradients, gen)[0], gradients[1]
        return [first, balance.surgery([second, first], gen)[0]]

    for wrong in (sign, on_the_projected):
        with pytest.raises(AssertionError):
            conflict_is_removed(wrong)
    with pytest.raises(AssertionError):
        agreement_is_kept(always)


def test_a_step_projects_the_trunk_alone_in_an_order_that_the_step_decides():
    algorithm = built(weights="pcgrad")
    s, b = trained(built()), batch()
    _, each = by_hand(algorithm, s, b)
    result = algorithm.step(State(leaves(s), s.memory), b, AT, Context(seed=5))
    again = algorithm.step(State(leaves(s), s.memory), b, AT, Context(seed=5))
    assert cases.same(result.grads, again.grads)
    trunk = [functional.under(g) for g in each]
    gen = generator(Context(seed=5).seed_for("hard-sharing/sources/3"))
    expected = balance.surgery(trunk, gen)
    assert any(not cases.same(a, b) for a, b in zip(trunk, expected, strict=True)), "no conflict here"
    for name in trunk[0]:
        mean = sum(g[name] for g in expected) / 3
        torch.testing.assert_close(result.grads[f"trunk.{name}"], mean, rtol=1e-10, atol=1e-12)
    for t in range(3):
        own = each[t][f"classifier.{t}.weight"] / 3
        torch.testing.assert_close(result.grads[f"classifier.{t}.weight"], own, rtol=1e-10, atol=1e-12)


# ---- what belongs to a source ----------------------------------------------------------------------------


@pytest.mark.parametrize("weights", FORMS)
def test_a_source_without_pictures_in_a_batch_is_not_moved(weights):
    algorithm = built(weights=weights)
    phase, moments = Phase("sources", lr={"": 0.01}, weight_decay=0.1), Moments()
    s = advanced(algorithm, algorithm.init(generator(0)), many.several(generator(1), 12, CLASSES), phase, moments)
    b = many.several(generator(2), 12, CLASSES)
    few = tasks.Labelled(*(t[b.source != 1] for t in (b.x, b.y, b.source)))
    moved = advanced(algorithm, s, few, phase, moments)
    still = {n for n in s.learned if torch.equal(s.learned[n], moved.learned[n])}
    assert still == {n for n in s.learned if n.startswith(("classifier.1.", "log_variance.1"))}


@pytest.mark.parametrize("weights", FORMS)
def test_what_is_left_is_the_trunk_alone(weights):
    algorithm = built(weights=weights)
    s = algorithm.init(generator(0))
    left = algorithm.finish(s, algorithm.phases(None)[0], Context())
    assert all(n.startswith("trunk.") for n in left.learned)
    loaded = HardSharing(algorithm.p, Setting("tiny", 1, tasks.SIZE))
    assert loaded.init(generator(0)).learned.keys() == left.learned.keys()
    with pytest.raises(ValueError, match="number of classes"):
        loaded.step(left, many.several(generator(1), 12, CLASSES), AT, Context())


@pytest.mark.parametrize("weights", ["uncertainty", "pcgrad"])
@pytest.mark.parametrize(
    "prop",
    [
        conformance.same_seed_same_result,
        conformance.step_gives_what_the_engine_needs,
        conformance.every_learned_tensor_gets_a_gradient,
        conformance.a_toy_task_is_learnt,
    ],
    ids=lambda p: p.__name__,
)
def test_every_way_of_weighing_keeps_the_promises(prop, weights):
    make = cases.of("hard-sharing")[0].make
    prop(cases.Case(weights, lambda ways: cases.build("hard-sharing", {**make.args[1], "weights": weights}, ways)))
