"""Adaptive depth: blocks, left-out answers by refitting, shares, one block alone; mistakes are noticed (float64)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.learn import cases, conformance, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import blocks, functional, heads, norm, registry
from workbench.learn.algorithms.adaptive_depth import Depth, fitted, left_out
from workbench.learn.protocol import Adapted, Setting, State, Support, generator

SIZE, SHOTS = 16, (3, 1, 4, 2)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(cls=Depth, backbone="conv4-32", **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting(backbone, 1, SIZE))


def state(algorithm):
    """Every tensor away from its start."""
    s, gen = algorithm.init(generator(0)), generator(1)
    learned = {n: t + 0.3 * torch.rand(t.shape, generator=gen) for n, t in s.learned.items()}
    memory = {n: t + 0.3 * torch.rand(t.shape, generator=gen) if "running" in n else t for n, t in s.memory.items()}
    return cases.double(State(learned, memory))


def task(seed=0, shots=SHOTS, queries=3):
    e = tasks.episode(generator(seed), ways=len(shots), shots=shots, queries=queries, dtype=torch.float64)
    grow = {n: F.interpolate(getattr(e, n), size=SIZE) for n in ("support_x", "query_x")}
    return conformance.replace(e, **grow)


def adapted(algorithm, s, e):
    return algorithm.adapt(s, cases.support_of(e), Context())


def parts(algorithm, s, x):
    return algorithm._parts(algorithm.embed(s, None, x))


# ---- the blocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "size", "paths", "sizes"),
    [
        ("conv4", 28, ("0", "1", "2", "3"), (256, 256, 256, 64)),
        ("conv4-32", 84, ("0", "1", "2", "3"), (128, 128, 128, 800)),
        ("resnet12", 28, ("0", "1", "2", "3"), (256, 512, 1024, 512)),
        ("resnet18", 64, ("layer1", "layer2", "layer3", "layer4"), (256, 512, 1024, 512)),
        ("tiny", 8, (), (128,)),
    ],
)
def test_blocks_of_every_backbone(key, size, paths, sizes):
    tasks.tiny_backbone()
    network = registry.backbone(key).skeleton(1, size)
    assert blocks.blocks(network) == paths
    assert blocks.Blocks(network, (1, size, size)).sizes == sizes


def test_a_network_in_a_wrapper_has_its_blocks():
    block = lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU())  # noqa: E731
    inner = nn.Sequential(nn.Sequential(nn.ReLU()), block(), block(), nn.Flatten())
    assert blocks.blocks(nn.Sequential(inner)) == ("0.1", "0.2")
    assert blocks.blocks(nn.Sequential(nn.Conv2d(1, 1, 1))) == ()


def test_features_are_those_after_each_block():
    algorithm = built()
    s, x = state(algorithm), task().query_x
    frozen = functional.frozen(
        algorithm._skeleton(), {n: t for n, t in functional.under({**s.learned, **s.memory}).items() if n != "blocks"}
    )
    found = parts(algorithm, s, x)
    for b, part in enumerate(found):
        x = frozen[b](x)
        expected = x.flatten(1) if b == 3 else F.adaptive_avg_pool2d(x, 2).flatten(1)
        torch.testing.assert_close(part, F.normalize(expected, dim=1), rtol=0, atol=1e-12)
    # of the last block the backbone's own output is taken
    assert found[-1].shape[1] == registry.backbone("conv4-32").embedding_size(1, SIZE)


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (7, 7), (14, 4), (21, 10)])
def test_quarters_are_adaptive_pooling(shape):
    x = torch.randn(2, 3, *shape, generator=generator(0))
    torch.testing.assert_close(blocks.quarters(x), F.adaptive_avg_pool2d(x, 2).flatten(1))
    assert blocks.quarters(x[:, :, :1]).shape == (2, 3)


def test_the_trunk_is_not_mistaken_for_the_plain_one():
    """Its features are kept under another digest than those of the same weights read at their end."""
    s = built().init(generator(0))
    assert s.memory["trunk.blocks"] == 4
    network = registry.backbone("conv4-32").skeleton(1, SIZE)
    assert "blocks" not in {n for n, _ in (*network.named_parameters(), *network.named_buffers())}


# ---- left-out answers ------------------------------------------------------------------------------------


def is_refitting(function, kind):
    x, y = torch.randn(12, 7, generator=generator(0), dtype=torch.float64), torch.arange(12) % 4
    scale, weights = torch.tensor(3.0, dtype=torch.float64), heads.balanced(y, 4, x)
    found = function(kind, x, y, 4, scale, 0.7)
    for i in range(12):
        rest = torch.arange(12) != i
        if kind == "nearest":
            weight, bias = fitted(kind, x[rest], y[rest], 4, scale, 0.7)
        else:
            w = heads.ridge(x[rest], heads.one_hot(y[rest], 4, x), 0.7, weights[rest])
            weight, bias = scale * w.T, torch.zeros(4, dtype=torch.float64)
        torch.testing.assert_close(found[i], F.linear(x[i : i + 1], weight, bias)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["nearest", "ridge"])
def test_left_out_answers_are_those_of_refitting(kind):
    is_refitting(left_out, kind)


@pytest.mark.parametrize("kind", ["nearest", "ridge"])
def test_answers_of_the_very_examples_are_noticed(kind):
    def fitted_to_them(kind, x, y, ways, scale, strength):
        return F.linear(x, *fitted(kind, x, y, ways, scale, strength))

    with pytest.raises(AssertionError):
        is_refitting(fitted_to_them, kind)


# ---- the shares ------------------------------------------------------------------------------------------


def shares_by_hand(algorithm, s, e):
    """Loss of every block by leaving out one example at a time."""
    can = [i for i, k in enumerate(e.support_y.tolist()) if SHOTS[k] > 1]
    losses = []
    for b, x in enumerate(parts(algorithm, s, e.support_x)):
        total = 0.0
        for i in can:
            rest = torch.arange(len(x)) != i
            head = fitted("nearest", x[rest], e.support_y[rest], e.ways, s.learned["scale"][b].exp(), 0.5)
            total += float(F.cross_entropy(F.linear(x[i : i + 1], *head), e.support_y[i : i + 1]))
        losses.append(total / len(can))
    evidence = torch.tensor(losses, dtype=torch.float64) / s.learned["temperature"].exp()
    return (s.learned["prior"] - len(can) / len(e.support_y) * evidence).softmax(0)


def shares_are_by_left_out_loss(cls):
    algorithm = built(cls)
    s, e = state(algorithm), task()
    found = adapted(algorithm, s, e).tensors["shares"]
    torch.testing.assert_close(found, shares_by_hand(algorithm, s, e), rtol=0, atol=1e-10)
    assert float(found.max()) < 0.99


def test_shares_are_by_left_out_loss():
    shares_are_by_left_out_loss(Depth)


class ByFit(Depth):
    """Chooses by the loss on the examples that the heads were fitted to."""

    def evidence(self, learned, support, y, ways):
        z = [F.linear(x, *h) for x, h in zip(self._parts(support), self.fits(learned, support, y, ways), strict=True)]
        return 1.0, torch.stack([F.cross_entropy(own, y) for own in z])


class SureOfFew(Depth):
    """Takes two examples that can be left out for as much evidence as all."""

    def evidence(self, learned, support, y, ways):
        return 1.0, super().evidence(learned, support, y, ways)[1]


class OneScale(Depth):
    def evidence(self, learned, support, y, ways):
        return super().evidence({**learned, "scale": learned["scale"][0].expand(4)}, support, y, ways)


class PicksTheWorst(Depth):
    def evidence(self, learned, support, y, ways):
        share, losses = super().evidence(learned, support, y, ways)
        return share, -losses


@pytest.mark.parametrize("mistake", [ByFit, SureOfFew, OneScale, PicksTheWorst])
def test_other_choices_are_noticed(mistake):
    with pytest.raises(AssertionError):
        shares_are_by_left_out_loss(mistake)


@pytest.mark.parametrize("kind", ["nearest", "ridge"])
def test_with_one_shot_the_prior_decides(kind):
    algorithm = built(head=kind)
    s = state(algorithm)
    found = [adapted(algorithm, s, task(i, shots=(1, 1, 1))).tensors["shares"] for i in range(2)]
    assert all(torch.equal(f, s.learned["prior"].softmax(0)) for f in found)
    more = [adapted(algorithm, s, task(i, shots=(2, 2, 2))).tensors["shares"] for i in range(2)]
    assert not torch.equal(*more)


def test_a_block_that_is_told_apart_better_gets_more():
    """Three of the four blocks give noise."""
    algorithm = built()
    s = algorithm.init(generator(0))
    y = torch.arange(4).repeat(3)
    for good in range(4):
        noise = [F.normalize(torch.randn(12, d, generator=generator(d + good)), dim=1) for d in algorithm.network.sizes]
        noise[good] = F.normalize(torch.eye(algorithm.network.sizes[good])[y] + 0.1 * noise[good], dim=1)
        shares = algorithm.shares(s.learned, torch.cat(noise, 1), y, 4)
        assert float(shares[good]) > 0.95


# ---- one block alone, and the mixture --------------------------------------------------------------------


def of_block(algorithm, s, e, b):
    support, query = parts(algorithm, s, e.support_x)[b], parts(algorithm, s, e.query_x)[b]
    scale = s.learned["scale"][b].exp()
    return F.linear(query, *fitted(algorithm.p.head, support, e.support_y, e.ways, scale, algorithm.p.strength))


@pytest.mark.parametrize("kind", ["nearest", "ridge"])
@pytest.mark.parametrize("b", range(4))
def test_one_block_alone_is_its_head_and_a_shorter_network(kind, b):
    algorithm = built(head=kind, choice="best")
    s, e = state(algorithm), task(shots=(1, 1, 1))
    s.learned["prior"][b] = 9.0
    a = adapted(algorithm, s, e)
    assert a.tensors["shares"].tolist() == [float(i == b) for i in range(4)]
    expected = of_block(algorithm, s, e, b)
    torch.testing.assert_close(algorithm.logits(s, a, e.query_x), expected, rtol=0, atol=1e-11)
    short = algorithm.truncated(s, a)
    logits, embedding = short(e.query_x)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-11)
    assert embedding.shape[1] == algorithm.network.sizes[b]
    kept = {n.split(".")[1] for n, _ in short.trunk.named_parameters()}
    assert kept == {str(i) for i in range(b + 1)}
    # folded: each convolution with its bias and nothing else
    assert len(list(short.trunk.parameters())) == 2 * (b + 1)


def test_the_block_at_the_end_is_the_plain_network():
    """With all share at the end: nearest class means of the backbone's own features, of length 1."""
    algorithm = built(choice="best")
    s, e = state(algorithm), task(shots=(1, 1, 1))
    s.learned["prior"][3] = 9.0
    network = registry.backbone("conv4-32").skeleton(1, SIZE)
    buffers = {n: t for n, t in functional.under(s.memory).items() if n != "blocks"}
    f, q = (
        F.normalize(functional.call(network, functional.under(s.learned), buffers, x), dim=1)
        for x in (e.support_x, e.query_x)
    )
    expected = heads.distance_logits(q, heads.prototypes(f, e.support_y, 3), s.learned["scale"][3].exp())
    torch.testing.assert_close(cases.predict(algorithm, s, e), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["nearest", "ridge"])
