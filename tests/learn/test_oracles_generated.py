"""The generated head: its three forms written out, cosine prototypes at first, and a gradient for what writes."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, conformance, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.data.episodes import Episodes
from workbench.learn import functional, inner, norm
from workbench.learn.algorithms import generated
from workbench.learn.algorithms.generated import Generated, Written
from workbench.learn.protocol import At, Setting, State, Support, generator

AT = At("episodes", 3, 0.0)
SHOTS = (1, 3, 2, 1, 4)
FORMS = ("plain", "attention", "embedding")
CLASSES = 40


def built(form, cls=Generated, backbone="tiny", classes=(CLASSES,), **params):
    tasks.tiny_backbone()
    setting = Setting(backbone, 1, tasks.SIZE, classes_per_source=classes)
    return cls(build_params(cls.Params, {"form": form, "width": 8, "code": 3, **params}), setting)


def trained(algorithm, steps=3):
    """In float64, moved on so that what starts at zero is not, and what is written is far from the codes."""
    s = cases.train(algorithm, algorithm.init(generator(0)), steps)
    gen = generator(9)
    moved = {
        n: t if n.startswith("trunk.") else t + 0.2 * torch.randn(t.shape, generator=gen) for n, t in s.learned.items()
    }
    return cases.double(State(moved, s.memory))


def task(seed=0, shots=SHOTS, **kwargs):
    return tasks.episode(generator(seed), shots=shots, dtype=torch.float64, **kwargs)


def trainable(s):
    """As the engine hands a state to a step."""
    return State({n: t.clone().requires_grad_() for n, t in s.learned.items()}, s.memory)


def split(algorithm, s, e):
    """Features of examples and queries as training has them."""
    with norm.batch_statistics():
        f = functional.call(algorithm.network, functional.under(s.learned), {}, torch.cat([e.support_x, e.query_x]))
    return f[: len(e.support_y)], f[len(e.support_y) :]


# ---- what is written, written out ------------------------------------------------------------------------


def network(w, name, x):
    hidden = F.elu(w[f"{name}.0.weight"] @ x + w[f"{name}.0.bias"])
    return w[f"{name}.1.weight"] @ hidden + w[f"{name}.1.bias"]


def cosine(a, b):
    return a @ b / (a.norm() * b.norm())


def codes_by_hand(f, y):
    units = [v / v.norm() for v in f]
    return [torch.stack([u for u, k in zip(units, y.tolist(), strict=True) if k == c]).mean(0) for c in range(5)]


def cosine_loss(w, f, y, rows, biases):
    z = [torch.stack([w["scale"].exp() * cosine(v, row) + b for row, b in zip(rows, biases, strict=True)]) for v in f]
    return torch.stack([-v.log_softmax(0)[k] for v, k in zip(z, y.tolist(), strict=True)]).mean()


def plain_by_hand(_p, w, f, y, _own, _noise):
    root, rows, biases = math.sqrt(f.shape[1]), [], []
    for s in codes_by_hand(f, y):
        change = network(w, "generator", s * root) / root
        rows.append(s + change[:-1])
        biases.append(change[-1])
    return rows, biases, 0.0


def attention_by_hand(_p, w, f, y, own, _noise):
    open_ = [m for m in range(CLASSES) if own is None or m not in own.tolist()]
    looked_up = []
    for v in f:
        asked = w["query"] @ (v / v.norm())
        like = torch.stack([w["sharpness"].exp() * cosine(asked, w["memory.key"][m]) for m in open_]).softmax(0)
        rows = [w["memory.weight"][m] / w["memory.weight"][m].norm() for m in open_]
        looked_up.append(sum(a * row for a, row in zip(like, rows, strict=True)))
    out = []
    for k, s in enumerate(codes_by_hand(f, y)):
        mine = [v for v, label in zip(looked_up, y.tolist(), strict=True) if label == k]
        out.append(w["average"] * s + w["attended"] * sum(mine) / len(mine))
    return out, [torch.zeros((), dtype=f.dtype)] * 5, 0.0


def embedding_by_hand(p, w, f, y, _own, noise):
    """``noise [N, code]`` as it was drawn; in use 0."""
    root, codes = math.sqrt(f.shape[1]), codes_by_hand(f, y)
    told = [network(w, "encoder", s * root) for s in codes]
    mean, log_variance = torch.stack(told)[:, : p.code], torch.stack(told)[:, p.code :]
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    penalty = p.kl * torch.distributions.kl_divergence(q, standard).sum() / len(codes)
    z = mean + (log_variance / 2).exp() * noise

    def head(z):
        change = [network(w, "decoder", v) / root for v in z]
        return [s + c[:-1] for s, c in zip(codes, change, strict=True)], [c[-1] for c in change]

    for _ in range(p.code_steps):
        z = z - p.code_lr * torch.autograd.grad(cosine_loss(w, f, y, *head(z)), z, create_graph=True)[0]
    return *head(z), penalty


BY_HAND = {"plain": plain_by_hand, "attention": attention_by_hand, "embedding": embedding_by_hand}
QUICK = {"code_steps": 2, "code_lr": 0.5, "kl": 0.3}


def loss_equals_the_formula(form, cls=Generated):
    algorithm = built(form, cls, **QUICK)
    s, e = trained(algorithm), task()
    noise = torch.randn(5, 3, generator=generator(Context().seed_for(f"generated/{AT.phase}/{AT.step}"))).double()
    learned = trainable(s).learned
    with norm.batch_statistics():
        pictures = torch.cat([e.support_x, e.query_x])
        f = functional.call(algorithm.network, functional.under(learned), {}, pictures)
    support, queries = f[: len(e.support_y)], f[len(e.support_y) :]
    rows, biases, penalty = BY_HAND[form](algorithm.p, learned, support, e.support_y, e.classes, noise)
    expected = cosine_loss(learned, queries, e.query_y, rows, biases) + penalty
    found = algorithm.step(State(learned, s.memory), Episodes((e,)), AT, Context()).loss
    gap = abs(float(found.detach() - expected.detach()))
    assert gap < 1e-11, f"{gap:.2e}"
    grads = [torch.autograd.grad(loss, list(learned.values())) for loss in (found, expected)]
    for name, own, by_hand in zip(learned, *grads, strict=True):
        torch.testing.assert_close(own, by_hand, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradients_are_those_of_the_formula(form):
    loss_equals_the_formula(form)


@pytest.mark.parametrize("form", FORMS)
def test_in_use_the_same_is_written_without_noise_and_with_the_whole_memory(form):
    algorithm = built(form, **QUICK)
    s, e = trained(algorithm), task()
    f = functional.call(algorithm.network, functional.under(s.learned), functional.under(s.memory), e.support_x)
    w = trainable(s).learned
    rows, biases, _ = BY_HAND[form](algorithm.p, w, f, e.support_y, None, torch.zeros(5, 3))
    for seed in (0, 1):
        a = algorithm.adapt(s, cases.support_of(e), Context(seed=seed))
        torch.testing.assert_close(a.tensors["weight"], torch.stack(rows).detach(), rtol=0, atol=1e-11)
        torch.testing.assert_close(a.tensors["bias"], torch.stack(biases).detach(), rtol=0, atol=1e-11)
    queries = algorithm.embed(s, a, e.query_x)
    for q, z in zip(queries, algorithm.logits(s, a, e.query_x), strict=True):
        expected = [s.learned["scale"].exp() * cosine(q, r) + b for r, b in zip(rows, biases, strict=True)]
        torch.testing.assert_close(z, torch.stack(expected).detach(), rtol=0, atol=1e-10)


class LabelsNeverShown(Generated):
    def written(self, learned, features, y, ways, ctx, **kwargs):
        one = super().written(learned, features, torch.zeros_like(y), 1, ctx, **{**kwargs, "own": None})
        return Written(one.weight.expand(ways, -1), one.bias.expand(ways), one.penalty)


class MeanOfEachPicture(Generated):
    """Weights for each picture, pooled when they are written already."""

    def written(self, learned, features, y, ways, ctx, **kwargs):
        each = super().written(learned, features, torch.arange(len(y)), len(y), ctx, **{**kwargs, "own": None})
        member = F.one_hot(y, ways).to(features)
        mean = member.T / member.sum(0)[:, None]
        return Written(mean @ each.weight, mean @ each.bias, each.penalty)


class GraphEnds(Generated):
    def written(self, learned, features, y, ways, ctx, **kwargs):
        head = super().written(learned, features, y, ways, ctx, **kwargs)
        return Written(head.weight.detach(), head.bias.detach(), head.penalty)


class BiasOfAFreshLayer(Generated):
    def written(self, learned, features, y, ways, ctx, **kwargs):
        head = super().written(learned, features, y, ways, ctx, **kwargs)
        return head._replace(bias=head.bias + 0.1 * torch.randn(ways, generator=generator(0)).to(head.bias))


class CodesNotOfLengthOne(Generated):
    def written(self, learned, features, y, ways, ctx, **kwargs):
        centres = torch.stack([features[y == k].mean(0) for k in range(ways)])
        return super().written(learned, centres, torch.arange(ways), ways, ctx, **kwargs)


class OwnRowsOpen(Generated):
    def written(self, learned, features, y, ways, ctx, *, own=None, gen=None):
        return super().written(learned, features, y, ways, ctx, gen=gen)


class AlwaysTheMean(Generated):
    def written(self, learned, features, y, ways, ctx, *, own=None, gen=None):
        return super().written(learned, features, y, ways, ctx, own=own)


MISTAKES = [
    (LabelsNeverShown, "plain"),
    (MeanOfEachPicture, "plain"),
    (BiasOfAFreshLayer, "plain"),
    (CodesNotOfLengthOne, "plain"),
    (OwnRowsOpen, "attention"),
    (AlwaysTheMean, "embedding"),
]


@pytest.mark.parametrize(("cls", "form"), MISTAKES, ids=lambda v: getattr(v, "__name__", v))
def test_the_formula_notices(cls, form):
    with pytest.raises(AssertionError):
        loss_equals_the_formula(form, cls)


@pytest.mark.parametrize("form", FORMS)
def test_the_formula_notices_that_the_graph_ends(form):
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        loss_equals_the_formula(form, GraphEnds)


def test_a_first_order_descent_of_the_code_is_noticed(monkeypatch):
    real = inner.descent
    monkeypatch.setattr(generated.inner, "descent", lambda *args, **kwargs: real(*args, **{**kwargs, "order": "first"}))
    with pytest.raises(AssertionError):
        loss_equals_the_formula("embedding")


# ---- the gradient ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_finite_differences(form):
    """One number of every tensor: generator, memory, encoder, decoder, scale and trunk; none is zero."""
    algorithm = built(form, backbone="tiny-smooth", **QUICK)
    s = trained(algorithm)
    beside = tasks.labelled(generator(1), 12)
    beside = type(beside)(beside.x.double(), beside.y, beside.source)
    batch = Episodes((task(),), beside if form == "attention" else None)

    def loss(learned):
        return algorithm.step(trainable(State(learned, s.memory)), batch, AT, Context()).loss.detach()

    start = trainable(s)
    found = torch.autograd.grad(algorithm.step(start, batch, AT, Context()).loss, list(start.learned.values()))
    grads = dict(zip(start.learned, found, strict=True))
    for name, g in grads.items():
        at = int(g.abs().argmax())
        here = torch.zeros(g.numel(), dtype=torch.float64)
        here[at] = 1e-5
        ends = [{**s.learned, name: s.learned[name] + sign * here.view(g.shape)} for sign in (1, -1)]
        up, down = (float(loss(end)) for end in ends)
        assert float(g.abs().max()) > 0, name
        assert (up - down) / 2e-5 == pytest.approx(float(g.flatten()[at]), rel=1e-5, abs=1e-8), name


def test_a_severed_generator_has_no_gradient():
    case = cases.Case("severed", lambda _: built("plain", GraphEnds))
    with pytest.raises(AssertionError, match="generator"):
        conformance.every_learned_tensor_gets_a_gradient(case)


# ---- where nothing is generated --------------------------------------------------------------------------


def begins_as_cosine_prototypes(form, cls=Generated):
    algorithm = built(form, cls)
    s, e = cases.double(algorithm.init(generator(0))), task()
    support, queries = split(algorithm, s, e)
    units = F.normalize(support, dim=1)
    centres = torch.stack([units[e.support_y == k].mean(0) for k in range(5)])
    z = 10 * F.normalize(queries, dim=1) @ F.normalize(centres, dim=1).T
    algorithm.p = build_params(algorithm.Params, {"form": form, "code": 3, "width": 8, "kl": 0.0})
    result = algorithm.step(trainable(s), Episodes((e,)), AT, Context())
    assert float(result.loss.detach()) == pytest.approx(float(F.cross_entropy(z, e.query_y)), abs=1e-6)
    assert result.metrics["accuracy"] == pytest.approx(float((z.argmax(1) == e.query_y).double().mean()))


@pytest.mark.parametrize("form", FORMS)
def test_before_the_first_step_it_is_prototypical_networks_with_cosine(form):
    begins_as_cosine_prototypes(form)


class BeginsWithNoise(Generated):
    def init(self, gen):
        s = super().init(gen)
        drawn = {n: t + 0.3 * torch.randn(t.shape, generator=gen) for n, t in s.learned.items() if "generator" in n}
        return State({**s.learned, **drawn}, s.memory)


def test_a_start_that_is_noise_is_noticed():
    with pytest.raises(AssertionError):
        begins_as_cosine_prototypes("plain", BeginsWithNoise)


# ---- classes ---------------------------------------------------------------------------------------------


def weights_for(algorithm, s, f, y, ways):
    x = torch.zeros(len(y), 1, tasks.SIZE, tasks.SIZE)
    return algorithm.adapt(s, Support(x, y, ways, f), Context()).tensors


@pytest.mark.parametrize("form", FORMS)
def test_order_does_not_matter_and_labels_permute_rows(form):
    algorithm = built(form)
    s = trained(algorithm)
    f, y = torch.randn(7, 128, generator=generator(3), dtype=torch.float64), torch.tensor([0, 0, 1, 2, 2, 2, 1])
    here = weights_for(algorithm, s, f, y, 3)
    order, place = torch.tensor([5, 2, 6, 0, 3, 1, 4]), torch.tensor([2, 0, 1])
    shuffled = weights_for(algorithm, s, f[order], y[order], 3)
    renumbered = weights_for(algorithm, s, f, place[y], 3)
    for name, t in here.items():
        torch.testing.assert_close(shuffled[name], t, rtol=0, atol=1e-12)
        torch.testing.assert_close(renumbered[name][place], t, rtol=0, atol=1e-12)
    moved = weights_for(algorithm, s, f, torch.tensor([0, 1, 1, 2, 2, 2, 0]), 3)
    gaps = (moved["weight"] - here["weight"]).abs().amax(1)
    assert float(gaps[:2].min()) > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_a_class_more_is_a_row_more(form):
    """The others stay, since each class is written from its own code; steps of the code look at all of them."""
    algorithm = built(form, code_steps=0)
    s = trained(algorithm)
    f, y = torch.randn(8, 128, generator=generator(3), dtype=torch.float64), torch.tensor([0, 0, 1, 2, 2, 2, 3, 3])
    three, four = weights_for(algorithm, s, f[:6], y[:6], 3), weights_for(algorithm, s, f, y, 4)
    assert four["weight"].shape == (4, 128)
    for name, t in three.items():
        torch.testing.assert_close(four[name][:3], t, rtol=0, atol=1e-13)


# ---- the memory ------------------------------------------------------------------------------------------


def reads_no_row_of_its_own(cls):
    """Other rows for the episode's classes change nothing of its loss; other rows for the rest do."""
    algorithm = built("attention", cls)
    s, e = trained(algorithm), task()

    def loss(rows):
        weight = s.learned["memory.weight"].clone()
        weight[rows] = torch.randn(len(rows), 128, generator=generator(4), dtype=torch.float64)
        moved = State({**s.learned, "memory.weight": weight}, s.memory)
        return float(algorithm.step(moved, Episodes((e,)), AT, Context()).loss)

    assert loss(e.classes) == pytest.approx(loss(torch.tensor([], dtype=torch.int64)), abs=1e-13)
    others = torch.tensor([m for m in range(CLASSES) if m not in e.classes.tolist()])
    assert abs(loss(others) - loss(e.classes)) > 1e-6


