"""Clusters against what they are by definition, and against data whose clusters are known."""

import itertools

import pytest
import torch

from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.learn import clusters
from workbench.learn.protocol import generator


def blobs(count, each, spread=0.1, seed=0, d=6):
    gen = generator(seed)
    centres = 2 * torch.randn(count, d, generator=gen, dtype=torch.float64)
    y = torch.arange(count).repeat_interleave(each)
    return centres[y] + spread * torch.randn(len(y), d, generator=gen, dtype=torch.float64), y


def kmeans(x, count, seed=0, **options):
    return clusters.kmeans(x, count, generator(seed), Context(), **options)


def test_it_finds_the_tightest_of_all_divisions():
    x = torch.randn(7, 2, generator=generator(1), dtype=torch.float64)

    def spread(labels):
        y = torch.tensor(labels)
        return sum(float((x[y == c] - x[y == c].mean(0)).square().sum()) for c in set(labels))

    best = min(spread(labels) for labels in itertools.product(range(3), repeat=7) if len(set(labels)) == 3)
    found = kmeans(x, 3, starts=30)
    assert found.spread == pytest.approx(best, rel=1e-12)
    assert found.spread == pytest.approx(spread(found.labels.tolist()), rel=1e-12)


def test_several_starts_are_better_than_one():
    x, _ = blobs(12, 8, spread=0.3, d=2)
    once = [kmeans(x, 12, seed, starts=1).spread for seed in range(8)]
    assert kmeans(x, 12, starts=10).spread < max(once) * 0.9, "one start gets stuck"


def test_no_cluster_is_empty_even_where_pictures_are_alike():
    x = torch.ones(6, 3, dtype=torch.float64)
    found = kmeans(x, 4)
    assert sorted(set(found.labels.tolist())) == [0, 1, 2, 3]
    assert found.spread == 0
    with pytest.raises(ValueError, match="cannot make 7"):
        kmeans(x, 7)


def test_silhouettes_are_their_definition():
    x, y = blobs(3, 4, spread=0.8)
    x, y = torch.cat([x, x[:1] + 9]), torch.cat([y, torch.tensor([3])])
    d = torch.cdist(x, x)
    expected = []
    for i in range(len(x)):
        own = [j for j in range(len(x)) if y[j] == y[i] and j != i]
        if not own:
            expected.append(0.0)
            continue
        a = float(d[i, own].mean())
        b = min(float(d[i, y == c].mean()) for c in range(4) if c != y[i])
        expected.append((b - a) / max(a, b))
    torch.testing.assert_close(clusters.silhouettes(d, y), torch.tensor(expected, dtype=torch.float64))


def test_counting_a_picture_as_its_own_neighbour_is_noticed():
    x, y = blobs(3, 3, spread=0.8)
    d = torch.cdist(x, x)
    member = torch.nn.functional.one_hot(y).to(d)
    means = (d @ member) / member.sum(0)
    a, b = means.gather(1, y[:, None])[:, 0], means.masked_fill(member.bool(), torch.inf).min(1).values
    assert not torch.allclose((b - a) / torch.maximum(a, b), clusters.silhouettes(d, y))


@pytest.mark.parametrize("count", [2, 5, 9])
def test_the_number_of_clear_clusters_is_suggested_and_they_are_found(count):
    x, y = blobs(count, 8, seed=count)
    seen = clusters.directions(x)
    number, tried = clusters.suggested(seen, generator(0), Context(), most=15)
    assert number == count
    assert [k for k, _ in tried] == list(range(2, 16))[: len(tried)]
    assert clusters.adjusted_rand(y, kmeans(seen, number).labels) == 1.0


def test_a_coarse_division_is_passed_over_where_a_finer_one_is_nearly_as_clear():
    dark_and_light = [(2, 0.14), (3, 0.12), (4, 0.11), (5, 0.12), (6, 0.13), (7, 0.10)]
    assert clusters.best_number(dark_and_light) == 6
    two_kinds = [(2, 0.60), (3, 0.20), (4, 0.15), (5, 0.22), (6, 0.14)]
    assert clusters.best_number(two_kinds) == 2
    rising = [(2, 0.1), (3, 0.3), (4, 0.5), (5, 0.2)]
    assert clusters.best_number(rising) == 4
    assert clusters.best_number([(2, 0.3)]) == 2


def test_principal_directions_keep_the_distances_that_matter():
    gen = generator(2)
    for n in (40, 200):  # fewer pictures than features, and more
        flat = torch.randn(n, 10, generator=gen) @ torch.randn(10, 120, generator=gen)
        seen = clusters.directions(flat)
        assert seen.shape == (n, min(n, 64)) if n < 64 else (n, 64)
        x = flat.double() - flat.double().mean(0)
        x = x / x.norm(dim=1, keepdim=True)
        torch.testing.assert_close(torch.cdist(seen, seen), torch.cdist(x, x), rtol=1e-5, atol=1e-5)


def test_what_lies_far_from_its_cluster_is_unusual():
    x, _ = blobs(3, 20, spread=0.05)
    x = torch.cat([x, x[:1] + 1.0])
    found = kmeans(x, 3)
    assert clusters.unusual(x, found).nonzero().flatten().tolist()[-1] == 60
    assert int(clusters.unusual(x, found).sum()) < 6


def test_the_adjusted_rand_index_is_one_for_the_same_and_has_mean_zero_by_chance():
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    assert clusters.adjusted_rand(y, torch.tensor([2, 2, 0, 0, 1, 1])) == 1.0
    assert clusters.adjusted_rand(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])) == pytest.approx(-0.5)
    mixed = [clusters.adjusted_rand(y, y[list(order)]) for order in itertools.permutations(range(6))]
    assert sum(mixed) / len(mixed) == pytest.approx(0, abs=1e-12)


def test_a_stop_is_heeded():
    ctx = Context()
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        clusters.suggested(blobs(3, 5)[0], generator(0), ctx)
