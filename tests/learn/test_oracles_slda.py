"""Streaming LDA: what is streamed is what all pictures together give, in any order, and is the discriminant."""

import pytest
import torch

from tests.learn import cases, tasks
from workbench.core.context import Context
from workbench.learn.algorithms.slda import linear, streamed
from workbench.learn.protocol import Support, generator

D, N = 5, 4


def pictures(seed=0, count=40):
    gen = generator(seed)
    y = torch.cat([torch.arange(N), torch.randint(0, N, (count - N,), generator=gen)])
    centres = 2 * torch.randn(N, D, generator=gen, dtype=torch.float64)
    mix = torch.randn(D, D, generator=gen, dtype=torch.float64)
    return centres[y] + torch.randn(count, D, generator=gen, dtype=torch.float64) @ mix + 3, y


def difference(a, b):
    return max(float((a[n] - b[n]).abs().max()) for n in ("counts", "means", "scatter"))


def one_by_one(x, y, order, chunk=1):
    """Classes are numbered anew in the order of appearance as they would be, then put back."""
    sums, seen = None, []
    for part in torch.split(order, chunk):
        for k in y[part].tolist():
            if k not in seen:
                seen.append(k)
        numbers = torch.tensor([seen.index(k) for k in y[part].tolist()])
        sums = streamed(sums, x[part], numbers, len(seen))
    back = torch.tensor([seen.index(k) for k in range(N)])
    return {"counts": sums["counts"][back], "means": sums["means"][back], "scatter": sums["scatter"]}


@pytest.mark.parametrize("chunk", [1, 3, 17])
def test_streamed_is_batch_in_any_order(chunk):
    x, y = pictures()
    batch = streamed(None, x, y, N)
    for seed in range(4):
        order = torch.randperm(len(y), generator=generator(seed))
        got = one_by_one(x, y, order, chunk)
        assert difference(got, batch) < 1e-8
        for a, b in zip(linear(got, 3.0), linear(batch, 3.0), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prior", [1e-3, 20.0])
def test_a_system_of_the_examples_gives_what_one_of_the_features_gives(prior):
    x, y = pictures()
    x, y = x[: D - 1], y[: D - 1]
    sums = streamed(None, x, y, N)
    for a, b in zip(linear(sums, prior, x - sums["means"][y]), linear(sums, prior), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mistake", ["all pictures counted", "mean after the update"])
def test_another_update_is_noticed(mistake):
    x, y = pictures()
    batch = streamed(None, x, y, N)
    counts, means = torch.zeros(N, dtype=torch.float64), torch.zeros(N, D, dtype=torch.float64)
    scatter = torch.zeros(D, D, dtype=torch.float64)
    for f, k in zip(x, y, strict=True):
        before = f - means[k]
        means[k] += before / (counts[k] + 1)
        off = f - means[k] if mistake == "mean after the update" else before
        n = counts.sum() if mistake == "all pictures counted" else counts[k]
        scatter += n / (n + 1) * torch.outer(off, off)
        counts[k] += 1
    assert difference({"counts": counts, "means": means, "scatter": scatter}, batch) > 1e-3


def test_it_is_the_mahalanobis_distance_to_the_class_means():
    x, y = pictures()
    sums = streamed(None, x, y, N)
    weight, bias = linear(sums, 1e-9)
    pooled = sum((x[y == k] - x[y == k].mean(0)).T @ (x[y == k] - x[y == k].mean(0)) for k in range(N)) / (len(y) - N)
    inverse = torch.linalg.inv(pooled)
    off = x[:, None] - torch.stack([x[y == k].mean(0) for k in range(N)])
    distances = torch.einsum("bnd,de,bne->bn", off, inverse, off)
    z = x @ weight.T + bias
    torch.testing.assert_close(z.softmax(1), (-distances / 2).softmax(1), rtol=1e-6, atol=1e-9)
    common = (x - x.mean(0)).T @ (x - x.mean(0)) / (len(y) - 1)
    assert float((torch.linalg.solve(common, sums["means"].T).T - weight).abs().max()) > 1e-2, "not the common spread"


def test_one_example_a_class_is_the_nearest_mean():
    x, _ = pictures()
    centres, queries = x[:N], x[N:]
    weight, bias = linear(streamed(None, centres, torch.arange(N), N), 20.0)
    nearest = torch.cdist(queries, centres).argmin(1)
    assert torch.equal((queries @ weight.T + bias).argmax(1), nearest)
    same = linear(streamed(None, x[:1].repeat(2, 1), torch.arange(2), 2), 20.0)
    assert all(bool(t.isfinite().all()) for t in same), "equal pictures have no spread"


@pytest.fixture(scope="module")
def built():
    algorithm = cases.build("slda", {})
    return algorithm, algorithm.init(generator(0))


def test_a_class_is_added_without_the_old_pictures(built):
    algorithm, state = built
    e = tasks.episode(generator(1), ways=5, shots=(3, 1, 4, 2, 3))
    f = algorithm.trunk(state)(e.support_x)
    whole = algorithm.adapt(state, Support(e.support_x, e.support_y, 5, f), Context())
    old = e.support_y < 3
    first = algorithm.adapt(state, Support(e.support_x[old], e.support_y[old], 3), Context())
    held = {n: t.clone() for n, t in first.tensors.items()}
    more = algorithm.added(first, f[~old], e.support_y[~old], 5)
    assert cases.same(first.tensors, held)
    cases.close(algorithm.logits(state, more, e.query_x), algorithm.logits(state, whole, e.query_x), 1e-5)
    assert torch.equal(more.tensors["means"][:3], first.tensors["means"]), "no old mean has moved"
    again = algorithm.added(more, f[:2], e.support_y[:2], 5)
    assert float(again.tensors["counts"].sum()) == len(f) + 2
    with pytest.raises(ValueError, match="not taken away"):
        algorithm.added(more, f[:1], e.support_y[:1], 4)
    with pytest.raises(ValueError, match="needs a picture"):
        algorithm.added(more, f[:1], e.support_y[:1], 7)
