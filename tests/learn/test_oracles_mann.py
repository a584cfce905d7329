"""MANN: its reading written out number by number, what it can know when, that it learns to use its memory."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, tasks
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.params import build_params
from workbench.data.episodes import Sequences
from workbench.learn.algorithms import mann
from workbench.learn.algorithms.mann import MANN
from workbench.learn.optimiser import rates
from workbench.learn.protocol import At, Setting, SourceSummary, State, Support, generator

AT = At("sequences", 3, 0.0)
SMALL = {"controller": 8, "rows": 7, "width": 3, "heads": 2, "decay": 0.9}


def built(ways=3, features=4, cls=MANN, **params):
    """On features instead of pictures where ``features`` is a number."""
    tasks.tiny_backbone()
    algorithm = cls(build_params(cls.Params, SMALL | params), Setting("tiny", 1, tasks.SIZE, ways=ways))
    algorithm.features = algorithm.features if features is None else features
    return algorithm


def weights(algorithm, seed=0):
    """Fresh, in float64, without the trunk; the zeros of the start are filled."""
    gen = generator(seed)
    learned = {n: t.double() for n, t in algorithm.init(gen).learned.items() if not n.startswith("trunk.")}
    return {n: t + 0.3 * torch.randn(t.shape, generator=gen, dtype=torch.float64) for n, t in learned.items()}


def sequences(length=9, batch=2, ways=3, features=4, seed=5):
    gen = generator(seed)
    x = torch.randn(length, batch, features, generator=gen, dtype=torch.float64)
    y = torch.stack([torch.randperm(length, generator=gen) % ways for _ in range(batch)], 1)
    return x, y


# ---- reading, number by number ---------------------------------------------------------------------------


def read_by_hand(p, w, x, y, labels):
    """One sequence ``x [T, D]``, ``y [T]``; of single numbers, the paper's formulas in their order."""
    n, rows, width, size = p.heads, p.rows, p.width, p.controller

    def times(name, v, row):
        return sum(float(w[name][row, j]) * v[j] for j in range(len(v)))

    def sigmoid(v):
        return 1 / (1 + math.exp(-v))

    memory = [[0.0] * width for _ in range(rows)]
    h, c = [0.0] * size, [0.0] * size
    read, weight = [0.0] * (n * width), [[0.0] * rows for _ in range(n)]
    used, out = [0.0] * rows, []
    for t in range(len(x)):
        label = [float(t > 0 and int(y[t - 1]) == k) for k in range(labels)]
        parts = {"features": x[t].tolist(), "label": label, "read": read, "hidden": h}
        gates = [
            float(w["controller.bias"][row]) + sum(times(f"controller.{name}", v, row) for name, v in parts.items())
            for row in range(4 * size)
        ]
        i, f, g, o = (gates[k * size : (k + 1) * size] for k in range(4))
        c = [sigmoid(f[j]) * c[j] + sigmoid(i[j]) * math.tanh(g[j]) for j in range(size)]
        h = [sigmoid(o[j]) * math.tanh(c[j]) for j in range(size)]
        key = [
            [
                math.tanh(float(w["key.bias"][k * width + j]) + times("key.weight", h, k * width + j))
                for j in range(width)
            ]
            for k in range(n)
        ]
        gate = [sigmoid(float(w["gate.bias"][k]) + times("gate.weight", h, k)) for k in range(n)]
        order = sorted(range(rows), key=lambda m: (used[m], m))
        spare = [float(m in order[:n]) for m in range(rows)]
        write = [[gate[k] * weight[k][m] + (1 - gate[k]) * spare[m] for m in range(rows)] for k in range(n)]
        memory[order[0]] = [0.0] * width
        memory = [
            [memory[m][j] + sum(write[k][m] * key[k][j] for k in range(n)) for j in range(width)] for m in range(rows)
        ]

        def length(v):
            return math.sqrt(sum(a * a for a in v) + 1e-6)

        for k in range(n):
            like = [
                math.exp(
                    math.exp(float(w["sharpness"]))
                    * sum(a * b for a, b in zip(key[k], memory[m], strict=True))
                    / (length(key[k]) * length(memory[m]))
                )
                for m in range(rows)
            ]
            weight[k] = [a / sum(like) for a in like]
        read = [sum(weight[k][m] * memory[m][j] for m in range(rows)) for k in range(n) for j in range(width)]
        used = [p.decay * used[m] + sum(weight[k][m] + write[k][m] for k in range(n)) for m in range(rows)]
        out.append([float(w["answer.bias"][k]) + times("answer.weight", [*h, *read], k) for k in range(labels)])
    return torch.tensor(out, dtype=torch.float64), memory, used


