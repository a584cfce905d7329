"""LEEP, NCE, H-score and LogME against their definitions written out, and against closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from workbench.learn.protocol import generator
from workbench.transfer import scores
from workbench.transfer.scores import SCORES, evidence, h_score, ledoit_wolf, leep, logme, nce


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def labels(ways=4, each=6):
    return torch.arange(ways).repeat_interleave(each)


def task(ways=4, each=6, d=10, apart=1.5, seed=0):
    """Features of ``ways`` classes, Gaussian about centres that lie ``apart``."""
    y = labels(ways, each)
    return normal(len(y), d, seed=seed) + apart * normal(ways, d, seed=seed + 100)[y], y


# ---- LEEP and NCE --------------------------------------------------------------------------------------------------


def leep_by_hand(logits, y, ways):
    theta, n = logits.softmax(1), len(y)
    total = 0.0
    for i in range(n):
        inner = 0.0
        for z in range(logits.shape[1]):
            joint = sum(float(theta[j, z]) for j in range(n) if y[j] == y[i]) / n
            inner += joint / (float(theta[:, z].sum()) / n) * float(theta[i, z])
        total += math.log(inner)
    return total / n


@pytest.mark.parametrize("z", [2, 7, 40])
def test_leep_is_the_formula_of_the_paper(z):
    logits, y = 2 * normal(24, z), labels()
    assert leep(logits, y, 4) == pytest.approx(leep_by_hand(logits, y, 4), rel=1e-12)


def test_leep_of_answers_that_say_nothing_is_the_labels_entropy():
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    entropy = -sum(p * math.log(p) for p in (1 / 2, 1 / 3, 1 / 6))
    assert leep(torch.zeros(6, 5), y, 3) == pytest.approx(-entropy, rel=1e-12)
    assert nce(torch.zeros(6, 5), y, 3) == pytest.approx(-entropy, rel=1e-12)


def test_leep_of_a_certain_source_is_nce():
    """With theta one-hot the soft table is the hard one."""
    z = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 0, 1, 2, 3])
    y = torch.tensor([0, 0, 1, 1, 0, 2, 2, 2, 1, 1, 0, 2])
    certain = 1e4 * F.one_hot(z, 5).double()
    by_hand = 0.0
    for a in range(3):
        for b in range(4):
            both = float(((y == a) & (z == b)).sum())
            if both:
                by_hand += both / 12 * math.log(both / float((z == b).sum()))
    assert nce(certain, y, 3) == pytest.approx(by_hand, rel=1e-12)
    assert leep(certain, y, 3) == pytest.approx(by_hand, rel=1e-12)


def test_leep_and_nce_stay_in_their_ranges_and_are_better_where_the_source_tells_the_classes_apart():
    y = labels()
    knows = 3 * F.one_hot(y, 6).double() + normal(24, 6)
    for seed in range(5):
        logits = 3 * normal(24, 6, seed=seed)
        assert -math.log(4) - 1e-12 <= nce(logits, y, 4) <= 0
        assert leep(logits, y, 4) <= 0
        assert leep(logits, y, 4) < leep(knows, y, 4)
        assert nce(logits, y, 4) < nce(knows, y, 4)


def test_what_carries_no_meaning_changes_neither():
    logits, y = 2 * normal(24, 7), labels()
    turned, order = torch.randperm(7, generator=generator(1)), torch.randperm(24, generator=generator(2))
    other = torch.randperm(4, generator=generator(3))
    for score in (leep, nce):
        value = score(logits, y, 4)
        assert score(logits + normal(24, 1), y, 4) == pytest.approx(value, rel=1e-12)  # softmax's free constant
        assert score(logits[:, turned], y, 4) == pytest.approx(value, rel=1e-12)
        assert score(logits[order], y[order], 4) == pytest.approx(value, rel=1e-12)
        assert score(logits, other[y], 4) == pytest.approx(value, rel=1e-12)


def test_leep_stands_logits_that_overflow_an_exponential():
    logits, y = 1e4 * normal(24, 7), labels()
    assert math.isfinite(leep(logits, y, 4))
    exact = leep(1e4 * F.one_hot(logits.argmax(1), 7).double(), y, 4)
    assert leep(logits, y, 4) == pytest.approx(exact, rel=1e-9)


def test_with_fewer_examples_than_source_classes_leep_mistakes_luck_for_knowledge():
    """The reason why it is not asked at a few shots: every source class is seen about once."""
    y = labels(5, 1)
    alone = 50 * F.one_hot(torch.tensor([3, 17, 22, 40, 63]), 64).double()
    assert leep(alone, y, 5) > -1e-6


# ---- H-score -------------------------------------------------------------------------------------------------------


def test_the_plain_h_score_is_the_explained_sum_of_squares():
    f, y = task()
    share = torch.bincount(y).double() / len(y)
    goals = F.one_hot(y, 4).double() / share.sqrt()
    x, t = f - f.mean(0), goals - goals.mean(0)
    fitted = x @ torch.linalg.lstsq(x, t).solution
    assert h_score(f, y, 4, shrinkage=0.0) == pytest.approx(float(fitted.square().sum()) / len(y), rel=1e-10)


@pytest.mark.parametrize("d", [3, 10, 60])
@pytest.mark.parametrize("shrinkage", [None, 0.3, 1e-6])
def test_the_shrunk_h_score_is_the_formula_of_the_paper(d, shrinkage):
    f, y = task(d=d)
    y = torch.cat([y[:-3], torch.zeros(3, dtype=torch.int64)])  # unequal classes
    x = f - f.mean(0)
    a = ledoit_wolf(x) if shrinkage is None else shrinkage
    c = x.T @ x / len(y)
    shrunk = (1 - a) * c + a * c.trace() / d * torch.eye(d, dtype=torch.float64)
    means = torch.stack([x[y == k].mean(0) for k in range(4)])[y]
    expected = float(torch.linalg.solve(shrunk, (1 - a) * means.T @ means / len(y)).trace())
    assert h_score(f, y, 4, shrinkage) == pytest.approx(expected, rel=1e-8)


def test_the_share_is_that_of_ledoit_and_wolf():
    f, _ = task(d=5)
    x = f - f.mean(0)
    c = x.T @ x / len(x)
    target = c.trace() / 5 * torch.eye(5, dtype=torch.float64)
    noise = torch.stack([(torch.outer(r, r) - c).square().sum() for r in x]).mean() / len(x)
    assert ledoit_wolf(x) == pytest.approx(float(noise / (c - target).square().sum()), rel=1e-10)
    assert 0 < ledoit_wolf(x) < 1


def test_without_shrinkage_few_examples_make_all_networks_look_perfect():
    good, y = task(ways=3, each=3, d=40, apart=4.0)
    noise = normal(9, 40, seed=9)
    assert h_score(noise, y, 3, shrinkage=0.0) == pytest.approx(2.0, abs=1e-9)
    assert h_score(good, y, 3, shrinkage=0.0) == pytest.approx(2.0, abs=1e-9)
    assert h_score(good, y, 3) > h_score(noise, y, 3) + 0.5


def test_the_h_score_stays_between_nothing_and_one_less_than_the_classes():
    for seed in range(5):
        f, y = task(seed=seed, apart=seed)
        assert 0 <= h_score(f, y, 4) <= h_score(f, y, 4, 0.0) <= 3
    y = labels()
    assert h_score(1e3 * F.one_hot(y, 4).double() + 1e-6 * normal(24, 4), y, 4, 0.0) == pytest.approx(3, abs=1e-6)
    assert h_score(torch.ones(24, 5), y, 4) == 0.0


def test_the_h_score_does_not_see_where_the_features_lie_how_they_are_turned_or_scaled():
    f, y = task()
    turn = torch.linalg.qr(normal(10, 10, seed=5)).Q
    value = h_score(f, y, 4)
    assert h_score(7 * f @ turn + 100, y, 4) == pytest.approx(value, rel=1e-8)
    assert h_score(f, 3 - y, 4) == pytest.approx(value, rel=1e-12)


# ---- LogME ---------------------------------------------------------------------------------------------------------


def log_density(t, f, alpha, beta):
    """``log N(t; 0, F F'/alpha + I/beta)`` by the covariance itself."""
    n = len(t)
    cov = f @ f.T / alpha + torch.eye(n, dtype=f.dtype) / beta
    return float(-0.5 * (t @ torch.linalg.solve(cov, t)) - 0.5 * torch.logdet(cov) - n / 2 * math.log(2 * math.pi))


@pytest.mark.parametrize(("each", "d"), [(6, 5), (6, 24), (2, 40), (1, 200)])
def test_the_evidence_is_the_gaussian_density_also_with_fewer_examples_than_features(each, d):
    f, y = task(each=each, d=d)
    goals = F.one_hot(y, 4).double()
    for column, e in enumerate(evidence(f, goals)):
        density = log_density(goals[:, column], f, e.alpha, e.beta)
        assert e.value == pytest.approx(density, rel=1e-6, abs=1e-6)


def test_the_sum_over_the_non_zero_eigenvalues_alone_is_not_the_density():
    """What a well-known implementation computes; the gap is ``(D - n)/2 log alpha`` and differs between networks."""
    f, y = task(each=2, d=40)
    t = F.one_hot(y, 4).double()[:, 0]
    e = evidence(f, t[:, None])[0]
    s = torch.linalg.svdvals(f).square()
    m = torch.linalg.solve(e.alpha * torch.eye(40, dtype=f.dtype) + e.beta * f.T @ f, e.beta * f.T @ t)
    fit = e.beta / 2 * (f @ m - t).square().sum() + e.alpha / 2 * m.square().sum()
    rest = 4 * math.log(e.beta) + 20 * math.log(e.alpha) - float(fit) - 4 * math.log(2 * math.pi)
    short = rest - 0.5 * float((e.alpha + e.beta * s).log().sum())
    full = short - 0.5 * (40 - 8) * math.log(e.alpha)
    assert e.value == pytest.approx(full, abs=1e-6)
    assert abs(short - full) > 1


def test_no_other_precisions_have_more_evidence():
    f, y = task(d=30)
    t = F.one_hot(y, 4).double()[:, 1]
    best = evidence(f, t[:, None])[0]
    for a in (0.1, 0.9, 1.1, 10):
        for b in (0.1, 0.9, 1.1, 10):
            assert log_density(t, f, a * best.alpha, b * best.beta) < best.value + 1e-9


def test_the_maximum_is_a_fixed_point_of_the_papers_iteration():
    f, y = task(d=12, each=10)
    t = F.one_hot(y, 4).double()[:, 2]
    _, alpha, beta = evidence(f, t[:, None])[0]
    sigma = torch.linalg.svdvals(f).square()
    gamma = float((sigma / (sigma + alpha / beta)).sum())
    m = torch.linalg.solve(alpha * torch.eye(12, dtype=f.dtype) + beta * f.T @ f, beta * f.T @ t)
    assert gamma / float(m.square().sum()) == pytest.approx(alpha, rel=1e-5)
    assert (len(t) - gamma) / float((f @ m - t).square().sum()) == pytest.approx(beta, rel=1e-5)


def test_logme_does_not_see_order_names_turns_scale_or_features_that_are_always_zero():
    f, y = task(d=30)
    value = logme(f, y, 4)
    order, turn = torch.randperm(24, generator=generator(1)), torch.linalg.qr(normal(30, 30, seed=5)).Q
    assert logme(f[order], y[order], 4) == pytest.approx(value, abs=1e-8)
    assert logme(f, 3 - y, 4) == pytest.approx(value, abs=1e-8)
    assert logme(f * (3 * normal(24, 1, seed=6)).exp(), y, 4) == pytest.approx(value, abs=1e-8)
    assert logme(9 * f @ turn, y, 4) == pytest.approx(value, abs=1e-8)
    wider = torch.cat([f, f.new_zeros(24, 500)], 1)
    assert logme(wider, y, 4) == pytest.approx(value, abs=1e-8), "the sum over all D makes widths comparable"


def test_logme_prefers_features_that_hold_the_classes_and_stays_finite():
    y = labels()
    found = [logme(task(apart=apart, d=30)[0], y, 4) for apart in (0.0, 1.0, 4.0)]
    assert found == sorted(found)
    assert found[2] > found[0] + 0.1
    assert math.isfinite(logme(F.one_hot(y, 4).double(), y, 4)), "labels that the features give exactly"
    assert math.isfinite(logme(torch.zeros(24, 5), y, 4))
    assert math.isfinite(logme(task(each=1, d=1600)[0], labels(4, 1), 4))


# ---- the table -----------------------------------------------------------------------------------------------------


def test_every_score_is_named_sourced_and_can_be_asked():
    f, y = task()
    assert set(SCORES) == {"leep", "nce", "h-score", "logme"}
    for key, score in SCORES.items():
        assert (score.key, score.shots >= 2) == (key, True)
        assert score.title
        assert score.paper
        assert math.isfinite(score.measure(f.float(), y, 4))


@pytest.mark.parametrize("key", ["leep", "nce", "h-score", "logme"])
def test_what_makes_no_sense_is_refused(key):
    measure = SCORES[key].measure
    f, y = task()
    for bad in ((f[:5], y, 4), (f, y, 3), (f * math.nan, y, 4), (f[:, 0], y, 4), (f[:0], y[:0], 4)):
        with pytest.raises(ValueError):
            measure(*bad)
    with pytest.raises(ValueError, match="between 0 and 1"):
        scores.h_score(f, y, 4, shrinkage=1.5)
