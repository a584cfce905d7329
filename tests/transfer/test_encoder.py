"""The task encoder: a set function, trained so that halves of one source find each other, kept safely on disk."""

import math

import pytest
import torch

from tests.transfer.tasks import normal, retold, task
from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, StorageError
from workbench.learn import mlp
from workbench.learn.protocol import generator
from workbench.transfer.encoder import CARD, Encoder, encoded, encoded_together, load, save
from workbench.transfer.encoder_training import MANY, SourceFeatures, regress, train, two_episodes
from workbench.transfer.kinds import TaskData

CTX = Context()
D = 12


def domain(seed, classes=8, each=8):
    """Four features know the source. The other eight know the classes, and are louder."""
    gen = generator(seed)
    own = torch.randn(4, generator=gen) + 0.2 * torch.randn(classes, 4, generator=gen)
    places = torch.cat([own, 2 * torch.randn(classes, D - 4, generator=gen)], 1)
    y = torch.arange(classes).repeat_interleave(each)
    return SourceFeatures(f"source {seed}", places[y] + 0.3 * torch.randn(len(y), D, generator=gen), y)


def untrained(seed=0, d=6, hidden=8, code=5):
    gen = generator(seed)
    tensors = mlp.initial("h", (d, hidden, hidden), gen) | mlp.initial("rho", (2 * hidden, hidden, code), gen)
    tensors = {n: t.double() for n, t in tensors.items()}
    tensors |= {"mean": normal(d), "scale": torch.tensor(2.0).double(), "centroids": normal(3, code)}
    return Encoder(tensors, ("a", "b", "c"), "trunk", d)


@pytest.fixture(scope="module")
def trained():
    return train([domain(seed) for seed in range(10)], generator(0), CTX, trunk="t", steps=100)


def halves(seed, count=3):
    """Tasks of a source that share no class with one another."""
    gen = generator(seed + 500)
    return [TaskData(y, n, features=f) for _ in range(count) for f, y, n in two_episodes(domain(seed), gen)]


@pytest.mark.parametrize("seed", range(3))
def test_neither_the_order_of_the_pictures_nor_the_names_of_the_classes_matter(seed):
    kind = untrained()
    y = torch.tensor([0, 0, 0, 1, 2, 2])  # unequal shots, one class of one
    t = TaskData(y, 3, features=normal(6, 6))
    assert torch.allclose(kind.embed(t, CTX), kind.embed(retold(t, seed), CTX), atol=1e-12)
    assert kind.embed(t, CTX).dtype == torch.float64


def test_the_vector_is_the_formula():
    kind, y = untrained(), torch.tensor([0, 0, 0, 1, 2, 2])
    f = normal(6, 6)
    h = mlp.call(kind.tensors, "h", (f - kind.tensors["mean"]) / 2)
    means = torch.stack([h[y == c].mean(0) for c in range(3)])
    spread = (h[y == 0].var(0) + h[y == 2].var(0)) / 2  # class 1 has no variance to show
    expected = mlp.call(kind.tensors, "rho", torch.cat([means.mean(0), spread]))
    assert torch.allclose(encoded(kind.tensors, f, y, 3), expected, atol=1e-12)
    alone = encoded(kind.tensors, f[:3], torch.arange(3), 3)
    assert torch.isfinite(alone).all()


def test_the_labels_are_seen():
    """Not only the heap of pictures: with other classes the same pictures are another task."""
    f = normal(6, 6)
    a, b = (encoded(untrained().tensors, f, torch.tensor(y), 2) for y in ([0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1]))
    assert float((a - b).norm()) > 1e-3


def test_a_source_that_is_larger_in_one_class_does_not_shout():
    """Each class counts once, however many pictures it has."""
    kind, f = untrained(), normal(4, 6)
    y = torch.tensor([0, 0, 1, 1])
    again = encoded(kind.tensors, torch.cat([f, f[:2], f[:2]]), torch.cat([y, y[:2], y[:2]]), 2)
    h = mlp.call(kind.tensors, "h", (torch.cat([f, f[:2], f[:2]]) - kind.tensors["mean"]) / 2)
    middle = (h[[0, 1, 4, 5, 6, 7]].mean(0) + h[2:4].mean(0)) / 2
    spread = (h[[0, 1, 4, 5, 6, 7]].var(0) + h[2:4].var(0)) / 2
    assert torch.allclose(again, mlp.call(kind.tensors, "rho", torch.cat([middle, spread])), atol=1e-12)


def auc(positive, negative):
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / len(positive) / len(negative)


