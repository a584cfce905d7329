from __future__ import annotations

import gc
import itertools
import math

import pytest
import torch
from torch import Tensor

from workbench.learn.protocol import generator
from workbench.transfer import represent as module
from workbench.transfer.represent import Representation, distance, fold, represent, similarity


def domain(seed: int, classes: int = 10, each: int = 20, d: int = 32, shift: float = 0.0) -> Tensor:
    """Features ``[classes * each, d]`` of a source: classes spread about its centre in directions of its own."""
    gen = generator(seed)
    basis = torch.linalg.qr(torch.randn(d, d, generator=gen)).Q
    widths = torch.linspace(2.0, 0.1, d)
    centres = torch.randn(classes, d, generator=gen) * widths
    points = centres.repeat_interleave(each, 0) + 0.7 * torch.randn(classes * each, d, generator=gen) * widths
    return points @ basis + shift * torch.randn(d, generator=gen)


def test_mean_and_covariance_of_many_pictures_are_the_plain_ones() -> None:
    x = torch.randn(20_000, 6, generator=generator(0)) @ torch.diag(torch.tensor([3.0, 2, 1, 1, 0.5, 0.1])) + 5
    r = represent(x)
    assert torch.allclose(r.mean, x.mean(0), atol=1e-5)
    assert torch.allclose(r.covariance, torch.cov(x.T), atol=0.02)
    assert (r.n, r.mean.dtype, r.covariance.dtype) == (20_000, torch.float32, torch.float32)


def test_few_pictures_give_a_covariance_nearer_the_truth_than_the_plain_one() -> None:
    truth = torch.diag(torch.linspace(1.0, 2.0, 40))
    gains = []
    for seed in range(20):
        x = torch.randn(10, 40, generator=generator(seed)) @ truth.sqrt()
        plain = torch.cov(x.T, correction=0)
        gains.append(float((plain - truth).norm() - (represent(x).covariance - truth).norm()))
        assert float(torch.linalg.eigvalsh(represent(x).covariance).min()) > 0.01, "it can be inverted"
        assert math.isclose(float(represent(x).covariance.trace()), float(plain.trace()), rel_tol=1e-4)
    assert min(gains) > 0


def test_the_order_of_the_pictures_does_not_matter() -> None:
    x = domain(0)
    turned = represent(x[torch.randperm(len(x), generator=generator(1))])
    r = represent(x)
    assert torch.allclose(r.mean, turned.mean, atol=1e-6)
    assert torch.allclose(r.covariance, turned.covariance, atol=1e-5)
    source = represent(domain(2))
    assert math.isclose(similarity(r, source), similarity(turned, source), rel_tol=1e-5)


def test_identical_tasks_are_fully_similar() -> None:
    for n in (1, 2, 5, 200):
        x = domain(3)[:n]
        assert similarity(represent(x), represent(x)) == 1.0
    assert distance(represent(domain(3)), represent(domain(3))) == 0.0
    same = torch.ones(4, 8)
    assert similarity(represent(same), represent(same)) == 1.0
    assert similarity(represent(same), represent(same + 1)) == 0.0


def test_one_picture_is_enough() -> None:
    source = represent(domain(4))
    one = represent(domain(4)[:1])
    assert one.n == 1
    assert torch.equal(one.covariance, torch.zeros(32, 32))
    assert 0 < similarity(one, source) < 1
    assert similarity(one, source) > similarity(represent(domain(4)[:1] + 4), source)


def test_it_falls_as_the_mean_moves_away() -> None:
    x, source = domain(5)[:25], represent(domain(5))
    direction = torch.nn.functional.normalize(torch.randn(32, generator=generator(0)), dim=0)
    start = x - represent(x).mean + source.mean
    found = [similarity(represent(start + far * direction), source) for far in (0, 0.5, 1, 2, 4, 8, 16, 32)]
    assert all(a > b for a, b in itertools.pairwise(found))
    assert found[-1] < 0.01


def test_it_falls_as_the_spread_departs() -> None:
    x = domain(6)
    middle, source = x.mean(0), represent(x)
    found = [similarity(represent((x - middle) * k + middle), source) for k in (1, 1.5, 2, 4, 8)]
    assert all(a > b for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e3])
def test_it_does_not_depend_on_the_scale_of_the_features(scale: float) -> None:
    a, b = domain(7), domain(8)
    plain = similarity(represent(a), represent(b))
    assert math.isclose(similarity(represent(a * scale), represent(b * scale)), plain, rel_tol=1e-3)
    assert math.isclose(similarity(represent(a + 100 * scale), represent(b + 100 * scale)), plain, rel_tol=0.02)