def reading_is_that_of_the_paper(algorithm):
    w, (x, y) = weights(algorithm), sequences()
    z, held = algorithm.read(w, x, y, Context())
    for b in range(x.shape[1]):
        expected, memory, used = read_by_hand(algorithm.p, w, x[:, b], y[:, b], 3)
        torch.testing.assert_close(z[:, b], expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(held.memory[b], torch.tensor(memory, dtype=torch.float64), rtol=0, atol=1e-10)
        torch.testing.assert_close(held.used[b], torch.tensor(used, dtype=torch.float64), rtol=0, atol=1e-10)


def test_reading_is_that_of_the_paper():
    """Two sequences at once are two sequences: neither sees the other, and each begins with nothing held."""
    reading_is_that_of_the_paper(built())


class _NotEmptied(MANN):
    left = None

    def read(self, learned, features, y, ctx):
        if self.left is not None:
            kept = self.left
            self.left = None
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(mann, "empty", lambda *_: kept)
                return super().read(learned, features, y, ctx)
        self.left = super().read(learned, features, y, ctx)[1]
        return self.read(learned, features, y, ctx)


def test_a_memory_that_is_not_emptied_is_noticed():
    with pytest.raises(AssertionError):
        reading_is_that_of_the_paper(built(cls=_NotEmptied))


_STEP, _SPARE_ROWS = mann.step, mann.spare_rows


def _softmax_over_heads(w, held, spare, given, decay):
    """As the file's own, but for one dimension."""
    now = _STEP(w, held, spare, given, decay)
    n, width = held.weights.shape[1], held.memory.shape[2]
    key = F.linear(now.hidden, w.outputs, w.bias)[:, : n * width].tanh().reshape(-1, n, width)
    over_heads = (w.sharpness * mann.cosine(key, now.memory)).softmax(1)
    return now._replace(weights=over_heads, read=(over_heads @ now.memory).flatten(1))


def _all_rows_alike(used, count):
    """The formula's "at most the n-th smallest", with its ties."""
    bound = used.sort(1).values[:, count - 1 : count]
    return mann.Spare((used <= bound).to(used), (used <= used.amin(1, keepdim=True)).to(used))


def _most_used(used, count):
    return _SPARE_ROWS(-used, count)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("step", _softmax_over_heads),
        ("spare_rows", _all_rows_alike),
        ("spare_rows", _most_used),
        ("late_labels", lambda y, labels, like: F.one_hot(y, labels).to(like)),
    ],
    ids=["softmax over heads", "ties", "most used", "labels at once"],
)
def test_the_formulas_notice(name, wrong, monkeypatch):
    monkeypatch.setattr(mann, name, wrong)
    with pytest.raises(AssertionError):
        reading_is_that_of_the_paper(built())


