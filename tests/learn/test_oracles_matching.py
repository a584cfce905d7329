"""Matching Networks: the mixture by hand, what leaves it unchanged, the LSTMs against torch's; mistakes are noticed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.learn import cases, conformance, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import heads, registry
from workbench.learn.algorithms import matching
from workbench.learn.algorithms.matching import Matching, MatchingFCE, canonical_order, log_mixture
from workbench.learn.protocol import Adapted, Setting, Support, generator

SHOTS = (1, 3, 2, 1, 4)


def built(cls, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE))


def trained(algorithm, steps=2):
    return cases.double(cases.train(algorithm, algorithm.init(generator(0)), steps))


def task(shots=SHOTS, seed=0):
    return tasks.episode(generator(seed), shots=shots, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def by_hand(algorithm, s, e):
    """Probabilities as the formula has them: example by example."""
    nothing = Adapted({}, e.ways)
    f, g = algorithm.embed(s, nothing, e.query_x), algorithm.embed(s, nothing, e.support_x)
    weight = (s.learned["scale"].exp() * F.cosine_similarity(f[:, None], g, dim=-1)).softmax(1)
    p = torch.zeros(len(f), e.ways, dtype=f.dtype)
    for i, y in enumerate(e.support_y.tolist()):
        p[:, y] += weight[:, i]
    return p


def equals_the_formula(cls):
    """The probabilities, and the loss: the mean of minus their logs."""
    algorithm = built(cls)
    s, e = trained(algorithm), task()
    p = by_hand(algorithm, s, e)
    z = cases.predict(algorithm, s, e)
    for found in (z.exp(), z.softmax(1)):
        gap = float((found - p).abs().max())
        assert gap < 1e-12, f"{gap:.2e}"


def test_it_is_the_mixture_of_the_labels_by_attention():
    equals_the_formula(Matching)


class NoScale(Matching):
    def head(self, s, a):
        return matching.Attention(a.tensors["keys"], a.tensors["member"], torch.ones(()))


class MeanOfLogs(Matching):
    def logits(self, s, a, x):
        head = self.head(s, a)
        z = F.linear(F.normalize(self._features(s, x), dim=1), head.keys).log_softmax(1)
        return z @ (head.member / head.member.sum(0))


class SoftmaxTwice(Matching):
    def logits(self, s, a, x):
        return super().logits(s, a, x).softmax(1)


@pytest.mark.parametrize("cls", [NoScale, MeanOfLogs, SoftmaxTwice])
def test_the_formula_notices(cls):
    with pytest.raises(AssertionError):
        equals_the_formula(cls)


def test_the_loss_is_that_of_the_mixture():
    """In training all pictures are one batch; the statistics of its layers then are those of the whole episode."""
    algorithm = built(Matching)
    s, e = trained(algorithm), task()
    with matching.norm.batch_statistics() as statistics:
        matching.functional.call(
            algorithm.network, matching.functional.under(s.learned), {}, torch.cat([e.support_x, e.query_x])
        )
    frozen = s._replace(memory=matching.functional.named(matching.norm.as_buffers(statistics)))
    p = by_hand(algorithm, frozen, e)
    loss = algorithm.step(s, tasks.Episodes((e,)), conformance.At("episodes", 0, 0.0), Context()).loss
    torch.testing.assert_close(loss, -p[range(len(p)), e.query_y].log().mean(), rtol=0, atol=1e-12)


def test_one_shot_is_softmax_over_cosine():
    s, e = trained(built(Matching)), task(shots=1)
    algorithm = built(Matching)
    nothing = Adapted({}, 5)
    f, g = algorithm.embed(s, nothing, e.query_x), algorithm.embed(s, nothing, e.support_x)
    cosine = F.cosine_similarity(f[:, None], g, dim=-1)[:, torch.argsort(e.support_y)]
    expected = (s.learned["scale"].exp() * cosine).softmax(1)
    torch.testing.assert_close(cases.predict(algorithm, s, e).exp(), expected, rtol=0, atol=1e-12)


def test_every_example_twice_changes_nothing():
    algorithm = built(Matching)
    s, e = trained(algorithm), task()
    twice = Support(e.support_x.repeat(2, 1, 1, 1), e.support_y.repeat(2), e.ways)
    z = algorithm.logits(s, algorithm.adapt(s, twice, Context()), e.query_x)
    torch.testing.assert_close(z, cases.predict(algorithm, s, e), rtol=0, atol=1e-12)


def test_small_probabilities_keep_their_logs():
    """Neither an infinity nor a gradient that is none, where a class is out of the question."""
    z = torch.tensor([[0.0, -300.0, -2000.0]], requires_grad=True)
    found = log_mixture(z, torch.eye(3))
    torch.testing.assert_close(found, z.detach())
    F.cross_entropy(found, torch.tensor([2])).backward()
    torch.testing.assert_close(z.grad, torch.tensor([[1.0, 0.0, -1.0]]))


# ---- full-context embeddings -------------------------------------------------------------------------------------


def weights():
    """Random LSTMs of the algorithm's own shapes, float64, biases and a projection included."""
    algorithm = built(MatchingFCE, width=8)
    drawn = {n: t for n, t in algorithm.init(generator(1)).learned.items() if t.ndim in (1, 2)}
    return algorithm, {n: normal(*t.shape, seed=i) / 3 for i, (n, t) in enumerate(sorted(drawn.items()))}


