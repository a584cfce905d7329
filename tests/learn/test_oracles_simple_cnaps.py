"""Simple CNAPS: its covariances by hand, limits and invariances of its distance; mistakes are noticed."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, conformance, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import film, functional, heads, norm
from workbench.learn import mahalanobis as distances
from workbench.learn.algorithms.simple_cnaps import Encoder, SimpleCNAPS
from workbench.learn.mahalanobis import SquaredSums, covariances, fitted, mahalanobis, whitening
from workbench.learn.protocol import At, Setting, SourceSummary, State, generator

AT = At("episodes", 0, 0.0)
SHOTS = (1, 3, 2, 1, 4)
Y = torch.tensor([0, 0, 0, 1, 2, 2, 1, 2, 2, 2, 3])


def built(cls=SimpleCNAPS, weights=None, **params):
    tasks.tiny_backbone()
    params = {"width": 8, **params}
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE, weights=weights))


def trained(algorithm, steps=2):
    return cases.double(cases.train(algorithm, algorithm.init(generator(0)), steps))


def task(seed=0, shots=SHOTS):
    return tasks.episode(generator(seed), shots=shots, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def logits(f, s, y, ways, beta, scale=1.0):
    return distances.mahalanobis(f, *fitted(s, y, ways, beta), scale)


def by_definition(f, s, y, ways, beta):
    """Element by element; torch's own covariances, the inverse written as such."""
    out, eye = [], torch.eye(s.shape[1], dtype=s.dtype)
    everything = torch.cov(s.T) if len(s) > 1 else 0 * eye
    for k in range(ways):
        x = s[y == k]
        n = len(x)
        own = torch.cov(x.T) if n > 1 else 0 * eye
        q = n / (n + 1) * own + 1 / (n + 1) * everything + beta * eye
        d = f - x.mean(0)
        out.append(-torch.einsum("bi,ij,bj->b", d, torch.linalg.inv(q), d))
    return torch.stack(out, 1)


def distance_equals_the_definition():
    f, s = normal(9, 4, seed=1), normal(11, 4)
    gap = float((logits(f, s, Y, 4, 0.7) - by_definition(f, s, Y, 4, 0.7)).abs().max())
    assert gap < 1e-11, f"{gap:.2e}"


def test_the_distance_is_mahalanobis_with_shrunk_covariances():
    distance_equals_the_definition()


def with_a_half(f, means, factors, scale=1.0):
    return right(f, means, factors, scale / 2)


def with_the_determinant(f, means, factors, scale=1.0):
    return right(f, means, factors, scale) - 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)


right = mahalanobis


def by_n(x):
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("covariance", by_n),
        ("mahalanobis", with_a_half),
        ("mahalanobis", with_the_determinant),
    ],
    ids=["n for n - 1", "a half", "log-determinant"],
)
def test_another_distance_is_noticed(monkeypatch, name, mistake):
    monkeypatch.setattr(distances, name, mistake)
    with pytest.raises(AssertionError):
        distance_equals_the_definition()


def test_a_large_ridge_is_prototypical_networks():
    """``beta z`` tends to minus the squared distances; the gap falls as ``1 / beta``."""
    f, s = normal(9, 4, seed=1), normal(11, 4)
    squared = -(f[:, None] - heads.prototypes(s, Y, 4)).square().sum(-1)
    gaps = [float((beta * logits(f, s, Y, 4, beta) - squared).abs().max()) for beta in (1e3, 1e5, 1e7)]
    assert gaps[0] < 0.2
    assert gaps[1] == pytest.approx(gaps[0] / 100, rel=0.01)
    assert gaps[2] == pytest.approx(gaps[1] / 100, rel=0.01)


def test_any_affine_change_of_features_changes_nothing_without_a_ridge():
    f, s, y = normal(9, 4, seed=1), normal(24, 4), torch.arange(3).repeat(8)
    a, move = normal(4, 4, seed=2) + 2 * torch.eye(4, dtype=torch.float64), normal(4, seed=3)
    here, there = logits(f, s, y, 3, 0.0), logits(f @ a.T + move, s @ a.T + move, y, 3, 0.0)
    torch.testing.assert_close(there, here, rtol=0, atol=1e-10)
    with_ridge = logits(f @ a.T + move, s @ a.T + move, y, 3, 1.0) - logits(f, s, y, 3, 1.0)
    assert float(with_ridge.abs().max()) > 0.1


