"""Meta-SGD against MAML, its closed-form gradient, finite differences and its own promises (float64)."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from tests.learn.cases import accuracy, double, train
from tests.learn.data import sampler, source
from tests.learn.test_oracles_maml import gap_to_finite_differences, meta_gradient, meta_loss, task
from workbench.core.context import Context
from workbench.learn import functional, heads, inner, registry
from workbench.learn.algorithms.maml import MAML
from workbench.learn.algorithms.meta_sgd import BOUND, HIGH, LOW, MetaSGD, step_sizes
from workbench.learn.engine import Plan
from workbench.learn.engine import train as run_engine
from workbench.learn.protocol import At, Setting, SourceSummary, State, Support, generator

HEADS = ["textbook", "prototype"]


def built(head, backbone="tiny-smooth", **params):
    tasks.tiny_backbone()
    algorithm = MetaSGD(MetaSGD.Params(head=head, **params), Setting(backbone, 1, 8, ways=3))
    state = algorithm.init(generator(0))
    if "scale" in state.learned:
        state.learned["scale"] -= 1.5
    return algorithm, double(state)


def with_alpha(state, value, names=""):
    """The state with one number for the step sizes of the parameters whose names begin so, and the others as is."""
    learned = {n: torch.full_like(t, value) if n.startswith(f"alpha.{names}") else t for n, t in state.learned.items()}
    return State(learned, state.memory)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("steps", [1, 3])
def test_one_number_for_all_is_maml(head, steps):
    """To the last bit: the same gradient of every parameter, and the same adapted network."""
    algorithm, state = built(head, inner_steps=steps, test_steps=steps)
    state = with_alpha(state, 0.1)
    maml = MAML(MAML.Params(head=head, inner_lr=0.1, inner_steps=steps, test_steps=steps), algorithm.setting)
    shared = State({n: t for n, t in state.learned.items() if not n.startswith("alpha.")}, state.memory)
    found, expected = meta_gradient(algorithm, state, task()), meta_gradient(maml, shared, task())
    assert all(torch.equal(found[n], g) for n, g in expected.items())
    support = Support(task().support_x, task().support_y, 3)
    ours, theirs = (a.adapt(s, support, Context()).tensors for a, s in ((algorithm, state), (maml, shared)))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], t) for n, t in theirs.items())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("steps", [1, 2])
def test_the_gradient_is_that_of_the_whole_map(head, steps):
    """Of ``theta`` and ``alpha`` together."""
    algorithm, state = built(head, inner_steps=steps)
    assert gap_to_finite_differences(algorithm, state, task()) < 1e-6


def closed_form(algorithm, state, e):
    """``- g_S(theta) (*) g_Q(theta')``, summed where one number serves several."""
    x, y = e.support_x, e.support_y
    start, _ = inner.start(algorithm.network, state.learned, x, y, e.ways)
    theta = {n: t.detach().requires_grad_() for n, t in start.items()}
    loss = F.cross_entropy(inner.support_logits(algorithm.network, theta, x), y)
    g_s = dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
    alpha = functional.under(state.learned, "alpha.")
    moved = {n: (t - alpha[n] * g_s[n]).detach().requires_grad_() for n, t in theta.items()}
    given = inner.statistics(algorithm.network, moved, x)
    loss = F.cross_entropy(inner.query_logits(algorithm.network, moved, given, e.query_x), e.query_y)
    g_q = dict(zip(moved, torch.autograd.grad(loss, list(moved.values())), strict=True))
    return {f"alpha.{n}": -(g_s[n] * g_q[n]).sum_to_size(alpha[n].shape) for n in theta}


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_of_the_step_sizes_is_minus_the_product_of_both(head):
    algorithm, state = built(head)
    found, expected = meta_gradient(algorithm, state, task()), closed_form(algorithm, state, task())
    assert expected.keys() == {n for n in state.learned if n.startswith("alpha.")}
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-12, atol=1e-15)


def test_one_number_for_all_has_the_sum_of_their_gradients():
    """A scalar step size: ``-<g_S, g_Q>``, by finite differences."""
    algorithm, state = built("textbook")
    h, base = 1e-6, with_alpha(state, 0.05)
    losses = [meta_loss(algorithm, with_alpha(base, 0.05 + d).learned, task()) for d in (h, -h)]
    total = sum(float(g.sum()) for n, g in meta_gradient(algorithm, base, task()).items() if n.startswith("alpha."))
    assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(total, rel=1e-6)


