"""Domain adaptation against its closed forms, in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench.core.context import Context
from workbench.learn import domain, functional, norm, registry
from workbench.learn.protocol import generator


def gaussian(n, d, seed, scale=1.0):
    gen = generator(seed)
    mix = torch.randn(d, d, generator=gen, dtype=torch.float64)
    return scale * torch.randn(n, d, generator=gen, dtype=torch.float64) @ mix + torch.arange(d, dtype=torch.float64)


def covariance(x, correction=0):
    return torch.cov(x.T, correction=correction)


# ---- AdaBN -----------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Two normalised layers and a shortcut that is normalised too."""

    def __init__(self):
        super().__init__()
        self.shortcut = norm.Norm2d(4)  # registered first and met last
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1, bias=False), norm.Norm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), norm.Norm2d(4)
        self.conv3 = nn.Conv2d(1, 4, 1, bias=False)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return (y + self.shortcut(self.conv3(x))).flatten(1)


def network():
    skeleton = functional.skeleton(Two)
    params, buffers = functional.initial(skeleton, generator(0))
    return skeleton, {n: t.double() for n, t in params.items()}, {n: t.double() for n, t in buffers.items()}


def pictures(n, shift=0.0, seed=1):
    return shift + 2 * torch.randn(n, 1, 6, 6, generator=generator(seed), dtype=torch.float64)


def of_all(skeleton, params, x):
    with norm.batch_statistics(differentiable=True) as seen, torch.no_grad():
        functional.call(skeleton, params, {}, x)
    return norm.as_buffers(seen)


def measured(skeleton, params, buffers, x, batch):
    return domain.target_statistics(skeleton, params, buffers, lambda i, j: x[i:j], len(x), batch, Context(seed=0))


@pytest.mark.parametrize("batch", [1, 3, 11])
def test_adabn_on_the_source_is_the_network_as_it_was(batch):
    skeleton, params, _ = network()
    x = pictures(11)
    own = of_all(skeleton, params, x)
    again = measured(skeleton, params, own, x, batch)
    assert again.keys() == own.keys()
    for name, t in own.items():
        torch.testing.assert_close(again[name], t, rtol=1e-12, atol=1e-12)


def test_adabn_on_another_domain_normalises_that_domain():
    skeleton, params, _ = network()
    own, x = of_all(skeleton, params, pictures(11)), pictures(20, shift=3.0, seed=2)
    before = {n: t.clone() for n, t in own.items()}
    moved = measured(skeleton, params, own, x, 7)
    for name, t in of_all(skeleton, params, x).items():
        torch.testing.assert_close(moved[name], t, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(own[n], before[n]) for n in own), "what was given stays as it is"
    assert not torch.allclose(moved["norm1.running_mean"], own["norm1.running_mean"])


def test_the_mean_of_batches_statistics_is_noticed():
    skeleton, params, _ = network()
    x = torch.cat([pictures(4), pictures(4, shift=3.0)])
    own = of_all(skeleton, params, x)
    halves = [of_all(skeleton, params, part) for part in (x[:4], x[4:])]
    averaged = {n: (halves[0][n] + halves[1][n]) / 2 for n in own}
    assert not torch.allclose(averaged["norm1.running_var"], own["norm1.running_var"], rtol=0.1)


@pytest.mark.parametrize("key", ["conv4", "resnet12"])
def test_adabn_takes_the_backbones(key):
    skeleton = registry.backbone(key).skeleton(1, 16)
    params, buffers = functional.initial(skeleton, generator(0))
    x = pictures(3).float().repeat(1, 1, 3, 3)[:, :, :16, :16]
    moved = measured(skeleton, params, buffers, x, 3)
    assert moved.keys() == buffers.keys()
    assert all(not torch.equal(moved[n], buffers[n]) for n in buffers)
    again = measured(skeleton, params, moved, x, 2)
    for name, t in moved.items():
        torch.testing.assert_close(again[name], t, rtol=1e-4, atol=1e-5)


def test_adabn_needs_a_picture_and_leaves_no_hook_behind():
    skeleton, params, buffers = network()
    with pytest.raises(ValueError, match="one picture"):
        measured(skeleton, params, buffers, pictures(0), 4)
    measured(skeleton, params, buffers, pictures(3), 4)
    assert not any(m._forward_pre_hooks for m in skeleton.modules())


# ---- CORAL -----------------------------------------------------------------------------------------------------------


def test_coral_gives_the_source_the_targets_covariance_and_mean():
    source, target = gaussian(200, 5, 1), gaussian(150, 5, 2, scale=3.0)
    weight, bias = domain.recolour(domain.spread(source, 0.0), domain.spread(target, 0.0))
    moved = F.linear(source, weight, bias)
    torch.testing.assert_close(covariance(moved), covariance(target), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved.mean(0), target.mean(0), rtol=1e-9, atol=1e-9)


