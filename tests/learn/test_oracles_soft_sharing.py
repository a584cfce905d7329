"""Soft sharing: closed forms, the gradient of the pull, what is pulled and what is not, the mean's own statistics."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, many, tasks
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.params import build_params
from workbench.learn import functional, norm
from workbench.learn.algorithms import soft_sharing
from workbench.learn.algorithms.soft_sharing import (
    BATCHES,
    LEVEL,
    RESPONSES,
    SEEN,
    SoftSharing,
    copies_of,
    mean,
    pull,
    similarity,
)
from workbench.learn.engine import _gradients
from workbench.learn.optimiser import Moments, rates, stepped
from workbench.learn.optimiser import norm as size_of
from workbench.learn.protocol import At, Setting, SourceSummary, State, generator

CLASSES = (5, 3, 4)
AT, LAST = At("sources", 0, 0.0), At("statistics", 0, 0.0)
SOURCES = SourceSummary(CLASSES, 400)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# ---- least squares: the optimum in closed form (one matrix per source) -----------------------------------


def problems(sources=4, n=9, d=5):
    return [(normal(n, d, seed=i), normal(n, seed=50 + i)) for i in range(sources)]


def optimum(data, lam):
    """``S_t = (X'X + lam)^-1``, ``theta_t = S_t (X'y + lam bar)``, ``bar = (1 - lam mean S)^-1 mean S X'y``."""
    eye = torch.eye(5, dtype=torch.float64)
    s = [torch.linalg.inv(x.T @ x + lam * eye) for x, _ in data]
    own = [x.T @ y for x, y in data]
    bar = sum(m @ v for m, v in zip(s, own, strict=True)) / len(data)
    bar = torch.linalg.solve(eye - lam * sum(s) / len(data), bar)
    return [m @ (v + lam * bar) for m, v in zip(s, own, strict=True)], bar


def slope_at_the_optimum(lam, pulled=pull, row=None):
    """Largest gradient of any source's own objective there, as training takes it. (Convex: zero is there alone.)"""
    data = problems()
    expected, bar = optimum(data, lam)
    assert float((sum(expected) / 4 - bar).norm()) < 1e-12
    copies = {t: {"a": v[:2], "b": v[2:]} for t, v in enumerate(expected)}
    slopes = []
    for t, (x, y) in enumerate(data):
        g = gradient(pulled, copies, t, row)
        slopes.append(x.T @ (x @ expected[t] - y) + lam * torch.cat([g["a"], g["b"]]))
    return float(torch.stack(slopes).abs().max())


@pytest.mark.parametrize("lam", [0.0, 0.7, 5.0])
def test_training_rests_at_the_closed_form(lam):
    assert slope_at_the_optimum(lam) < 1e-12


def test_the_graph_of_equals_rests_there_too():
    assert slope_at_the_optimum(0.7, row=torch.ones(4, dtype=torch.float64)) < 1e-12