def test_the_mixture_is_of_log_probabilities(kind):
    algorithm = built(head=kind)
    s, e = state(algorithm), task()
    a = adapted(algorithm, s, e)
    each = torch.stack([of_block(algorithm, s, e, b).log_softmax(1) for b in range(4)])
    expected = (a.tensors["shares"][:, None, None] * each).sum(0).log_softmax(1)
    found = algorithm.logits(s, a, e.query_x).log_softmax(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert float(a.tensors["shares"].sum()) == pytest.approx(1)


@pytest.mark.parametrize(("key", "size"), [("resnet12", 16), ("resnet18", 32)])
def test_residual_networks_are_cut_too(key, size):
    algorithm = Depth(build_params(Depth.Params, {"choice": "best"}), Setting(key, 1, size))
    s, x = algorithm.init(generator(0)), torch.randn(3, 1, size, size, generator=generator(1))
    s.learned["prior"][1] = 9.0
    a = algorithm.adapt(s, Support(x, torch.arange(3), 3), Context())
    short = algorithm.truncated(s, a)
    cases.close(short(x)[0], algorithm.logits(s, a, x), 1e-5)
    numbers = [sum(p.numel() for p in t.parameters()) for t in (short.trunk, algorithm.trunk(s))]
    assert numbers[0] < 0.12 * numbers[1]


def test_a_shorter_network_is_exported(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    algorithm = built(choice="best")
    s, e = algorithm.init(generator(0)), task(shots=(1, 1, 1))
    s.learned["prior"][1] = 9.0
    x = e.query_x.float()
    short = algorithm.truncated(s, algorithm.adapt(s, Support(x[:3], torch.arange(3), 3), Context()))
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.onnx.export(short, (x[:2],), tmp_path / "m.onnx", dynamo=True, dynamic_shapes=batch, verbose=False)
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for n in (1, len(x)):
        got = session.run(None, {session.get_inputs()[0].name: x[:n].numpy()})[0]
        cases.close(torch.from_numpy(got), short(x[:n])[0], 1e-5)


# ---- training --------------------------------------------------------------------------------------------


def loss_by_hand(algorithm, learned, e, prior):
    """The loss with ``prior`` in the third term alone."""
    with norm.batch_statistics():
        f = blocks.features(algorithm.network, functional.under(learned), {}, torch.cat([e.support_x, e.query_x]))
    f, q = f.tensor_split([len(e.support_y)])
    zs = [
        F.linear(x, *h)
        for x, h in zip(algorithm._parts(q), algorithm.fits(learned, f, e.support_y, e.ways), strict=True)
    ]
    shares = algorithm.shares(learned, f, e.support_y, e.ways)
    mixed = sum(p * z for p, z in zip(shares, zs, strict=True))
    by_prior = sum(p * z.detach() for p, z in zip(prior.softmax(0), zs, strict=True))
    own = sum(F.cross_entropy(z, e.query_y) for z in zs) / 4
    return F.cross_entropy(mixed, e.query_y) + own, F.cross_entropy(by_prior, e.query_y)


def test_the_loss_and_what_learns_of_which_part():
    algorithm = built()
    s, e = state(algorithm), task()
    leaves = {n: t.clone().requires_grad_() for n, t in s.learned.items()}
    loss, *_ = algorithm.task_loss(leaves, e)
    found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    first, second = loss_by_hand(algorithm, leaves, e, leaves["prior"])
    torch.testing.assert_close(loss, first + second, rtol=0, atol=1e-12)
    # the network, the scales and the temperature learn of the first part, the prior of the second
    of_first = torch.autograd.grad(first, list(leaves.values()), allow_unused=True, retain_graph=True)
    of_second = torch.autograd.grad(second, list(leaves.values()), allow_unused=True)
    for name, a, b in zip(leaves, of_first, of_second, strict=True):
        assert (b is not None) == (name == "prior"), name
        assert (a is not None) == (name != "prior"), name
        torch.testing.assert_close(found[name], b if a is None else a, rtol=0, atol=1e-12)
        assert float(found[name].abs().max()) > 1e-7, name


def test_the_temperature_and_the_scales_have_the_right_gradient():
    """By finite differences, through the closed forms of the left-out answers."""
    for kind in ("nearest", "ridge"):
        algorithm = built(head=kind)
        s, e = state(algorithm), task()
        leaves = {n: t.clone().requires_grad_() for n, t in s.learned.items()}
        grads = torch.autograd.grad(algorithm.task_loss(leaves, e)[0], [leaves["temperature"], leaves["scale"]])
        prior = s.learned["prior"]
        for name, g, way in (
            ("temperature", grads[0], torch.tensor(1.0, dtype=torch.float64)),
            ("scale", grads[1], torch.tensor([0.3, -1.0, 0.5, 0.8], dtype=torch.float64)),
        ):
            moved = [{**s.learned, name: s.learned[name] + h * way} for h in (1e-5, -1e-5)]
            up, down = (float(loss_by_hand(algorithm, m, e, prior)[0]) for m in moved)
            assert (up - down) / 2e-5 == pytest.approx(float((g * way).sum()), rel=1e-5)


def test_a_network_of_one_block_has_nothing_to_choose():
    tasks.tiny_backbone()
    algorithm = Depth(build_params(Depth.Params, {}), Setting("tiny", 1, 8))
    s = algorithm.init(generator(0))
    assert set(s.learned) == {"trunk.conv.weight", "trunk.norm.weight", "trunk.norm.bias", "scale"}
    e = tasks.episode(generator(0))
    a = algorithm.adapt(s, cases.support_of(e), Context())
    assert a.tensors["shares"].tolist() == [1.0]
    assert isinstance(a, Adapted)