def test_one_example_of_a_class_gives_half_the_common_covariance():
    s = normal(5, 4)
    q = covariances(s, torch.arange(5), 5, 1.0)
    expected = torch.cov(s.T) / 2 + torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(q, expected.expand(5, 4, 4), rtol=0, atol=1e-14)


def test_one_example_in_all_gives_the_ridge_alone():
    q = covariances(normal(1, 4), torch.zeros(1, dtype=torch.int64), 1, 1.0)
    torch.testing.assert_close(q[0], torch.eye(4, dtype=torch.float64), rtol=0, atol=0)


def test_it_is_one_linear_layer_and_squares():
    f, s = normal(9, 4, seed=1), normal(11, 4)
    means, factors = fitted(s, Y, 4, 0.7)
    weight, bias = whitening(means, factors, torch.tensor(0.3, dtype=torch.float64))
    assert (weight.shape, bias.shape) == ((16, 4), (16,))
    found = SquaredSums(weight, bias, 4)(f)
    torch.testing.assert_close(found, 0.3 * by_definition(f, s, Y, 4, 0.7), rtol=0, atol=1e-11)


def test_half_precision_is_not_inverted_in():
    means, factors = fitted(normal(11, 4).half(), Y, 4, 1.0)
    assert means.dtype == factors.dtype == torch.float32
    assert mahalanobis(normal(3, 4).half(), means, factors).dtype == torch.float32


def loss_by_hand(algorithm, s, e):
    """The code from the examples alone; the modulated episode is one batch."""
    trunk = functional.under(s.learned)
    enc = functional.frozen(algorithm.encoder, functional.under(s.learned, "encoder."))
    t = torch.stack([enc(x[None])[0] for x in e.support_x]).mean(0)
    (gamma, beta) = film.generate(s.learned, algorithm.layers, t)["norm"]
    x = F.conv2d(torch.cat([e.support_x, e.query_x]), trunk["conv.weight"], padding=1)
    y = F.batch_norm(x, None, None, trunk["norm.weight"], trunk["norm.bias"], True)
    f = F.max_pool2d(F.relu(gamma.view(1, -1, 1, 1) * y + beta.view(1, -1, 1, 1)), 2).flatten(1)
    support, queries = f[: len(e.support_y)], f[len(e.support_y) :]
    z = s.learned["scale"].exp() * by_definition(queries, support, e.support_y, e.ways, algorithm.p.beta)
    gates = sum(g.square() for n, g in s.learned.items() if n.endswith(".gate"))
    return F.cross_entropy(z, e.query_y) + algorithm.p.penalty * gates


def loss_equals_the_formula(cls):
    algorithm = built(cls, penalty=0.5)
    s, e = trained(algorithm), task()
    s = State({n: t + 0.2 if n.endswith(".gate") else t for n, t in s.learned.items()}, s.memory)
    gap = abs(float(algorithm.step(s, tasks.Episodes((e,)), AT, Context()).loss - loss_by_hand(algorithm, s, e)))
    assert gap < 1e-9, f"{gap:.2e}"


def test_the_loss_is_that_of_modulated_mahalanobis_distances():
    loss_equals_the_formula(SimpleCNAPS)


class QueriesInTheCode(SimpleCNAPS):
    def task_logits(self, learned, buffers, episode):
        self.queries = episode.query_x
        return super().task_logits(learned, buffers, episode)

    def _modulated(self, learned, x):
        return super()._modulated(learned, torch.cat([x, self.queries]))


class NotModulated(SimpleCNAPS):
    def _modulated(self, learned, x):
        return functional.under(learned)


@pytest.mark.parametrize("cls", [QueriesInTheCode, NotModulated])
def test_the_formula_notices(cls):
    with pytest.raises(AssertionError):
        loss_equals_the_formula(cls)