def test_without_steps_of_the_body_it_is_a_head_in_an_inner_loop():
    """``alpha = 0`` on the trunk: the adapted trunk is the shared one, and the head is that of ANIL with one step."""
    algorithm, state = built("prototype")
    state, e = with_alpha(state, 0.0, "trunk."), task()
    adapted = algorithm.adapt(state, Support(e.support_x, e.support_y, 3), Context()).tensors
    for name in (n for n in state.learned if n.startswith("trunk.")):
        assert torch.equal(adapted[name], state.learned[name])
    start, _ = inner.start(algorithm.network, state.learned, e.support_x, e.support_y, 3)
    features = F.softplus(_normalised(algorithm, state, e.support_x))
    features = F.avg_pool2d(features, 2).flatten(1)
    w, b = (start[n].detach().requires_grad_() for n in ("head.weight", "head.bias"))
    F.cross_entropy(features @ w.T + b, e.support_y).backward()
    expected = w - state.learned["alpha.head.weight"] * w.grad
    torch.testing.assert_close(adapted["head.weight"], expected.detach(), rtol=1e-10, atol=1e-12)


def _normalised(algorithm, state, x):
    z = F.conv2d(x, state.learned["trunk.conv.weight"], padding=1)
    mean, var = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), keepdim=True, correction=0)
    return (z - mean) / (var + 1e-5).sqrt()


def test_step_sizes_start_between_their_bounds_one_per_parameter():
    _, state = built("textbook")
    alpha = functional.under(state.learned, "alpha.")
    assert alpha.keys() == {n for n in state.learned if not n.startswith("alpha.")}
    assert all(alpha[n].shape == state.learned[n].shape for n in alpha)
    values = torch.cat([a.flatten() for a in alpha.values()])
    assert LOW <= float(values.min()) < 0.006
    assert 0.099 < float(values.max()) <= HIGH


def test_step_sizes_may_be_negative_and_stay_within_their_bounds():
    algorithm, state = built("textbook")
    inside = with_alpha(state, -0.05)
    assert all(bool((a == -0.05).all()) for a in step_sizes(inside.learned).values())
    for value in (3.0, -3.0):
        outside = with_alpha(state, value)
        assert all(float(a.abs().max()) == BOUND for a in step_sizes(outside.learned).values())
        at_bound = with_alpha(state, BOUND if value > 0 else -BOUND)
        grads = [meta_gradient(algorithm, s, task())["alpha.head.weight"] for s in (outside, at_bound)]
        assert torch.equal(*grads)
        free = closed_form(algorithm, at_bound, task())["alpha.head.weight"]
        # descending it may only lead back inside
        back = free * value > 0
        torch.testing.assert_close(grads[0][back], free[back], rtol=1e-10, atol=1e-14)
        assert back.any()
        assert not grads[0][~back].any()
        assert free[~back].any()


@pytest.mark.parametrize("planted", ["one number", "stepped by the inner loss", "normalised gradients", "positive"])
def test_planted_mistakes_are_noticed(planted, monkeypatch):
    """Each gives another gradient of the step sizes than the closed form."""
    algorithm, state = built("textbook")
    state = with_alpha(state, -0.05, "head.")
    expected, whole = closed_form(algorithm, state, task()), inner.descent
    sizes = {
        "one number": lambda lr: {n: a.mean() + 0 * a for n, a in lr.items()},
        "stepped by the inner loss": lambda lr: {n: a.detach() for n, a in lr.items()},
        "positive": lambda lr: {n: a.abs() for n, a in lr.items()},
    }

    def wrong(loss, start, *, lr, **kwargs):
        if planted == "normalised gradients":
            return whole(lambda t: 5 * loss(t), start, lr=lr, **kwargs)
        return whole(loss, start, lr=sizes[planted](lr), **kwargs)

    monkeypatch.setattr(inner, "descent", wrong)
    found = meta_gradient(algorithm, state, task())
    gap = max(float((found[n] - g).abs().max() / g.abs().max()) for n, g in expected.items())
    assert gap > 0.05


