"""Adaptive width: the gates' law, the dense network, channels cut out, statistics of a width, the loss (float64)."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.learn import cases, conformance, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.data.episodes import Episodes
from workbench.learn import channels, film, functional, heads, norm, registry
from workbench.learn.algorithms.adaptive_width import GATES, Width, gates, opened, probability_open
from workbench.learn.algorithms.protonet import ProtoNet
from workbench.learn.protocol import At, Deployed, Setting, State, Support, generator

SIZE = 16
FORMS = ["task", "learned"]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(cls=Width, backbone="conv4-32", size=SIZE, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting(backbone, 1, size))


def state(algorithm, centre=0.0):
    """Every tensor away from its start; logits spread about ``centre``: gates at 0, between, and at 1."""
    s, gen = algorithm.init(generator(0)), generator(1)
    learned = {n: t + 0.3 * torch.rand(t.shape, generator=gen) for n, t in s.learned.items()}
    for name, t in s.learned.items():
        if name.startswith(GATES):
            spread = 2 * torch.randn(t.shape, generator=gen)
            learned[name] = centre + spread if name.endswith("bias") else spread / t.shape[1] ** 0.5
    memory = {n: t + 0.3 * torch.rand(t.shape, generator=gen) for n, t in s.memory.items()}
    return cases.double(State(learned, memory))


def task(seed=0, shots=(3, 1, 2), queries=3, size=SIZE):
    e = tasks.episode(generator(seed), ways=len(shots), shots=shots, queries=queries, dtype=torch.float64)
    grow = {n: F.interpolate(getattr(e, n), size=size) for n in ("support_x", "query_x")}
    return conformance.replace(e, **grow)


def adapted(algorithm, s, e):
    return algorithm.adapt(s, cases.support_of(e), Context())


def drawn_for(algorithm, seed=3):
    return algorithm.draw(generator(seed), torch.zeros((), dtype=torch.float64))


# ---- the law of a gate -----------------------------------------------------------------------------------

LOGITS = torch.linspace(-6, 6, 25, dtype=torch.float64)


def follows_its_law(gate, chance):
    """Gates are 0 for just the lowest draws, whose share is one less the chance; then they rise, to 1 at last."""
    shut = 1 - chance(LOGITS)
    assert float(gate(LOGITS, shut * (1 - 1e-6)).abs().max()) == 0
    assert float(gate(LOGITS, shut + 1e-6 * (1 - shut)).min()) > 0
    # the law is symmetric: as likely at 1 with one logit as at 0 with the other
    last = chance(-LOGITS)
    assert float(gate(LOGITS, last + 1e-6 * (1 - last)).min()) == 1
    assert float(gate(LOGITS, last * (1 - 1e-6)).max()) < 1


def test_the_gates_are_hard_concrete():
    follows_its_law(gates, probability_open)
    # by hand: sigmoid(0) = 1/2 -> 0.5; u = 0.6, a = 1: sigmoid(1.5 (ln 1.5 + 1)) = 0.891697 -> 0.970037
    assert float(gates(torch.tensor(0.0, dtype=torch.float64))) == pytest.approx(0.5, abs=1e-15)
    assert float(gates(torch.tensor(1.0, dtype=torch.float64), 0.6)) == pytest.approx(0.970037, abs=1e-6)


@pytest.mark.parametrize("mistake", ["sign of the shift", "no temperature in the shift", "not stretched"])
def test_another_law_is_noticed(mistake):
    def chance(a):
        shift = {"sign of the shift": -1.0, "no temperature in the shift": 1.5, "not stretched": 0.0}[mistake]
        return torch.sigmoid(a + shift * (2 / 3) * torch.log(torch.tensor(11.0, dtype=torch.float64)))

    with pytest.raises(AssertionError):
        follows_its_law(gates, chance)


def test_the_share_of_open_gates_is_the_probability():
    u = torch.rand(200_000, generator=generator(0), dtype=torch.float64)
    for a in (-2.0, 0.0, 1.5):
        share = float((gates(torch.full_like(u, a), u) > 0).double().mean())
        assert share == pytest.approx(float(probability_open(torch.tensor(a))), abs=0.004)


def test_something_passes_every_layer():
    a = torch.tensor([-9.0, -8.0, -7.0])
    assert opened(a).tolist() == [0, 0, 1]
    assert opened(torch.tensor([-9.0, 0.0])).tolist() == [0, 0.5]


# ---- all gates at 1: the dense network -------------------------------------------------------------------


def is_the_dense_network(algorithm, s, e):
    """Prototypical Networks under the examples' statistics, by torch's own batch norm."""
    params = functional.under(s.learned)
    with norm.batch_statistics() as seen:
        f = functional.call(algorithm.network, params, {}, e.support_x)
    plain = functional.frozen(algorithm.network, {**params, **norm.as_buffers(seen)})
    centres = heads.prototypes(f, e.support_y, e.ways)
    expected = heads.distance_logits(plain(e.query_x), centres, s.learned["scale"].exp())
    a = adapted(algorithm, s, e)
    assert all(float(g.min()) == 1 for n, g in a.tensors.items() if n.startswith(GATES))
    torch.testing.assert_close(algorithm.logits(s, a, e.query_x), expected, rtol=0, atol=1e-11)
    deployed = algorithm.deploy(s, a)
    torch.testing.assert_close(deployed(e.query_x)[0], expected, rtol=0, atol=1e-11)
    assert [p.shape for p in deployed.trunk.parameters()] == [p.shape for p in plain.parameters()]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backbone", ["conv4-32", "resnet12"])
def test_all_gates_at_one_are_the_dense_network(form, backbone):
    algorithm = built(backbone=backbone, form=form)
    is_the_dense_network(algorithm, state(algorithm, centre=30.0), task())


def test_training_begins_with_the_dense_network():
    algorithm = built()
    is_the_dense_network(algorithm, cases.double(algorithm.init(generator(0))), task())


def test_all_gates_at_one_train_as_prototypical_networks_do():
    """The loss without its penalty, against features computed by ProtoNet under the same statistics."""
    algorithm = built(penalty=0.0)
    s, e = state(algorithm, centre=60.0), task()
    found, z, chances = algorithm.task_loss(s.learned, functional.under(s.memory), e, drawn_for(algorithm))
    other = ProtoNet(build_params(ProtoNet.Params, {}), algorithm.setting)
    with norm.batch_statistics() as seen:
        functional.call(other.network, functional.under(s.learned), {}, e.support_x)
    there = State(s.learned, functional.named(norm.as_buffers(seen)))
    expected = cases.predict(other, there, e)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(found, F.cross_entropy(expected, e.query_y), rtol=0, atol=1e-10)
    assert float(chances.min()) == pytest.approx(1)


# ---- channels that are cut out ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "size", "layers", "at_end"),
    [
        ("conv4", 28, ["0.norm", "1.norm", "2.norm", "3.norm"], ["3.norm"]),
        ("resnet12", 28, [f"{b}.norm{i}" for b in range(4) for i in (1, 2)], []),
        ("resnet18", 32, [f"layer{b}.{i}.bn1" for b in range(1, 5) for i in (0, 1)], []),
        ("tiny", 8, ["norm"], ["norm"]),
        ("tiny-smooth", 8, [], []),  # the softplus of 0 is not 0
        ("tiny-plain", 8, [], []),  # nothing is normalised
    ],
)
def test_sites_of_every_backbone(key, size, layers, at_end):
    tasks.tiny_backbone()
    found = channels.sites(registry.backbone(key).skeleton(1, size))
    assert list(found) == layers
    assert [path for path, site in found.items() if site.at_end] == at_end


class Odd(nn.Module):
    """What is read by more than convolutions, or is computed twice, has no channels that can be taken out."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a, self.b = (nn.Conv2d(2, 2, 1, bias=False) for _ in range(2))
        self.a_norm, self.b_norm = norm.Norm2d(2), norm.Norm2d(2)

    def forward(self, x):
        y = self.a_norm(self.a(x))
        if self.how == "sum":
            return (self.b_norm(self.b(y)) + y).flatten(1)
        if self.how == "twice":
            return self.b_norm(self.b(self.a_norm(self.a(y)))).flatten(1)
        if self.how == "offset":
            return self.b_norm(self.b(y + 1)).flatten(1)
        if self.how == "two readers":
            return (self.b(y) + self.b(y)).flatten(1)
        return self.b_norm(self.b(y)).flatten(2)