def test_the_examples_are_read_as_a_bidirectional_lstm_reads_them():
    algorithm, w = weights()
    size = algorithm.width
    lstm = nn.LSTM(size, size, bidirectional=True, dtype=torch.float64)
    with torch.no_grad():
        for name, suffix in (("forward", ""), ("backward", "_reverse")):
            getattr(lstm, f"weight_ih_l0{suffix}").copy_(w[f"{name}.input"])
            getattr(lstm, f"weight_hh_l0{suffix}").copy_(w[f"{name}.hidden"])
            getattr(lstm, f"bias_ih_l0{suffix}").copy_(w[f"{name}.bias"])
            getattr(lstm, f"bias_hh_l0{suffix}").zero_()
        f, y = normal(7, algorithm.features, seed=50), torch.tensor([2, 0, 1, 1, 0, 2, 2])
        member = heads.one_hot(y, 3, f)
        order = canonical_order(f, member)
        x = f @ w["project"].T
        both = lstm(x[order])[0]
        expected = torch.empty_like(x)
        expected[order] = both[:, :size] + both[:, size:] + x[order]
    torch.testing.assert_close(algorithm.keys(w, f, member), expected, rtol=0, atol=1e-12)


def test_queries_read_as_torchs_cell_does():
    """What is read may as well be a second input: torch's cell then is this LSTM."""
    algorithm, w = weights()
    size = algorithm.width
    f, g = normal(4, algorithm.features, seed=51), normal(7, size, seed=52)
    cell = nn.LSTMCell(2 * size, size, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([w["query.input"], w["query.hidden"][:, size:]], 1))
        cell.weight_hh.copy_(w["query.hidden"][:, :size])
        cell.bias_ih.copy_(w["query.bias"])
        cell.bias_hh.zero_()
        x = f @ w["project"].T
        h, c = x, torch.zeros_like(x)
        for _ in range(algorithm.p.reads):
            r = torch.stack([sum(a * k for a, k in zip((g @ q).softmax(0), g, strict=True)) for q in h])
            out, c = cell(torch.cat([x, r], 1), (h, c))
            h = out + x
    torch.testing.assert_close(algorithm.reads(w, f, g), h, rtol=0, atol=1e-12)


def test_the_order_is_that_of_the_pictures():
    """Classes in runs, whatever the order of the examples and the numbering of the classes."""
    f, y = normal(10, 6), torch.tensor([0, 0, 1, 2, 2, 2, 1, 3, 3, 0])
    order = canonical_order(f, heads.one_hot(y, 4, f))
    assert int((y[order].diff() != 0).sum()) == 3
    place, names = torch.randperm(10, generator=generator(1)), torch.tensor([2, 3, 0, 1])
    moved = canonical_order(f[place], heads.one_hot(names[y[place]], 4, f))
    assert torch.equal(place[moved], order)


class InTheGivenOrder(MatchingFCE):
    def keys(self, learned, support, member):
        x = matching.projected(learned, support)
        forward = matching.run_lstm(learned, "forward", x)
        return forward + matching.run_lstm(learned, "backward", x.flip(0)).flip(0) + x


class ByTheClassesNumbers(MatchingFCE):
    def keys(self, learned, support, member):
        order = torch.argsort(member.argmax(1), stable=True)
        x = matching.projected(learned, support)[order]
        seen = matching.run_lstm(learned, "forward", x) + matching.run_lstm(learned, "backward", x.flip(0)).flip(0) + x
        return seen[torch.argsort(order)]


@pytest.mark.parametrize(
    ("cls", "prop"),
    [
        (InTheGivenOrder, conformance.support_order_does_not_matter),
        (ByTheClassesNumbers, conformance.permuting_classes_permutes_outputs),
    ],
    ids=lambda v: v.__name__,
)
def test_another_order_is_noticed(cls, prop):
    with pytest.raises(AssertionError):
        prop(cases.Case("planted", lambda _: built(cls)))


def test_context_matters():
    """Another example of another class changes what a query and the other examples are compared by."""
    algorithm = built(MatchingFCE)
    s, e = trained(algorithm), task(shots=2)
    f = algorithm.embed(s, Adapted({}, 5), e.support_x)
    member = heads.one_hot(e.support_y, 5, f)
    keys = algorithm.keys(s.learned, f, member)
    other = torch.cat([f[:-1], 2 * f[-1:]])
    moved = algorithm.keys(s.learned, other, member)
    assert float((moved - keys)[:-1].abs().max()) > 1e-6
    q = algorithm.embed(s, Adapted({}, 5), e.query_x)
    assert not torch.allclose(algorithm.reads(s.learned, q, keys), algorithm.reads(s.learned, q, moved))


def test_wide_features_are_projected_and_narrow_ones_are_not():
    assert built(MatchingFCE, width=16).init(generator(0)).learned["project"].shape == (16, 128)
    assert "project" not in built(MatchingFCE).init(generator(0)).learned
    case = cases.Case("narrow", lambda _: built(MatchingFCE, width=16, reads=1))
    conformance.every_learned_tensor_gets_a_gradient(case)
    conformance.deploying_equals_logits(case)


@pytest.mark.parametrize("key", ["matching", "matching-fce"])
def test_neither_is_tagged_order_dependent(key):
    assert "order-dependent" not in registry.algorithms()[key].info.tags