def test_the_rows_of_a_training_episodes_classes_are_shut():
    reads_no_row_of_its_own(Generated)


def test_open_rows_of_its_own_are_noticed():
    with pytest.raises(AssertionError):
        reads_no_row_of_its_own(OwnRowsOpen)


def test_where_all_rows_are_shut_nothing_is_remembered():
    algorithm = built("attention", classes=(5,))
    s = cases.double(algorithm.init(generator(0)))
    w = {**s.learned, "attended": torch.ones(128, dtype=torch.float64)}
    unit = F.normalize(torch.randn(5, 128, generator=generator(3), dtype=torch.float64), dim=1)
    found = generated.remembered(w, unit, torch.arange(5), 5, torch.arange(5))
    torch.testing.assert_close(found, unit)
    assert not torch.allclose(generated.remembered(w, unit, torch.arange(5), 5, None), unit)


def test_the_memory_is_trained_as_a_cosine_classifier_of_all_sources():
    """Two sources: the second's classes have the rows behind the first's. The running averages do not see it."""
    algorithm = built("attention", classes=(25, 15))
    s, e = algorithm.init(generator(0)), tasks.episode(generator(0))
    beside = tasks.labelled(generator(1), 16)
    source = (beside.y >= 25).long()
    beside = type(beside)(beside.x, beside.y - 25 * source, source)
    alone = algorithm.step(s, Episodes((e,)), AT, Context())
    both = algorithm.step(s, Episodes((e,), beside), AT, Context())
    with norm.batch_statistics():
        f = functional.call(algorithm.network, functional.under(s.learned), {}, beside.x)
    z = 10 * F.normalize(f, dim=1) @ F.normalize(s.learned["memory.weight"], dim=1).T
    torch.testing.assert_close(both.loss - alone.loss, F.cross_entropy(z, beside.y + 25 * source), rtol=1e-4, atol=1e-5)
    assert "memory accuracy" in both.metrics
    assert "memory accuracy" not in alone.metrics
    assert cases.same(alone.memory, both.memory)