@pytest.mark.parametrize(
    ("how", "expected"),
    [("sum", []), ("twice", ["b_norm"]), ("offset", ["b_norm"]), ("two readers", []), ("positions", ["a_norm"])],
)
def test_what_cannot_be_taken_out_is_left_alone(how, expected):
    assert list(channels.sites(functional.skeleton(lambda: Odd(how)))) == expected


def deleting_changes_nothing(cls, backbone, size=SIZE, centre=0.0):
    algorithm = built(cls, backbone, size)
    s, e = state(algorithm, centre), task(size=size)
    a = adapted(algorithm, s, e)
    deployed = algorithm.deploy(s, a)
    logits, embedding = deployed(e.query_x)
    torch.testing.assert_close(logits, algorithm.logits(s, a, e.query_x), rtol=0, atol=1e-9)
    torch.testing.assert_close(embedding, algorithm.embed(s, a, e.query_x), rtol=0, atol=1e-9)
    for path, site in algorithm.sites.items():
        g = a.tensors[GATES + path]
        still = int((g > 0).sum())
        assert 0 < still < len(g), path
        assert bool(((g > 0) & (g < 1)).any()), path
        weight = deployed.trunk.get_submodule(site.conv).weight
        assert weight.shape[0] == still
        assert all(deployed.trunk.get_submodule(r).weight.shape[1] == still for r in site.readers)
    return algorithm, s, e, a