def test_without_a_pull_fits_are_independent_and_with_an_endless_one_pooled():
    data = problems()
    for theta, (x, y) in zip(optimum(data, 0.0)[0], data, strict=True):
        torch.testing.assert_close(theta, torch.linalg.lstsq(x, y).solution)
    x, y = (torch.cat([p[i] for p in data]) for i in (0, 1))
    pooled = torch.linalg.lstsq(x, y).solution
    gaps = [max(float((t - pooled).norm()) for t in optimum(data, lam)[0]) for lam in (1.0, 1e3, 1e6)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-4


def live_mean(copies, t, row=None):
    """The mean is differentiated in the penalty of one source: the pull is too weak by a factor 1 - 1/T."""
    own = copies[t]
    bar = {n: sum(c[n] for c in copies.values()) / len(copies) for n in own}
    return 0.5 * sum((own[n] - bar[n]).square().sum() for n in own)


def wrong_axis(copies, t, row=None):
    """Each tensor is pulled to the mean of its own numbers."""
    return 0.5 * sum((v - v.detach().mean()).square().sum() for v in copies[t].values())


def away(copies, t, row=None):
    return -0.05 * pull(copies, t)


@pytest.mark.parametrize("wrong", [live_mean, wrong_axis, away])
def test_the_closed_form_notices(wrong):
    assert slope_at_the_optimum(0.7, pulled=wrong) > 1e-2


# ---- the pull itself -------------------------------------------------------------------------------------


def some_copies(n=4):
    return {t: {"a": normal(3, seed=t), "b": normal(2, 2, seed=9 + t)} for t in range(n)}


def gradient(of, copies, t, *rest):
    own = {n: v.clone().requires_grad_() for n, v in copies[t].items()}
    grads = torch.autograd.grad(of({**copies, t: own}, t, *rest), list(own.values()), materialize_grads=True)
    return dict(zip(own, grads, strict=True))


def test_the_gradient_is_exactly_the_distance_to_the_mean():
    copies = some_copies()
    bar = mean(copies)
    for t in copies:
        for name, g in gradient(pull, copies, t).items():
            assert torch.equal(g, copies[t][name] - bar[name])
    assert not torch.allclose(gradient(live_mean, copies, 0)["a"], copies[0]["a"] - bar["a"])


def test_it_is_the_gradient_of_the_whole_sum_in_both_forms():
    """``1/2 sum_t |theta_t - theta_bar|^2`` and ``1/2T sum_{t<u} s_tu |theta_t - theta_u|^2``, differentiated whole."""
    copies, n = some_copies(), 4
    s = normal(n, n).exp()
    s = (s + s.T) * (1 - torch.eye(n))
    every = {t: {k: v.clone().requires_grad_() for k, v in c.items()} for t, c in copies.items()}
    flat = [torch.cat([v.flatten() for v in c.values()]) for c in every.values()]
    bar = sum(flat) / n
    pairs = [(i, j) for i in range(n) for j in range(i)]
    whole = {
        "mean": 0.5 * sum((v - bar).square().sum() for v in flat),
        "equal": sum((flat[i] - flat[j]).square().sum() for i, j in pairs) / (2 * n),
        "graph": sum(s[i, j] * (flat[i] - flat[j]).square().sum() for i, j in pairs) / (2 * n),
    }
    assert float((whole["mean"] - whole["equal"]).detach().abs()) < 1e-13
    for t in copies:
        rows = {"mean": None, "equal": torch.ones(n, dtype=torch.float64), "graph": s[t]}
        for form, row in rows.items():
            expected = torch.autograd.grad(whole[form], list(every[t].values()), retain_graph=True)
            for g, e in zip(gradient(pull, copies, t, row).values(), expected, strict=True):
                torch.testing.assert_close(g, e, rtol=0, atol=1e-13)


def test_a_source_alone_is_not_pulled():
    for row in (None, torch.zeros(1)):
        assert all(not g.any() for g in gradient(pull, some_copies(1), 0, row).values())


def test_similarity_is_symmetric_larger_for_what_is_alike_and_one_on_average():
    responses = torch.tensor([[0.0, 0.0], [0.1, 0.0], [2.0, -3.0], [9.0, 9.0]], dtype=torch.float64)
    seen, variances = torch.tensor([3.0, 1.0, 2.0, 0.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    s = similarity(responses, seen, variances)
    assert torch.equal(s, s.T)
    assert torch.equal(s.diagonal(), torch.zeros(4, dtype=torch.float64))
    assert float(s.sum()) == pytest.approx(12.0)
    assert float(s[0, 1]) > 2 * float(s[0, 2])
    assert s[3].tolist() == [1, 1, 1, 0]  # not seen yet: alike to all
    assert similarity(responses[:, :0], seen, variances[:0]).tolist() == (1 - torch.eye(4)).tolist()


# ---- one step --------------------------------------------------------------------------------------------


def built(cls=SoftSharing, classes=CLASSES, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE, classes_per_source=classes))


def of_one(t, size=16, seed=0, dtype=torch.float32):
    b = many.several(generator(seed), size * len(CLASSES), CLASSES, dtype)
    own = b.source == t
    return tasks.Labelled(b.x[own], b.y[own], b.source[own])


def advanced(algorithm, s, batch, moments, phase=None, at=AT):
    """One step as the engine takes it."""
    phase = replace(phase or algorithm.phases(SOURCES)[0], weight_decay=0.1)
    trained = rates(phase, s.learned)
    learned = {n: t.detach().requires_grad_(n in trained) for n, t in s.learned.items()}
    result = algorithm.step(State(learned, s.memory), batch, at, Context())
    grads = _gradients(result, {n: learned[n] for n in trained})
    return State(stepped(s.learned, grads, moments, phase, 0.0, size_of(grads)), result.memory)


def trained(algorithm, steps=6):
    s, moments = algorithm.init(generator(0)), Moments()
    for i in range(steps):
        s = advanced(algorithm, s, of_one(i % 3, seed=i), moments)
    return s


@pytest.mark.parametrize("form", ["mean", "graph"])
def test_only_the_source_of_the_batch_is_moved_and_nothing_else_decays(form):
    """Also where Adam still has momentum for the others."""
    algorithm, moments = built(form=form), Moments()
    s = algorithm.init(generator(0))
    for i in range(6):
        before, s = s, advanced(algorithm, s, of_one(i % 3, seed=i), moments)
        still = {n for n in s.learned if torch.equal(s.learned[n], before.learned[n])}
        assert still == {n for n in s.learned if not n.startswith(f"source.{i % 3}.")}
        assert all(t.is_floating_point() for t in s.memory.values())


def parts(algorithm, s, batch):
    learned = {n: t.detach().requires_grad_() for n, t in s.learned.items()}
    result = algorithm.step(State(learned, s.memory), batch, AT, Context())
    found = torch.autograd.grad(result.loss, list(learned.values()), allow_unused=True)
    return dict(zip(learned, found, strict=True))


def the_pull_is_as_it_should_be(cls, sharing=0.3):
    """Gradient with the pull, less that without: ``lam (theta_t - theta_bar)`` on the trunk, nothing on the head."""
    t, b = 1, of_one(1, seed=7, dtype=torch.float64)
    s = cases.double(trained(built()))
    with_, without = (parts(built(c, sharing=x), s, b) for c, x in ((cls, sharing), (SoftSharing, 0.0)))
    copies = copies_of(s.learned)
    bar, numbers = mean(copies), sum(v.numel() for v in copies[0].values())
    lam = sharing * float(s.memory[LEVEL]) * 100_000 / numbers
    for name, v in copies[t].items():
        key = f"source.{t}.trunk.{name}"
        torch.testing.assert_close(with_[key] - without[key], lam * (v - bar[name]), rtol=1e-9, atol=1e-12)
    for part in ("weight", "bias"):
        key = f"source.{t}.head.{part}"
        torch.testing.assert_close(with_[key], without[key], rtol=0, atol=1e-14)
    assert all(g is None for n, g in with_.items() if not n.startswith(f"source.{t}."))


def test_the_pull_is_scaled_by_loss_and_size_and_spares_the_classifier():
    the_pull_is_as_it_should_be(SoftSharing)


class PullsTheClassifier(SoftSharing):
    def answer(self, learned, features, y, t):
        logits, loss = super().answer(learned, features, y, t)
        return logits, loss + 1e-3 * self.p.sharing * learned[f"source.{t}.head.weight"].square().sum()


class ForgetsTheSize(SoftSharing):
    def __init__(self, p, setting):
        super().__init__(p, setting)
        self.numbers = 100_000


class ForgetsTheLoss(SoftSharing):
    def tune(self, s, batch):
        return super().tune(State(s.learned, {**s.memory, LEVEL: torch.ones_like(s.memory[LEVEL])}), batch)


@pytest.mark.parametrize("cls", [PullsTheClassifier, ForgetsTheSize, ForgetsTheLoss])
def test_the_pull_notices(cls):
    with pytest.raises(AssertionError):
        the_pull_is_as_it_should_be(cls)


def test_statistics_are_no_part_of_a_copy_and_all_copies_begin_as_one():
    algorithm = built()
    s = algorithm.init(generator(0))
    copies = copies_of(s.learned)
    assert set(copies) == {0, 1, 2}
    names = {n for n, _ in algorithm.network.named_parameters()}
    assert all(c.keys() == names for c in copies.values())
    assert all(cases.same(c, copies[0]) for c in copies.values())
    assert cases.same(functional.initial(algorithm.network, generator(0))[0], copies[0])


def test_a_stronger_pull_keeps_the_copies_closer():
    def spread(sharing):
        algorithm = built(sharing=sharing)
        phase = replace(algorithm.phases(SOURCES)[0], optimiser="sgd", lr={"": 0.05})
        s = algorithm.init(generator(0))
        for i in range(30):
            s = advanced(algorithm, s, of_one(i % 3, seed=i), Moments(), phase)
        copies = copies_of(s.learned)
        return sum(float((c["conv.weight"] - mean(copies)["conv.weight"]).norm()) for c in copies.values())

    assert spread(0.0) > 1.2 * spread(0.001) > 2 * spread(0.01)


# ---- the mean network ------------------------------------------------------------------------------------


def test_what_is_left_is_the_mean_with_statistics_measured_on_it():
    algorithm = built()
    phase, last = algorithm.phases(SOURCES)
    s = algorithm.finish(trained(algorithm), phase, Context())
    bar = mean(copies_of(trained(algorithm).learned))
    assert cases.same(functional.under(s.learned), bar)
    moments, batches = Moments(), [many.several(generator(i), 24, CLASSES) for i in range(4)]
    start = s
    for b in batches:
        before, s = s, advanced(algorithm, s, b, moments, last, LAST)
        assert cases.same(before.learned, s.learned)
    means, variances = [], []
    for b in batches:
        x = F.conv2d(b.x, bar["conv.weight"], padding=1)
        means.append(x.mean((0, 2, 3)))
        variances.append(x.var((0, 2, 3)))
    torch.testing.assert_close(s.memory["trunk.norm.running_mean"], torch.stack(means).mean(0))
    torch.testing.assert_close(s.memory["trunk.norm.running_var"], torch.stack(variances).mean(0))
    assert not torch.allclose(start.memory["trunk.norm.running_mean"], s.memory["trunk.norm.running_mean"])
    left = algorithm.finish(s, last, Context())
    loaded = SoftSharing(algorithm.p, Setting("tiny", 1, tasks.SIZE)).init(generator(0))
    # what is kept when a run is stopped in its first phase can be loaded as well
    assert loaded.learned.keys() <= start.learned.keys()
    assert loaded.memory.keys() <= start.memory.keys()
    assert (left.learned.keys(), left.memory.keys()) == (loaded.learned.keys(), loaded.memory.keys())
    e = tasks.episode(generator(1))
    assert torch.equal(cases.predict(algorithm, left, e), cases.predict(algorithm, s, e))


def test_the_statistics_in_training_are_those_of_the_mean_network():
    algorithm = built()
    s, b = trained(algorithm), of_one(2, seed=8)
    moved = algorithm.tune(s, b).memory
    with norm.batch_statistics() as seen:
        functional.call(algorithm.network, mean(copies_of(s.learned)), {}, b.x)
    old = functional.under(s.memory)
    assert int(s.memory[BATCHES]) == 6
    expected = norm.running_average(old, seen, 1 / 7)
    torch.testing.assert_close(functional.under(moved), expected)
    assert s.memory[SEEN].tolist() == [2, 2, 2]
    # and the copies' own statistics are another thing
    with norm.batch_statistics() as own:
        functional.call(algorithm.network, copies_of(s.learned)[2], {}, b.x)
    assert not torch.allclose(own["norm"].mean, seen["norm"].mean, rtol=1e-3)
    torch.testing.assert_close(moved[RESPONSES][2], torch.lerp(s.memory[RESPONSES][2], seen["norm"].mean, 1 / 3))
    assert torch.equal(moved[RESPONSES][:2], s.memory[RESPONSES][:2])


def test_too_many_copies_are_refused():
    algorithm = built()
    algorithm.numbers = 1_000_000_000
    with pytest.raises(WorkbenchError, match="each of 3 sources would need 36 GB"):
        algorithm.phases(SOURCES)
    algorithm.numbers = 1_000_000
    assert len(algorithm.phases(SOURCES)) == 2


def test_a_source_without_classes_has_no_copy():
    s = built(classes=(5, 0, 4)).init(generator(0))
    assert set(copies_of(s.learned)) == {0, 2}
    assert soft_sharing.pull(copies_of(s.learned), 2, torch.ones(3)).shape == ()