def measured(kind, seeds):
    vectors = {seed: [kind.embed(t, CTX) for t in halves(seed)] for seed in seeds}
    same = [kind.similarity(v[i], v[i + 1]) for v in vectors.values() for i in range(0, len(v), 2)]
    other = [kind.similarity(a, b) for s in seeds for t in seeds if t > s for a in vectors[s] for b in vectors[t]]
    return auc(same, other)


def test_halves_of_a_source_never_seen_find_each_other(trained):
    assert measured(trained, range(100, 112)) > 0.9


def test_that_is_learnt_and_what_is_learnt_from_mixed_up_sources_is_worth_less(trained):
    sources = [domain(seed) for seed in range(10)]
    fresh = train(sources, generator(0), CTX, steps=0)
    heap = torch.cat([s.features for s in sources])
    y = sources[0].y
    parts = heap[torch.randperm(len(heap), generator=generator(1))].split(len(y))
    mixed = train([SourceFeatures(f"{i}", p, y) for i, p in enumerate(parts)], generator(0), CTX, steps=60)
    assert measured(fresh, range(100, 112)) < 0.8
    assert measured(mixed, range(100, 112)) < 0.9
    assert measured(trained, range(100, 112)) > 0.95


def test_a_constant_in_the_networks_answer_is_no_matter():
    """Uncentred, all tasks would look alike."""
    kind, t = untrained(), task()
    moved = untrained()
    moved.tensors["rho.1.bias"] = moved.tensors["rho.1.bias"] + 100
    moved.tensors["centroids"] = moved.tensors["centroids"] + 100
    assert torch.allclose(moved.embed(t, CTX), kind.embed(t, CTX), atol=1e-10)


def test_unrelated_tasks_do_not_all_point_one_way(trained):
    found = [trained.embed(halves(seed, 1)[0], CTX) for seed in range(100, 112)]
    pairs = [(a, b) for i, a in enumerate(found) for b in found[:i]]
    assert abs(sum(trained.similarity(a, b) for a, b in pairs)) / len(pairs) < 0.3
    assert min(trained.similarity(a + 100, b + 100) for a, b in pairs) > 0.9, "uncentred they would"


def test_new_tasks_of_a_known_source_are_nearest_to_it(trained):
    right = 0
    for seed in range(10):
        right += sum(trained.nearest(trained.embed(t, CTX))[0][0] == f"source {seed}" for t in halves(seed, 1))
    assert right >= 16
    found = trained.nearest(trained.embed(halves(3)[0], CTX))
    assert [value for _, value in found] == sorted((value for _, value in found), reverse=True)
    assert len(found) == 10
    assert trained.expected_gain(normal(32), normal(32)) is None


def test_training_repeats_to_the_bit_and_heeds_a_stop():
    sources = [domain(seed) for seed in range(3)]
    a, b = (train(sources, generator(4), CTX, steps=3) for _ in range(2))
    assert all(torch.equal(t, b.tensors[n]) for n, t in a.tensors.items())
    stopped = Context()
    stopped.cancel()
    with pytest.raises(JobCancelledError):
        train(sources, generator(0), stopped)
    with pytest.raises(JobCancelledError):
        a.embed(halves(0)[0], stopped)


@pytest.mark.parametrize("classes", [2, 3, 4, 9])
def test_two_episodes_share_no_picture_and_no_class_if_there_are_enough(classes):
    y = torch.arange(classes).repeat_interleave(5)
    rows = torch.arange(len(y)).double()[:, None]
    gen = generator(0)
    for _ in range(40):
        (f1, y1, n1), (f2, y2, n2) = two_episodes(SourceFeatures("s", rows, y), gen)
        first, second = f1[:, 0].long(), f2[:, 0].long()
        assert not set(first.tolist()) & set(second.tolist())
        assert torch.unique(y1).tolist() == list(range(n1))
        assert torch.unique(y2).tolist() == list(range(n2))
        for f, labels in ((first, y1), (second, y2)):
            pairs = set(zip(labels.tolist(), y[f].tolist(), strict=True))
            assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), "one class, one label"
        if classes >= 4:
            assert not set(y[first].tolist()) & set(y[second].tolist())


def test_the_two_halves_of_a_pair_cannot_be_told_by_their_layout():
    """Else the network would learn to count classes and examples, and know nothing of sources."""
    gen, layouts = generator(0), []
    for _ in range(200):
        pair = two_episodes(domain(0, classes=10), gen)
        layouts.append([(ways, len(y) / ways) for _, y, ways in pair])
    first, second = torch.tensor(layouts, dtype=torch.float64).unbind(1)
    for i in (0, 1):
        assert len(set(first[:, i].tolist())) >= 4
        assert abs(float(torch.corrcoef(torch.stack([first[:, i], second[:, i]]))[0, 1])) < 0.2