@pytest.mark.parametrize(("backbone", "size"), [("conv4-32", 16), ("conv4-32", 40), ("resnet12", 16), ("resnet18", 32)])
def test_deleting_closed_channels_gives_equal_logits(backbone, size):
    algorithm, s, e, a = deleting_changes_nothing(Width, backbone, size)
    # and the logits are those of the whole network, closed channels and all
    trunk = algorithm.gated(s.learned, functional.under(a.tensors, GATES))
    f, q = (functional.call(algorithm.network, trunk, functional.under(a.tensors), x) for x in (e.support_x, e.query_x))
    expected = heads.distance_logits(q, heads.prototypes(f, e.support_y, e.ways), s.learned["scale"].exp())
    torch.testing.assert_close(algorithm.logits(s, a, e.query_x), expected, rtol=0, atol=1e-9)


class LeavesTheBias(Width):
    """A gate before the normalisation's offset: a closed channel is not 0."""

    def gated(self, learned, g):
        films = {p: film.Film(t, (1 - t) * learned[f"trunk.{p}.bias"]) for p, t in g.items()}
        return film.modulated(functional.under(learned), films)


class CutsTheFirst(Width):
    """As many channels as are closed, but not the same ones."""

    def deploy(self, s, a):
        tensors = {n: t.sort().values if n.startswith(GATES) else t for n, t in a.tensors.items()}
        true = {**self.gated(s.learned, functional.under(a.tensors, GATES)), **functional.under(a.tensors)}
        kept = {p: t.nonzero().flatten() for p, t in functional.under(tensors, GATES).items()}
        narrow, values = channels.removed(self.network, true, self.sites, kept)
        return Deployed(functional.frozen(narrow, values), self.head(s, a))


class CutsHalfOpen(Width):
    """Gates below one half are taken for closed."""

    def deploy(self, s, a):
        tensors = {n: torch.where(t < 0.5, 0 * t, t) if n.startswith(GATES) else t for n, t in a.tensors.items()}
        return super().deploy(s, a._replace(tensors=tensors))


@pytest.mark.parametrize("mistake", [LeavesTheBias, CutsTheFirst, CutsHalfOpen])
def test_channels_that_were_not_closed_are_missed(mistake):
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        deleting_changes_nothing(mistake, "resnet12")


def test_a_network_that_would_be_shut_keeps_a_channel_in_each_layer():
    algorithm = built()
    s, e = state(algorithm, centre=-60.0), task()
    a = adapted(algorithm, s, e)
    deployed = algorithm.deploy(s, a)
    assert [m.out_channels for m in deployed.modules() if isinstance(m, nn.Conv2d)] == [1, 1, 1, 1]
    torch.testing.assert_close(deployed(e.query_x)[0], algorithm.logits(s, a, e.query_x), rtol=0, atol=1e-10)