def test_coral_the_other_way_round_is_noticed():
    source, target = gaussian(200, 5, 1), gaussian(150, 5, 2, scale=3.0)
    given, wanted = domain.spread(source, 0.0), domain.spread(target, 0.0)
    coloured_first = source @ (wanted.power(0.5) @ given.power(-0.5))
    columns = source @ domain.recolour(given, wanted)[0]
    for wrong in (coloured_first, columns):
        assert not torch.allclose(covariance(wrong), covariance(target), rtol=0.05)


def test_a_small_folder_has_a_covariance_that_can_be_inverted():
    source, target = gaussian(6, 12, 1), gaussian(40, 12, 2)
    small = domain.spread(source)
    assert small.floor > 0
    dense = small.power(1.0)
    torch.testing.assert_close(dense, dense.T)
    torch.testing.assert_close(small.power(-0.5) @ dense @ small.power(-0.5), torch.eye(12, dtype=torch.float64))
    weight, _ = domain.recolour(small, domain.spread(target))
    torch.testing.assert_close(
        weight @ dense @ weight.T, domain.spread(target).power(1.0), rtol=1e-9, atol=1e-9, msg="of the shrunk ones"
    )
    with pytest.raises(ZeroDivisionError):  # without shrinking it is singular
        domain.spread(source, 0.0).power(-0.5)


def test_the_shrunk_covariance_is_the_blend_it_is_said_to_be():
    x = gaussian(7, 4, 3)
    for share in (0.0, 0.3, 1.0):
        c = covariance(x)
        expected = (1 - share) * c + share * c.trace() / 4 * torch.eye(4, dtype=torch.float64)
        torch.testing.assert_close(domain.spread(x, share).power(1.0), expected)