# ---- gains ----------------------------------------------------------------------------------------------------------


def test_gains_are_regressed_from_many_sources_only():
    sources = [domain(seed, classes=4, each=4) for seed in range(MANY)]
    # two families: knowledge helps within its own and hurts across
    family = torch.arange(MANY) % 2
    sources = [SourceFeatures(s.name, s.features + 2 * f, s.y) for s, f in zip(sources, family, strict=True)]
    gains = torch.where(family[:, None] == family[None], 0.1, -0.05)
    gains.fill_diagonal_(math.nan)
    start = train(sources, generator(0), CTX, steps=5)
    kind = regress(start, sources, gains, generator(1), CTX, steps=40)
    gen = generator(2)
    tasks = [TaskData(y, n, features=f) for s in sources[:6] for f, y, n in two_episodes(s, gen)[:1]]
    vectors = [kind.embed(t, CTX) for t in tasks]
    own = [
        kind.expected_gain(a, b)
        for i, a in enumerate(vectors)
        for j, b in enumerate(vectors)
        if (i - j) % 2 == 0 < j - i
    ]
    across = [kind.expected_gain(a, b) for i, a in enumerate(vectors) for j, b in enumerate(vectors) if (i - j) % 2]
    assert sum(own) / len(own) > 0.05
    assert sum(across) / len(across) < 0.0
    with pytest.raises(ValueError, match="too few"):
        regress(start, sources[:-1], gains, generator(1), CTX)
    with pytest.raises(ValueError, match="not between"):
        regress(start, sources[::-1], gains, generator(1), CTX)
    with pytest.raises(ValueError, match="no gain"):
        regress(start, sources, gains * math.nan, generator(1), CTX)


# ---- on disk --------------------------------------------------------------------------------------------------------


def test_it_comes_back_from_disk_as_it_was(tmp_path):
    kind, t = untrained(), task()
    assert load(tmp_path) is None
    save(kind, tmp_path)
    save(kind, tmp_path)
    back = load(tmp_path)
    assert (back.sources, back.trunk, back.width) == (kind.sources, kind.trunk, kind.width)
    assert torch.equal(back.embed(t, CTX), kind.embed(t, CTX))
    save(untrained(seed=1), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "one card, one file"
    assert not torch.equal(load(tmp_path).embed(t, CTX), kind.embed(t, CTX))


def test_a_damaged_file_is_noticed(tmp_path):
    save(untrained(), tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        load(tmp_path)
    file.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        load(tmp_path)
    storage.save(tmp_path / CARD, b"{}")
    with pytest.raises(StorageError, match="not opened"):
        load(tmp_path)


@pytest.mark.parametrize("wrong", ["rho.0.weight", "centroids", "mean", "scale"])
def test_parts_that_do_not_fit_are_noticed_when_it_is_loaded(tmp_path, wrong):
    kind = untrained()
    kind.tensors.pop(wrong)
    save(kind, tmp_path)
    with pytest.raises(StorageError, match="damaged"):
        load(tmp_path)
    kind = untrained()
    kind.tensors["centroids"] = normal(4, 5)
    save(kind, tmp_path)
    with pytest.raises(StorageError, match="sources"):
        load(tmp_path)


def test_what_makes_no_sense_is_refused():
    good = domain(0)
    for bad in (
        [good],
        [good, SourceFeatures("x", good.features[:, :5], good.y)],
        [good, SourceFeatures("x", good.features * math.nan, good.y)],
        [good, SourceFeatures("x", good.features[:8], good.y[:8])],
        [good, SourceFeatures("x", good.features[:9], good.y[:9])],
    ):
        with pytest.raises(ValueError):
            train(bad, generator(0), CTX, steps=1)
    kind = untrained()
    with pytest.raises(ValueError, match="reads 6"):
        kind.embed(TaskData(torch.tensor([0, 1]), 2, features=normal(2, 5)), CTX)
    with pytest.raises(ValueError, match="not finite"):
        kind.embed(TaskData(torch.tensor([0, 1]), 2, features=math.inf * normal(2, 6)), CTX)


def test_tasks_that_are_encoded_together_do_not_meet():
    kind, gen = untrained(), generator(0)
    tasks = []
    for counts in ([3, 1], [1, 1, 1], [2, 4, 1, 2]):
        y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        tasks.append((torch.randn(len(y), 6, generator=gen, dtype=torch.float64), y, len(counts)))
    together = encoded_together(kind.tensors, tasks)
    assert torch.allclose(together, torch.stack([encoded(kind.tensors, *t) for t in tasks]), atol=1e-12)
