"""Heads on a trunk that stays as it is: directions of class means, and distances in the examples' covariances."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn import functional, registry
from workbench.learn.protocol import At, Setting, State, Support, generator

Y = torch.tensor([0, 0, 0, 1, 2, 2, 1, 2, 2, 2])
D = 128


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def answers(key, s, y, q, **params):
    tasks.tiny_backbone()
    a = registry.create(key, params, Setting("tiny", 1, tasks.SIZE))
    adapted = a.adapt(State({}, {}), Support(s, y, 3, s), Context())
    return a.head(State({}, {}), adapted)(q)


def test_cosine_is_the_angle_to_the_mean_direction():
    s, q = normal(10, D), normal(7, D, seed=1)
    centres = torch.stack([F.normalize(s, dim=1)[k == Y].mean(0) for k in range(3)])
    expected = 10 * F.cosine_similarity(q[:, None], centres, dim=-1)
    torch.testing.assert_close(answers("cosine", s, Y, q), expected, rtol=0, atol=1e-12)


def test_cosine_does_not_see_lengths():
    s, q = normal(10, D), normal(7, D, seed=1)
    lengths = 1 + torch.rand(10, 1, generator=generator(2), dtype=torch.float64)
    found = answers("cosine", lengths * s, Y, 3 * q)
    torch.testing.assert_close(found, answers("cosine", s, Y, q), rtol=0, atol=1e-12)


def by_definition(s, y, q, beta, ways=3):
    everything = torch.cov(s.T)
    unit, out = everything.diagonal().mean(), []
    for k in range(ways):
        x = s[y == k]
        own = torch.cov(x.T) if len(x) > 1 else torch.zeros_like(everything)
        share = len(x) / (len(x) + 1)
        cov = share * own + (1 - share) * everything + beta * unit * torch.eye(s.shape[1], dtype=s.dtype)
        d = q - x.mean(0)
        out.append(-torch.einsum("bi,ij,bj->b", d, torch.linalg.inv(cov), d))
    return torch.stack(out, 1)


@pytest.mark.parametrize("y", [Y, torch.tensor([0, 1, 2, 2, 2, 2, 2, 2, 2, 2])])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_mahalanobis_equals_its_definition(y, beta):
    s, q = 2 + normal(10, D), normal(7, D, seed=1)
    found = answers("mahalanobis", s, y, q, beta=beta)
    torch.testing.assert_close(found.softmax(1), by_definition(s, y, q, beta).softmax(1), rtol=0, atol=1e-9)


def test_the_scale_of_the_trunk_does_not_matter_and_would_with_the_bare_identity(monkeypatch):
    s, q = normal(10, D), normal(7, D, seed=1)

    def gap():
        return float((answers("mahalanobis", 30 * s, Y, 30 * q) - answers("mahalanobis", s, Y, q)).abs().max())

    assert gap() < 1e-8
    monkeypatch.setattr("workbench.learn.mahalanobis.unit", lambda *_: 1.0)
    assert gap() > 1e-3


@pytest.mark.parametrize("key", ["cosine", "mahalanobis"])
def test_nothing_is_trained(key):
    tasks.tiny_backbone()
    a = registry.create(key, {}, Setting("tiny", 1, tasks.SIZE))
    state = a.init(generator(0))
    with pytest.raises(WorkbenchError, match="train"):
        a.step(state, tasks.batch(generator(0), 1), At("", 0, 0.0), Context())


@pytest.mark.parametrize("key", ["conv4-block3", "conv4-32-block3", "resnet12-block3", "resnet18-layer3"])
def test_a_beginning_has_some_of_the_tensors_of_the_whole_and_computes_the_same(key):
    info = registry.backbone(key)
    whole = registry.backbone(info.part_of)
    assert registry.beginning_of(whole.key) == key
    assert registry.beginning_of(key) == ""
    size = max(whole.min_size, 32)
    params, buffers = functional.initial(whole.skeleton(3, size), generator(0))
    short = info.skeleton(3, size)
    wanted = {n: t.shape for n, t in (*short.named_parameters(), *short.named_buffers())}
    assert wanted.items() < {n: t.shape for n, t in {**params, **buffers}.items()}.items()
    x = torch.randn(2, 3, size, size, generator=generator(1))
    net = functional.frozen(short, {n: t for n, t in {**params, **buffers}.items() if n in wanted})
    full = functional.frozen(whole.skeleton(3, size), {**params, **buffers})
    seen = []
    inside = dict(full.named_modules())["layer3" if "layer3" in key else "2"]
    inside.register_forward_hook(lambda _m, _i, out: seen.append(out))
    full(x)
    grid = seen[0].shape[-1] // 2 if key.startswith("conv4") else 1
    expected = F.adaptive_avg_pool2d(seen[0], grid).flatten(1)
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-6)
    assert expected.shape[1] == info.embedding_size(3, size)