def test_a_domain_recoloured_as_itself_stays_what_it_is():
    own = domain.spread(gaussian(30, 6, 4))
    weight, bias = domain.recolour(own, own)
    torch.testing.assert_close(weight, torch.eye(6, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bias, torch.zeros(6, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_recolouring_folds_into_the_classifier_behind_it():
    x = gaussian(9, 5, 5)
    weight, bias = domain.recolour(domain.spread(x), domain.spread(gaussian(20, 5, 6)))
    head, offset = torch.randn(3, 5, generator=generator(1), dtype=torch.float64), torch.arange(3.0).double()
    both = F.linear(x, *domain.folded(weight, bias, head, offset))
    torch.testing.assert_close(both, F.linear(F.linear(x, weight, bias), head, offset))


def test_corals_penalty_is_the_distance_of_the_covariances():
    source, target = gaussian(20, 4, 1), gaussian(30, 4, 2)
    expected = (covariance(source, 1) - covariance(target, 1)).pow(2).sum() / (4 * 16)
    torch.testing.assert_close(domain.coral_penalty(source, target), expected)
    assert float(domain.coral_penalty(source, source + 7.0)) < 1e-20, "a shift alone is no other covariance"
    leaf = source[:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: domain.coral_penalty(s, target[:6]), (leaf,))


@pytest.mark.parametrize("bad", [torch.zeros(1, 3), torch.zeros(4, 3), torch.full((4, 3), torch.nan)])
def test_features_without_a_spread_are_refused(bad):
    with pytest.raises(ValueError, match=r"spread|same features"):
        domain.spread(bad)


# ---- MMD -------------------------------------------------------------------------------------------------------------


def naive(source, target, bandwidths):
    both = torch.cat([source, target])
    pairs = [float((both[i] - both[j]).square().sum()) for i, j in itertools.permutations(range(len(both)), 2)]
    median = float(torch.tensor(pairs, dtype=torch.float64).median())

    def k(a, b):
        d = float((a - b).square().sum())
        return sum(torch.exp(torch.tensor(-d / (2 * h * median), dtype=torch.float64)) for h in bandwidths) / len(
            bandwidths
        )

    def within(x):
        return sum(k(x[i], x[j]) for i, j in itertools.permutations(range(len(x)), 2)) / (len(x) * (len(x) - 1))

    across = sum(k(a, b) for a in source for b in target) / (len(source) * len(target))
    return within(source) + within(target) - 2 * across


def test_the_estimate_is_its_formula():
    source, target = gaussian(4, 3, 1), gaussian(5, 3, 2)
    torch.testing.assert_close(domain.mmd(source, target), naive(source, target, domain.BANDWIDTHS))


def splits(x, half):
    for chosen in itertools.combinations(range(len(x)), half):
        rest = [i for i in range(len(x)) if i not in chosen]
        yield x[list(chosen)], x[rest]


def test_for_one_domain_the_estimate_has_mean_zero():
    """Over all ways to divide some pictures into two halves, which is exact: no sampling."""
    x = gaussian(8, 3, 3)
    values = torch.stack([domain.mmd(a, b) for a, b in splits(x, 4)])
    assert abs(float(values.mean())) < 1e-15
    assert float(values.min()) < 0 < float(values.max())


def test_the_biased_estimate_is_noticed():
    x = gaussian(8, 3, 3)

    def biased(a, b):
        kernel = torch.exp(-torch.cdist(torch.cat([a, b]), torch.cat([a, b])).square())
        return kernel[:4, :4].mean() + kernel[4:, 4:].mean() - 2 * kernel[:4, 4:].mean()

    assert float(torch.stack([biased(a, b) for a, b in splits(x, 4)]).mean()) > 0.1


def test_two_domains_lie_apart_and_the_gradient_brings_them_together():
    target = gaussian(30, 3, 2)
    source = (gaussian(30, 3, 2) + 8.0).requires_grad_()
    apart = domain.mmd(source, target)
    assert float(apart.detach()) > 0.2
    (slope,) = torch.autograd.grad(apart, source)
    assert float(slope.sum()) > 0, "moving the source back towards the target lessens it"


# ---- DANN ------------------------------------------------------------------------------------------------------------


def test_the_reversals_gradient_is_the_others_with_its_sign_turned():
    x = gaussian(5, 3, 1).requires_grad_()
    weight = torch.randn(3, dtype=torch.float64, generator=generator(0))
    (plain,) = torch.autograd.grad((torch.tanh(x) @ weight).sum(), x)
    for strength in (0.0, 0.25, 1.0):
        through = domain.reversed_gradient(x, strength)
        assert torch.equal(through, x)
        (turned,) = torch.autograd.grad((torch.tanh(through) @ weight).sum(), x)
        assert torch.equal(turned, -strength * plain)


def test_the_strength_goes_from_nought_to_one():
    assert domain.reversal_strength(0.0) == 0.0
    assert domain.reversal_strength(1.0) == pytest.approx(0.9999092, abs=1e-7)
    assert domain.reversal_strength(0.1) == pytest.approx(0.4621172, abs=1e-7)


def test_the_classifier_learns_what_the_features_are_to_unlearn():
    source, target = gaussian(6, 4, 1).requires_grad_(), gaussian(9, 4, 2)
    classifier = {n: t.double().requires_grad_() for n, t in domain.domain_classifier(4, generator(3)).items()}
    leaves = [*classifier.values(), source]

    def grads(strength):
        loss, right = domain.told_apart(classifier, source, target, strength)
        assert 0 <= right <= 1
        return torch.autograd.grad(loss, leaves)

    with_reversal, plain = grads(0.5), grads(-1.0)
    for a, b in zip(with_reversal[:-1], plain[:-1], strict=True):
        assert torch.equal(a, b), "the classifier itself is not reversed"
    assert float(plain[-1].abs().max()) > 0
    torch.testing.assert_close(with_reversal[-1], -0.5 * plain[-1], rtol=1e-12, atol=0)


def test_both_domains_count_alike_however_many_pictures_they_have():
    classifier = {n: t.double() for n, t in domain.domain_classifier(4, generator(3)).items()}
    source, target = gaussian(6, 4, 1), gaussian(2, 4, 2)
    once = domain.told_apart(classifier, source, target, 1.0)
    often = domain.told_apart(classifier, source, target.repeat(10, 1), 1.0)
    assert float(once[0]) == pytest.approx(float(often[0]))
    assert once[1] == pytest.approx(often[1])


# ---- what it may cost ------------------------------------------------------------------------------------------------


def test_separation_falls_where_classes_collapse():
    y = torch.arange(3).repeat_interleave(10)
    noise = gaussian(30, 4, 1) - torch.arange(4)
    noise = noise - torch.stack([noise[y == c].mean(0) for c in range(3)])[y]
    centres = torch.eye(4, dtype=torch.float64)[:3] * 10
    apart, collapsed = centres[y] + noise, noise
    between = float((centres[y] - centres[y].mean(0)).square().sum())
    assert domain.separation(apart, y) == pytest.approx(between / (between + float(noise.square().sum())))
    assert domain.separation(collapsed, y) < 1e-20
    assert domain.separation(centres[y], y) == pytest.approx(1.0)
    assert domain.separation(torch.ones(30, 4), y) == 0.0