def test_without_known_sources_there_is_no_memory_and_it_still_works():
    algorithm = built("attention", classes=())
    s = algorithm.init(generator(0))
    assert not any(n.startswith("memory.") for n in s.learned)
    e, beside = tasks.episode(generator(0)), tasks.labelled(generator(1), 16)
    assert bool(algorithm.step(s, Episodes((e,), beside), AT, Context()).loss.isfinite())
    assert cases.predict(algorithm, s, e).shape == (25, 5)


def test_knowledge_keeps_its_memory_where_the_sources_are_not_known_any_more():
    """An entry is loaded without its sources; what it has learnt decides."""
    algorithm, loaded = built("attention"), built("attention", classes=())
    s, e = trained(algorithm), task()
    assert torch.equal(cases.predict(algorithm, s, e), cases.predict(loaded, s, e))


# ---- the code --------------------------------------------------------------------------------------------


def test_steps_of_the_code_fit_the_examples():
    """Each number of steps fits them better than the one before, from the same knowledge."""
    losses = []
    for steps in (0, 3, 10):
        algorithm = built("embedding", code_steps=steps, code_lr=0.3)
        s, e = trained(algorithm), task()
        a = algorithm.adapt(s, cases.support_of(e), Context())
        losses.append(float(F.cross_entropy(algorithm.logits(s, a, e.support_x), e.support_y)))
    assert losses[0] > losses[1] > losses[2]


def test_the_penalty_is_the_divergence_from_the_standard_normal():
    mean, log_variance = torch.randn(2, 5, 3, generator=generator(0), dtype=torch.float64)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    exact = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(generated.divergence(mean, log_variance), exact)
    zero = torch.zeros(5, 3)
    assert float(generated.divergence(zero, zero)) == 0


def test_training_draws_another_code_at_each_step():
    algorithm = built("embedding")
    s, batch = trainable(trained(algorithm)), Episodes((task(),))
    losses = [float(algorithm.step(s, batch, At("episodes", i, 0.0), Context()).loss.detach()) for i in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