def test_without_modulation_encoder_and_generators_are_noticed_as_untrained():
    with pytest.raises(AssertionError):
        conformance.every_learned_tensor_gets_a_gradient(cases.Case("none", lambda _: built(NotModulated)))


def test_a_picture_has_one_code_however_it_is_batched():
    enc = functional.skeleton(lambda: Encoder(1, 8, 8))
    params, _ = functional.initial(enc, generator(0))
    x = normal(6, 1, 8, 8).float()
    together = functional.call(enc, params, {}, x)
    alone = torch.cat([functional.call(enc, params, {}, one[None]) for one in x])
    torch.testing.assert_close(together, alone)
    assert together.shape == (6, 8)


@pytest.mark.parametrize("size", [8, 28, 84])
def test_the_encoder_takes_any_size(size):
    assert functional.skeleton(lambda: Encoder(3, 16, size))(torch.empty(2, 3, size, size, device="meta")).shape == (
        2,
        16,
    )


def test_a_pretrained_trunk_stays_as_it_is():
    plain = cases.build("protonet", {})
    s = cases.train(plain, plain.init(generator(0)), 2)
    weights = functional.under({**s.learned, **s.memory})
    algorithm = built(weights=weights)
    (phase,) = algorithm.phases(SourceSummary((40,), 400))
    assert phase.frozen == ("trunk.",)
    before = algorithm.init(generator(0))
    after = cases.train(algorithm, before, 3)
    for part in range(2):
        assert all(torch.equal(after[part][n], t) for n, t in before[part].items() if n.startswith("trunk."))
    assert not torch.equal(after.learned["film.norm.gamma.gate"], before.learned["film.norm.gamma.gate"])
    case = cases.Case("pretrained", lambda _: built(weights=weights))
    conformance.every_learned_tensor_gets_a_gradient(case)
    conformance.deploying_equals_logits(case)
    # features are those of the running averages in training too
    e = tasks.episode(generator(1))
    z, statistics = algorithm.task_logits(after.learned, functional.under(after.memory), e)
    assert statistics == {}
    used = cases.predict(algorithm, after, e)
    torch.testing.assert_close(z.log_softmax(1), used.log_softmax(1), rtol=1e-3, atol=1e-3)


def test_a_scale_of_one_stays():
    algorithm = built(scale="one")
    assert "scale" in algorithm.phases(SourceSummary((40,), 400))[0].frozen
    assert float(cases.train(algorithm, algorithm.init(generator(0)), 2).learned["scale"]) == 0


def test_the_statistics_move_with_the_episodes():
    algorithm = built()
    s, e = algorithm.init(generator(0)), tasks.episode(generator(1))
    with norm.batch_statistics() as statistics:
        functional.call(algorithm.network, functional.under(s.learned), {}, torch.cat([e.support_x, e.query_x]))
    memory = algorithm.step(s, tasks.Episodes((e,)), AT, Context()).memory
    moved = norm.running_average(functional.under(s.memory), statistics)
    torch.testing.assert_close(memory["trunk.norm.running_var"], moved["norm.running_var"])


@pytest.mark.parametrize("wide", [3, 40])
def test_the_span_of_the_examples_is_all_that_tells_classes_apart(wide):
    gen = generator(8)
    x, q = (torch.randn(n, wide, generator=gen, dtype=torch.float64) for n in (9, 6))
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    x = x + y[:, None]
    textbook = distances.mahalanobis(q, *distances.fitted(x, y, 3, 0.5), 0.3)
    axes = distances.span(x)
    assert axes.shape == (wide, min(wide, 8))
    weight, bias = distances.whitening(*distances.fitted(x @ axes, y, 3, 0.5), 0.3)
    narrow = distances.SquaredSums(weight @ axes.T, bias, 3)(q)
    torch.testing.assert_close(narrow.log_softmax(1), textbook.log_softmax(1), rtol=1e-10, atol=1e-10)
    # what is left out is the same for all classes, and there is something to leave out
    left = narrow - textbook
    torch.testing.assert_close(left, left[:, :1].expand_as(left), rtol=1e-10, atol=1e-10)
    assert (float(left.min()) > 0.1) == (wide > 9)