def test_gradients_equal_finite_differences():
    """With ``used`` and ``spare`` as constants: nothing goes through what is least used."""
    algorithm = built()
    w, (x, y) = weights(algorithm), sequences()

    def loss(w):
        return F.cross_entropy(algorithm.read(w, x, y, Context())[0].flatten(0, 1), y.flatten())

    leaves = {n: t.clone().requires_grad_() for n, t in w.items()}
    grads = dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))
    for name, g in grads.items():
        at = int(g.abs().argmax())
        here = torch.zeros(g.numel(), dtype=torch.float64)
        here[at] = 1e-6
        up, down = (loss({**w, name: w[name] + sign * here.view(g.shape)}) for sign in (1, -1))
        assert float(g.abs().max()) > 0, name
        assert float(up - down) / 2e-6 == pytest.approx(float(g.flatten()[at]), rel=1e-5), name


def test_what_is_least_used_carries_no_gradient():
    algorithm = built()
    w = {n: t.requires_grad_() for n, t in weights(algorithm).items()}
    x, y = sequences()
    _, held = algorithm.read(w, x, y, Context())
    assert held.memory.requires_grad
    assert not held.used.requires_grad
    used = torch.rand(2, 7, dtype=torch.float64).requires_grad_()
    assert not any(t.requires_grad for t in mann.spare_rows(used, 2))


def test_always_as_many_rows_are_spare_as_there_are_heads():
    used = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 2.0, 1.0]])
    spare = mann.spare_rows(used, 2)
    assert spare.used.tolist() == [[1, 1, 0, 0], [0, 1, 0, 1]]
    assert spare.least.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


# ---- what can be known when ------------------------------------------------------------------------------


def test_a_label_is_seen_one_step_late():
    """Another label at a step changes no answer up to that step, and the next one."""
    algorithm = built()
    w, (x, y) = weights(algorithm), sequences()
    before, _ = algorithm.read(w, x, y, Context())
    for t in range(len(y)):
        other = y.clone()
        other[t] = (other[t] + 1) % 3
        after, _ = algorithm.read(w, x, other, Context())
        assert torch.equal(after[: t + 1], before[: t + 1])
        if t + 1 < len(y):
            assert float((after[t + 1] - before[t + 1]).abs().min()) > 1e-9


def shifted(y, k, ways=3):
    return (y + k) % ways


def test_without_labels_it_is_at_chance_exactly(monkeypatch):
    """Whatever the weights: under the three shifts of its label each picture is said right once."""
    monkeypatch.setattr(mann, "late_labels", lambda y, labels, like: like.new_zeros(*y.shape, labels))
    algorithm = built()
    w, (x, y) = weights(algorithm), sequences()
    right = sum((algorithm.read(w, x, shifted(y, k), Context())[0].argmax(2) == shifted(y, k)).int() for k in range(3))
    assert bool((right == 1).all())


def test_the_first_picture_is_at_chance_exactly_and_later_ones_are_not():
    algorithm = built()
    w, (x, y) = weights(algorithm), sequences(batch=40)
    right = sum((algorithm.read(w, x, shifted(y, k), Context())[0].argmax(2) == shifted(y, k)).int() for k in range(3))
    assert bool((right[0] == 1).all())
    assert not bool((right[1:] == 1).all())


def test_each_sequence_has_labels_of_its_own():
    """Five classes under six labels: one to one, every label in every place, no two sequences as a rule alike."""
    y = torch.arange(5).repeat(2)[:, None].expand(-1, 600)
    drawn = mann.relabelled(y, 6, generator(0))
    assert torch.equal(drawn[:5], drawn[5:])
    assert bool((drawn[:5].sort(0).values.diff(dim=0) > 0).all())
    for k in range(5):
        counts = torch.bincount(drawn[k], minlength=6)
        assert bool(((counts - 100).abs() < 5 * math.sqrt(100 * 5 / 6)).all())
    assert len({tuple(column) for column in drawn[:5].T.tolist()}) > 300