def test_a_narrower_network_is_exported(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    algorithm = built()
    s, e = state(algorithm), task()
    s = State(*({n: t.float() for n, t in part.items()} for part in s))
    x = e.query_x.float()
    deployed = algorithm.deploy(s, algorithm.adapt(s, Support(e.support_x.float(), e.support_y, e.ways), Context()))
    assert sum(p.numel() for p in deployed.trunk.parameters()) < 0.6 * sum(
        p.numel() for p in algorithm.network.parameters()
    )
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.onnx.export(deployed, (x[:2],), tmp_path / "m.onnx", dynamo=True, dynamic_shapes=batch, verbose=False)
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for n in (1, len(x)):
        got = session.run(None, {session.get_inputs()[0].name: x[:n].numpy()})[0]
        cases.close(torch.from_numpy(got), deployed(x[:n])[0], 1e-5)


# ---- whose gates, whose statistics -----------------------------------------------------------------------


def statistics_are_of_the_width(cls):
    """Layer by layer: what reaches it under these gates, measured over the examples."""
    algorithm = built(cls)
    s, e = state(algorithm), task()
    a = adapted(algorithm, s, e)
    x = e.support_x
    for i in range(4):
        conv, block = s.learned[f"trunk.{i}.conv.weight"], f"trunk.{i}.norm"
        y = F.conv2d(x, conv, padding=1)
        mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
        torch.testing.assert_close(a.tensors[f"{block}.running_mean"], mean, rtol=0, atol=1e-11)
        torch.testing.assert_close(a.tensors[f"{block}.running_var"], var, rtol=0, atol=1e-11)
        unit = (y - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        shown = s.learned[f"{block}.weight"][:, None, None] * unit + s.learned[f"{block}.bias"][:, None, None]
        x = F.max_pool2d((a.tensors[f"{GATES}{i}.norm"][:, None, None] * shown).relu(), 2)


def test_statistics_belong_to_the_width():
    statistics_are_of_the_width(Width)


class SharedStatistics(Width):
    """The dense network's statistics serve every width."""

    def adapt(self, s, support, ctx, **kwargs):
        a = super().adapt(s, support, ctx, **kwargs)
        return a._replace(tensors=a.tensors | functional.named(functional.under(s.memory)))


class StatisticsOfTheDense(Width):
    def adapt(self, s, support, ctx, **kwargs):
        a = super().adapt(s, support, ctx, **kwargs)
        dense = norm.as_buffers(self.dense_statistics(s.learned, support.x))
        return a._replace(tensors=a.tensors | functional.named(dense))


@pytest.mark.parametrize("mistake", [SharedStatistics, StatisticsOfTheDense])
def test_statistics_of_another_width_are_noticed(mistake):
    with pytest.raises(AssertionError):
        statistics_are_of_the_width(mistake)


def test_running_averages_are_those_of_the_dense_network():
    """So that another head can be put on the trunk: two steps from 0 and 1, by hand."""
    algorithm = built(tasks=2)
    s = state(algorithm)
    es = [task(i) for i in range(2)]
    result = algorithm.step(s, Episodes(tuple(es)), At("episodes", 0, 0.0), Context())
    buffers = functional.under(s.memory)
    for e in es:
        with norm.batch_statistics() as seen:
            functional.call(algorithm.network, functional.under(s.learned), {}, e.support_x)
        buffers = norm.running_average(buffers, seen)
    for name, t in buffers.items():
        torch.testing.assert_close(result.memory["trunk." + name], t, rtol=0, atol=1e-12)


def test_gates_are_made_from_the_task_or_for_all():
    for form in FORMS:
        algorithm = built(form=form)
        s = state(algorithm)
        one, two, again = (functional.under(adapted(algorithm, s, task(i)).tensors, GATES) for i in (0, 1, 0))
        assert all(torch.equal(one[p], again[p]) for p in one)
        assert all(torch.equal(one[p], two[p]) for p in one) == (form == "learned")


def test_gates_of_a_task_by_hand():
    """``b + W code``, the code being the standardised mean of the dense prototypes under the running averages."""
    algorithm = built()
    s, e = state(algorithm), task()
    dense = functional.frozen(algorithm.network, functional.under({**s.learned, **s.memory}))
    f = dense(e.support_x)
    t = torch.stack([f[e.support_y == k].mean(0) for k in range(e.ways)]).mean(0)
    t = (t - t.mean()) / (t.var(correction=0) + 1e-5).sqrt()
    for path in algorithm.sites:
        a = s.learned[f"{GATES}{path}.bias"] + s.learned[f"{GATES}{path}.weight"] @ t
        expected = (1.2 * torch.sigmoid(1.5 * a) - 0.1).clamp(0, 1)
        torch.testing.assert_close(adapted(algorithm, s, e).tensors[GATES + path], expected, rtol=0, atol=1e-9)


# ---- training --------------------------------------------------------------------------------------------


def loss_by_hand(algorithm, learned, memory, e, drawn):
    """Cross entropy of the queries and the penalty, with every normalisation written out."""
    a = algorithm.gate_logits(learned, functional.under(memory), e.support_x, e.support_y, e.ways)
    s, q = e.support_x, e.query_x
    for i in range(4):
        conv, n = learned[f"trunk.{i}.conv.weight"], f"trunk.{i}.norm"
        s, q = (F.conv2d(z, conv, padding=1) for z in (s, q))
        var, mean = torch.var_mean(s, (0, 2, 3), correction=0)
        u = drawn[f"{i}.norm"]
        g = (1.2 * torch.sigmoid(1.5 * (torch.log(u / (1 - u)) + a[f"{i}.norm"])) - 0.1).clamp(0, 1)
        scale = g * learned[f"{n}.weight"] / (var + 1e-5).sqrt()
        shift = g * learned[f"{n}.bias"] - mean * scale
        s, q = (F.max_pool2d((z * scale[:, None, None] + shift[:, None, None]).relu(), 2) for z in (s, q))
    f, q = s.flatten(1), q.flatten(1)
    centres = torch.stack([f[e.support_y == k].mean(0) for k in range(e.ways)])
    z = -learned["scale"].exp() * (q[:, None] - centres).square().sum(2)
    chance = sum(torch.sigmoid(t + 2 / 3 * torch.log(t.new_tensor(11.0))).sum() for t in a.values())
    return F.cross_entropy(z, e.query_y) + algorithm.p.penalty * chance


def learns_of_the_queries(cls, form):
    """Value, and gradient for every learned tensor: of the whole map, statistics and first look included."""
    algorithm = built(cls, form=form, penalty=0.01)
    s, e, drawn = state(algorithm), task(), drawn_for(algorithm)
    found, expected = ({n: t.clone().requires_grad_() for n, t in s.learned.items()} for _ in range(2))
    loss, *_ = algorithm.task_loss(found, functional.under(s.memory), e, drawn)
    by_hand = loss_by_hand(algorithm, expected, s.memory, e, drawn)
    torch.testing.assert_close(loss, by_hand, rtol=0, atol=1e-10)
    pairs = (torch.autograd.grad(x, list(t.values())) for x, t in ((loss, found), (by_hand, expected)))
    for name, a, b in zip(found, *pairs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")
        assert float(a.abs().max()) > 1e-8, name


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_and_its_gradient(form):
    learns_of_the_queries(Width, form)


class LearnsOfTheExamples(Width):
    """Gates that lower the loss on the very examples."""

    def task_loss(self, learned, buffers, episode, drawn):
        x, y, ids = episode.support_x, episode.support_y, episode.support_ids + 1000
        e = conformance.replace(episode, query_x=x, query_y=y, query_ids=ids)
        return super().task_loss(learned, buffers, e, drawn)


class SeesTheQueries(Width):
    """The queries' own statistics."""

    def task_loss(self, learned, buffers, episode, drawn):
        real = functional.call

        def call(network, params, held, x):
            if x is not episode.query_x:
                return real(network, params, held, x)
            with norm.batch_statistics():
                return real(network, params, held, x)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(functional, "call", call)
            return super().task_loss(learned, buffers, episode, drawn)


class FreeOfCharge(Width):
    def task_loss(self, learned, buffers, episode, drawn):
        loss, z, chances = super().task_loss(learned, buffers, episode, drawn)
        return loss - self.p.penalty * chances.sum(), z, chances


class NoDraws(Width):
    def task_loss(self, learned, buffers, episode, drawn):
        return super().task_loss(learned, buffers, episode, {n: 0 * u + 0.5 for n, u in drawn.items()})


class CodeWithoutGradient(Width):
    def gate_logits(self, learned, buffers, x, y, ways):
        still = {n: t.detach() if n.startswith("trunk.") else t for n, t in learned.items()}
        return super().gate_logits(still, buffers, x, y, ways)


@pytest.mark.parametrize("mistake", [LearnsOfTheExamples, FreeOfCharge, NoDraws, SeesTheQueries])
def test_another_loss_is_noticed(mistake):
    with pytest.raises(AssertionError, match="Scalars are not close"):
        learns_of_the_queries(mistake, "task")


def test_a_gradient_that_was_cut_is_noticed(monkeypatch):
    """Through the statistics; through the first look, against the same written out by hand."""
    whole = norm.batch_statistics
    with monkeypatch.context() as cut:
        cut.setattr(norm, "batch_statistics", lambda **_: whole())
        with pytest.raises(AssertionError, match="trunk"):
            learns_of_the_queries(Width, "task")
    algorithm, other = built(), built(CodeWithoutGradient)
    s, e = state(algorithm), task()
    leaves = {n: t.clone().requires_grad_() for n, t in s.learned.items()}
    for made, gets in ((algorithm, True), (other, False)):
        a = made.gate_logits(leaves, functional.under(s.memory), e.support_x, e.support_y, e.ways)
        (found,) = torch.autograd.grad(a["0.norm"].sum(), [leaves["trunk.0.conv.weight"]], allow_unused=True)
        assert (found is not None and float(found.abs().max()) > 1e-8) == gets


def test_the_gates_gradient_is_that_of_finite_differences():
    algorithm = built(penalty=0.01)
    s, e, drawn = state(algorithm), task(), drawn_for(algorithm)
    names = [n for n in s.learned if n.startswith(GATES)]
    leaves = {n: t.clone().requires_grad_() for n, t in s.learned.items()}
    loss = functools.partial(algorithm.task_loss, buffers=functional.under(s.memory), episode=e, drawn=drawn)
    grads = torch.autograd.grad(loss(leaves)[0], [leaves[n] for n in names])
    for name, g in zip(names, grads, strict=True):
        way = torch.randn(g.shape, generator=generator(4), dtype=torch.float64)
        up, down = (float(loss({**s.learned, name: s.learned[name] + h * way})[0]) for h in (1e-7, -1e-7))
        assert (up - down) / 2e-7 == pytest.approx(float((g * way).sum()), rel=1e-4, abs=1e-7), name


def test_every_step_and_task_has_draws_of_its_own():
    algorithm, gen = built(), generator
    one, two, again = (algorithm.draw(gen(k), torch.zeros(())) for k in (1, 2, 1))
    assert all(torch.equal(one[p], again[p]) for p in one)
    assert not any(torch.equal(one[p], two[p]) for p in one)
    assert all(float(u.min()) > 0 and float(u.max()) < 1 for u in one.values())


@pytest.mark.parametrize("form", FORMS)
def test_a_price_closes_channels(form):
    """On the toy task: without a price none is closed, with one most are, and it is learnt all the same."""
    opened, accuracy = [], []
    for penalty in (0.0, 1.0):
        algorithm = built(backbone="tiny", size=8, form=form, penalty=penalty, lr=0.01, gate_lr=0.1)
        s = cases.train(algorithm, algorithm.init(generator(0)), 60)
        a = algorithm.adapt(s, cases.support_of(tasks.episode(generator(5))), Context())
        opened.append(int((a.tensors["gates.norm"] > 0).sum()))
        accuracy.append(cases.accuracy(algorithm, s, episodes=10))
    assert opened[1] < opened[0]
    assert min(accuracy) > 0.5