def test_it_does_not_depend_on_the_number_of_features() -> None:
    a, b = domain(9), domain(10, shift=1.0)
    plain = similarity(represent(a), represent(b))
    doubled = similarity(represent(torch.cat([a, a], 1)), represent(torch.cat([b, b], 1)))
    assert abs(plain - doubled) < 0.05
    turn = torch.linalg.qr(torch.randn(32, 32, generator=generator(0))).Q
    assert math.isclose(similarity(represent(a @ turn), represent(b @ turn)), plain, rel_tol=1e-3)


@pytest.mark.parametrize("shots", [1, 5])
def test_other_classes_of_the_same_source_are_similar_and_other_sources_are_not(shots: int) -> None:
    own, far = [], []
    for seed in range(8):
        x = domain(seed, classes=20).reshape(20, 20, 32)
        task = represent(x[:5, :shots].reshape(-1, 32))
        own.append(similarity(task, represent(x[5:].reshape(-1, 32))))
        far.append(similarity(task, represent(domain(seed + 100, shift=2.5))))
    assert sum(own) / len(own) > 0.6
    assert max(far) < 0.2
    assert min(own) > max(far)


def test_halves_of_one_source() -> None:
    for seed in range(8):
        x = domain(seed, classes=20).reshape(20, 20, 32)
        a, b = represent(x[:10].reshape(-1, 32)), represent(x[10:].reshape(-1, 32))
        assert similarity(a, b) > 0.6
        assert similarity(b, a) > 0.6


def test_the_frechet_distance_is_the_textbook_one() -> None:
    a, b = represent(domain(11)), represent(domain(12, shift=0.5))
    ca, cb = a.covariance.double(), b.covariance.double()

    def root(c: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(c)
        return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T

    expected = float(ca.trace() + cb.trace() - 2 * root(root(cb) @ ca @ root(cb)).trace())
    assert math.isclose(module._bures(ca, cb), expected, rel_tol=1e-6)
    assert math.isclose(module._bures(cb, ca), expected, rel_tol=1e-6)
    diagonal = [torch.diag(torch.tensor(v, dtype=torch.float64)) for v in ([4.0, 9.0], [1.0, 16.0])]
    assert math.isclose(module._bures(*diagonal), (2 - 1) ** 2 + (3 - 4) ** 2, rel_tol=1e-6)


def test_wide_features_are_folded_and_distances_survive() -> None:
    gen = generator(0)
    x = torch.randn(50, 1600, generator=gen)
    y = fold(x)
    assert y.shape == (50, module.WIDEST)
    assert torch.equal(y, fold(x))
    assert torch.equal(fold(x[:, :64]), x[:, :64])
    there, here = torch.cdist(x, x), torch.cdist(y, y)
    ratio = (here / there)[~torch.eye(50, dtype=torch.bool)]
    assert 0.9 < float(ratio.mean()) < 1.1
    assert 0.6 < float(ratio.min()) < float(ratio.max()) < 1.4
    assert represent(x).covariance.shape == (module.WIDEST, module.WIDEST)
    used = fold(torch.eye(1600))
    assert (used.abs().sum(0) > 0).all(), "every group is used"
    assert torch.equal(used.abs().sum(1), torch.ones(1600)), "every feature is in one group"


def test_what_makes_no_sense_is_refused() -> None:
    for bad in (torch.zeros(0, 4), torch.zeros(4), torch.full((2, 3), float("nan"))):
        with pytest.raises(ValueError):
            represent(bad)
    with pytest.raises(ValueError, match="same network"):
        similarity(represent(torch.zeros(2, 3)), represent(torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="does not fit"):
        Representation(torch.zeros(3), torch.zeros(4, 4), 1)
    with pytest.raises(ValueError, match="at least one"):
        Representation(torch.zeros(3), torch.zeros(3, 3), 0)


def test_no_graph_is_kept_and_distances_are_remembered_as_long_as_the_tasks_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = represent(domain(0).requires_grad_()), represent(domain(1))
    assert not a.mean.requires_grad
    first = distance(a, b)
    monkeypatch.setattr(module, "_bures", lambda *_: pytest.fail("measured again"))
    assert distance(a, b) == first
    held = len(module._known)
    del a
    gc.collect()
    assert len(module._known) == held - 1