def test_training_draws_labels_anew_at_each_step():
    """The same sequences, at another step: another loss. At the same step: the same."""
    algorithm = built(features=None)
    s = cases.double(algorithm.init(generator(0)))
    batch = cases.batch_of(algorithm.phases(SourceSummary((40,), 400))[0], generator(1), 2, ways=3)
    batch = Sequences(batch.x.double(), batch.y)
    losses = [float(algorithm.step(s, batch, At("sequences", i, 0.0), Context()).loss) for i in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_presentations_are_counted():
    y = torch.tensor([[0, 1], [1, 1], [0, 1], [0, 0]])
    assert mann.presentations(y, 2).tolist() == [[1, 1], [1, 2], [2, 3], [3, 1]]


# ---- in use ----------------------------------------------------------------------------------------------


def adapted_to(algorithm, w, features, y, ways, seed):
    x = torch.zeros(len(y), 1, tasks.SIZE, tasks.SIZE)
    return algorithm.adapt(State(w, {}), Support(x, y, ways, features), Context(seed=seed))


def test_a_query_is_the_next_step_of_the_sequence():
    """Answering is reading the examples in the drawn order under the drawn labels, with the query behind them."""
    algorithm = built()
    w, y = weights(algorithm), torch.tensor([0, 1, 0, 2])
    gen = generator(3)
    support, queries = (torch.randn(n, 4, generator=gen, dtype=torch.float64) for n in (4, 5))
    for seed in range(4):
        a = adapted_to(algorithm, w, support, y, 3, seed)
        draw = generator(Context(seed=seed).seed_for("mann/showing"))
        labels, order = torch.randperm(3, generator=draw), torch.randperm(4, generator=draw)
        assert a.tensors["labels"].tolist() == labels.tolist()
        said = algorithm.head(State(w, {}), a)(queries)
        for q, found in zip(queries, said, strict=True):
            x = torch.cat([support[order], q[None]])[:, None]
            shown = torch.cat([labels[y[order]], torch.zeros(1, dtype=torch.int64)])[:, None]
            z, _ = algorithm.read(w, x, shown, Context())
            torch.testing.assert_close(found, z[-1, 0, labels], rtol=0, atol=1e-12)


def test_permuting_classes_permutes_the_answers_in_distribution():
    """Two examples of two classes can be shown in four ways; over seeds the same four answers come about as often."""
    algorithm = built(ways=2)
    w, gen = weights(algorithm), generator(3)
    support = torch.randn(2, 4, generator=gen, dtype=torch.float64)
    query = torch.randn(1, 4, generator=gen, dtype=torch.float64)
    counts = []
    for y, columns in ((torch.tensor([0, 1]), [0, 1]), (torch.tensor([1, 0]), [1, 0])):
        found: dict[tuple[float, ...], int] = {}
        for seed in range(200):
            a = adapted_to(algorithm, w, support, y, 2, seed)
            z = algorithm.head(State(w, {}), a)(query)[0, columns]
            key = tuple(round(v, 9) for v in z.tolist())
            found[key] = found.get(key, 0) + 1
        counts.append(found)
    assert counts[0].keys() == counts[1].keys()
    assert len(counts[0]) == 4
    assert all(abs(n - 50) < 5 * math.sqrt(200 * 0.25 * 0.75) for c in counts for n in c.values())


def test_order_and_labels_matter_and_the_seed_decides():
    algorithm = built()
    w, y = weights(algorithm), torch.tensor([0, 1, 0, 2])
    support = torch.randn(4, 4, generator=generator(3), dtype=torch.float64)
    kept = [adapted_to(algorithm, w, support, y, 3, seed).tensors for seed in (0, 0, 1)]
    assert cases.same(kept[0], kept[1])
    assert not torch.equal(kept[0]["memory"], kept[2]["memory"])


def test_fewer_classes_than_in_training_get_outputs_of_their_own():
    """Two classes of three: two different labels, and every label comes up over seeds."""
    algorithm = built()
    w = weights(algorithm)
    support, y = torch.randn(2, 4, generator=generator(3), dtype=torch.float64), torch.tensor([0, 1])
    drawn = {tuple(adapted_to(algorithm, w, support, y, 2, seed).tensors["labels"].tolist()) for seed in range(60)}
    assert drawn == set(itertools.permutations(range(3), 2))


def test_more_classes_than_in_training_are_refused_in_words():
    algorithm = built()
    with pytest.raises(WorkbenchError, match=r"4 classes.*at most 3"):
        adapted_to(algorithm, weights(algorithm), torch.randn(4, 4, dtype=torch.float64), torch.arange(4), 4, 0)
    assert "any-way" not in MANN.info.tags
    assert {"order-dependent", "stochastic"} <= MANN.info.tags


def test_a_query_is_not_taken_in():
    algorithm = built()
    w, y = weights(algorithm), torch.tensor([0, 1, 2])
    gen = generator(3)
    support, queries = (torch.randn(n, 4, generator=gen, dtype=torch.float64) for n in (3, 6))
    a = adapted_to(algorithm, w, support, y, 3, 0)
    head = algorithm.head(State(w, {}), a)
    once = head(queries)
    assert torch.equal(head(queries), once)
    torch.testing.assert_close(torch.cat([head(q[None]) for q in queries.flip(0)]).flip(0), once, rtol=0, atol=1e-13)


def test_a_factor_of_one_is_not_trained():
    algorithm = built(sharpness="one")
    learned = algorithm.init(generator(0)).learned
    assert float(learned["sharpness"].exp()) == 1
    assert "sharpness" not in rates(algorithm.phases(SourceSummary((40,), 400))[0], learned)
    learned = built().init(generator(0)).learned
    assert float(learned["sharpness"].exp()) == pytest.approx(mann.START)
    assert "sharpness" in rates(built().phases(SourceSummary((40,), 400))[0], learned)


# ---- it learns to use its memory -------------------------------------------------------------------------


def bound_after(steps, monkeypatch=None):
    """Accuracy at first and second presentation of two classes never seen before, each a random code with noise."""
    if monkeypatch is not None:
        monkeypatch.setattr(mann, "late_labels", lambda y, labels, like: like.new_zeros(*y.shape, labels))
    algorithm, gen = built(ways=2, features=16, controller=32, rows=8, width=8), generator(1)
    w = {n: t.requires_grad_() for n, t in algorithm.init(gen).learned.items() if not n.startswith("trunk.")}
    optimiser = torch.optim.Adam(w.values(), lr=1e-2)

    def draw(batch, codes):
        classes = torch.stack([torch.randperm(len(codes), generator=gen)[:2] for _ in range(batch)], 1)
        y = torch.stack([torch.randperm(6, generator=gen) % 2 for _ in range(batch)], 1)
        x = codes[classes.gather(0, y)]
        return x + 0.2 * torch.randn(x.shape, generator=gen), mann.relabelled(y, 2, gen)

    codes = torch.randn(100, 16, generator=gen)
    for _ in range(steps):
        x, y = draw(32, codes[:50])
        loss = F.cross_entropy(algorithm.read(w, x, y, Context())[0].flatten(0, 1), y.flatten())
        grads = torch.autograd.grad(loss, list(w.values()))
        for t, g in zip(w.values(), grads, strict=True):
            t.grad = g
        optimiser.step()
    with torch.no_grad():
        x, y = draw(400, codes[50:])
        right = (algorithm.read(w, x, y, Context())[0].argmax(2) == y).float()
        seen = mann.presentations(y, 2)
    return [float(right[seen == n].mean()) for n in (1, 2)]


def test_it_learns_to_bind_pictures_to_labels_of_classes_never_seen():
    """The first of two classes is a guess and the second follows from it, so three quarters; then it must remember."""
    first, second = bound_after(250)
    assert second > 0.85
    assert first < 0.8


def test_without_labels_it_does_not(monkeypatch):
    assert max(bound_after(60, monkeypatch)) < 0.6