def test_adapting_never_overwrites_the_shared_start():
    """Two tasks in one step give the mean of their gradients, in either order."""
    algorithm, state = built("prototype")
    apart = [meta_gradient(algorithm, state, task(i)) for i in (0, 1)]
    both = algorithm.step(state, tasks.Episodes((task(1), task(0))), At("episodes", 0, 0.0), Context()).grads
    for name, g in both.items():
        torch.testing.assert_close(g, (apart[0][name] + apart[1][name]) / 2, rtol=1e-12, atol=1e-14)


# ---- from a pretrained start -----------------------------------------------------------------------------


def pretrained(head="prototype", weights=None, **params):
    tasks.tiny_backbone()
    setting = Setting("tiny", 1, tasks.SIZE, 5, (40,), weights)
    return MetaSGD(MetaSGD.Params(**{"head": head, "start": "pretrained", "lr": 0.01, **params}), setting)


def test_the_trunk_starts_with_smaller_steps_and_learns_more_slowly():
    algorithm = pretrained(trunk_alpha=0.02)
    state = algorithm.init(generator(0))
    means = {n: float(state.learned[f"alpha.{n}"].mean()) for n in ("trunk.conv.weight", "head.weight")}
    assert means["head.weight"] / means["trunk.conv.weight"] == pytest.approx(50, rel=0.2)
    first, second = algorithm.phases(SourceSummary((40,), 400))
    assert (first.stream, second.stream) == ("batches", "episodes")
    assert first.share + second.share == 1
    assert second.lr == pytest.approx({"": 0.01, "trunk.": 1e-4, "alpha.trunk.": 2e-4})
    given = pretrained(weights=functional.under({**state.learned, **state.memory}))
    assert [p.name for p in given.phases(SourceSummary((40,), 400))] == ["episodes"]
    assert not any(n.startswith("classifier.") for n in given.init(generator(0)).learned)


def test_a_pretrained_start_learns():
    algorithm = pretrained(pretraining=0.8)
    fresh = algorithm.init(generator(0))
    state = train(algorithm, fresh, 100)
    assert not any(n.startswith("classifier.") for n in state.learned)
    assert accuracy(algorithm, state) > accuracy(algorithm, fresh) + 0.15


def test_a_textbook_head_on_a_pretrained_trunk_favours_no_class():
    """It starts at zero, so the first step sees equal chances, and the rows move by amounts that cancel."""
    algorithm = pretrained("textbook")
    state, e = with_alpha(algorithm.init(generator(0)), 0.1), tasks.episode(generator(3))
    seen = []
    algorithm.adapt(state, Support(e.support_x, e.support_y, 5), Context(), on_step=lambda j, a: seen.append(a.tensors))
    first, second = (t["head.weight"] for t in seen)
    assert not first.any()
    assert second.any(1).all()
    torch.testing.assert_close(second.sum(0), torch.zeros(128), rtol=0, atol=1e-6)


def test_the_trunks_accuracy_is_logged_before_and_after(tmp_path):
    """Nearest class mean with the running statistics; the first value is that of the pretrained trunk itself."""
    tasks.tiny_backbone()
    episodes = sampler(source("a"))
    weights = registry.create("protonet", {}, Setting("tiny", 1, 8)).init(generator(1))
    weights = functional.under({**weights.learned, **weights.memory})
    algorithm = MetaSGD(
        MetaSGD.Params(start="pretrained", tasks=2), Setting("tiny", 1, 8, 4, episodes.classes_per_source, weights)
    )
    out = run_engine(algorithm, episodes, None, Plan(episodes=12, seed=3), Context())
    logged = [m.value for m in out.history if m.name == "train/trunk_accuracy"]
    assert len(logged) == 6
    gen = generator(Context(3).seed_for("episodes"))
    plain, right = registry.backbone("tiny").skeleton(1, 8), []
    for e in (episodes.draw(gen), episodes.draw(gen)):
        f, q = (functional.frozen(plain, weights)(x) for x in (e.support_x, e.query_x))
        found = torch.cdist(q, heads.prototypes(f, e.support_y, e.ways)).argmin(1)
        right.append(float((found == e.query_y).float().mean()))
    assert logged[0] == pytest.approx(sum(right) / 2)
    scratch = MetaSGD(MetaSGD.Params(tasks=2), algorithm.setting)
    names = {m.name for m in run_engine(scratch, episodes, None, Plan(episodes=2), Context()).history}
    assert "train/trunk_accuracy" not in names
