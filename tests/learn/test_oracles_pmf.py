"""P>M>F: without steps it is prototypes by cosines; its steps are those of Adam on changed examples, written out."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import augment, functional, norm
from workbench.learn.algorithms import pmf as module
from workbench.learn.algorithms.pmf import PMF, PRETRAINING, SEED
from workbench.learn.algorithms.protonet import ProtoNet
from workbench.learn.protocol import At, Setting, generator


def built(cls=PMF, backbone="tiny-smooth", **params):
    """In float64, with statistics and gains that are nobody's start."""
    tasks.tiny_backbone()
    settings = {"test_steps": 3, "tune_lr": 0.01} | params if cls is not ProtoNet else params
    algorithm = cls(build_params(cls.Params, settings), Setting(backbone, 1, tasks.SIZE, 3, (40,)))
    state = cases.train(algorithm, algorithm.init(generator(0)), 2, ways=3)
    return algorithm, cases.double(state)


def task(seed=0):
    return tasks.episode(generator(seed), ways=3, shots=(1, 3, 2), queries=4, dtype=torch.float64)


def cosines(trunk, buffers, shown, y, asked, tau):
    """``tau cos(f(q), c_k)`` by loops; the running averages stand."""

    def features(x):
        x = F.conv2d(x, trunk["conv.weight"], padding=1)
        moments = buffers["norm.running_mean"], buffers["norm.running_var"]
        x = F.batch_norm(x, *moments, trunk["norm.weight"], trunk["norm.bias"], training=False)
        return F.avg_pool2d(F.softplus(x), 2).flatten(1)

    f, q = features(shown), features(asked)
    centres = [torch.stack([row for row, k in zip(f, y.tolist(), strict=True) if k == c]).mean(0) for c in range(3)]
    return torch.stack([tau * F.cosine_similarity(q, c[None], dim=1) for c in centres], 1)


def steps_are_those_of_adam_on_changed_examples(cls=PMF):
    algorithm, state = built(cls)
    e, p = task(), algorithm.p
    trunk = {n: t.clone().requires_grad_() for n, t in functional.under(state.learned).items()}
    buffers, gen = functional.under(state.memory), generator(SEED)
    adam = torch.optim.Adam(trunk.values(), lr=p.tune_lr)
    for _ in range(p.test_steps):
        adam.zero_grad()
        changed = augment.augmented(e.support_x, gen)
        F.cross_entropy(cosines(trunk, buffers, e.support_x, e.support_y, changed, p.tau), e.support_y).backward()
        adam.step()
    adapted = algorithm.adapt(state, cases.support_of(e), Context())
    for name, t in trunk.items():
        torch.testing.assert_close(adapted.tensors[f"trunk.{name}"], t.detach(), rtol=0, atol=1e-10)
    expected = cosines(trunk, buffers, e.support_x, e.support_y, e.query_x, p.tau).detach()
    torch.testing.assert_close(algorithm.logits(state, adapted, e.query_x), expected, rtol=0, atol=1e-9)


def test_steps_are_those_of_adam_on_changed_examples():
    steps_are_those_of_adam_on_changed_examples()


class StatisticsOfTheBatch(PMF):
    def tuning_loss(self, *args):
        with norm.batch_statistics():
            return super().tuning_loss(*args)


class PrototypesStand(PMF):
    """Only the changed examples pull."""

    def tuning_loss(self, trunk, buffers, support, gen):
        with torch.no_grad():
            shown = functional.call(self.network, trunk, buffers, support.x)
        centres = module.heads.prototypes(shown, support.y, support.ways)
        asked = functional.call(self.network, trunk, buffers, augment.augmented(support.x, gen))
        return F.cross_entropy(module.heads.cosine_logits(asked, centres, self.p.tau), support.y)


class TheirOwnQueries(PMF):
    """Examples that are asked about as they are."""

    def tuning_loss(self, trunk, buffers, support, gen):
        f = functional.call(self.network, trunk, buffers, support.x)
        centres = module.heads.prototypes(f, support.y, support.ways)
        return F.cross_entropy(module.heads.cosine_logits(f, centres, self.p.tau), support.y)


@pytest.mark.parametrize("cls", [StatisticsOfTheBatch, PrototypesStand, TheirOwnQueries])
def test_other_steps_are_noticed(cls):
    with pytest.raises(AssertionError):
        steps_are_those_of_adam_on_changed_examples(cls)


@pytest.mark.parametrize("params", [{"test_steps": 0}, {"tune_lr": 0.0}])
def test_without_steps_or_with_a_rate_of_zero_it_is_prototypes_by_cosines(params):
    algorithm, state = built(**params)
    e = task()
    adapted = algorithm.adapt(state, cases.support_of(e), Context())
    trunk, buffers = functional.under(state.learned), functional.under(state.memory)
    expected = cosines(trunk, buffers, e.support_x, e.support_y, e.query_x, 10.0)
    torch.testing.assert_close(algorithm.logits(state, adapted, e.query_x), expected, rtol=0, atol=1e-10)
    # the centres are those of Prototypical Networks on the same trunk
    plain, _ = built(ProtoNet)
    centres = plain.adapt(state, cases.support_of(e), Context()).tensors["prototypes"]
    torch.testing.assert_close(adapted.tensors["prototypes"], centres, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tuned", ["all", "norms"])
def test_fine_tuning_lowers_the_loss_of_the_examples(tuned):
    algorithm, state = built(tuned=tuned, test_steps=30)
    buffers = functional.under(state.memory)
    for seed in range(3):
        e = task(seed)
        found = list(algorithm.fine_tuned(state, cases.support_of(e), Context()))
        assert len(found) == 31

        def loss(trunk, e=e):  # of the same changes for both
            changes = [augment.augmented(e.support_x, generator(50 + i)) for i in range(8)]
            z = [cosines(trunk, buffers, e.support_x, e.support_y, x, 10.0) for x in changes]
            return float(F.cross_entropy(torch.cat(z), e.support_y.repeat(8)))

        assert loss(found[-1]) < loss(found[0])


def test_what_is_frozen_stays_to_the_last_bit():
    algorithm, state = built(tuned="norms")
    adapted = algorithm.adapt(state, cases.support_of(task()), Context()).tensors
    assert set(adapted) == {"trunk.norm.weight", "trunk.norm.bias", "prototypes"}
    *_, last = algorithm.fine_tuned(state, cases.support_of(task()), Context())
    assert torch.equal(last["conv.weight"], state.learned["trunk.conv.weight"])
    for name in ("trunk.norm.weight", "trunk.norm.bias"):
        assert not torch.equal(adapted[name], state.learned[name])


@pytest.mark.parametrize("tuned", ["all", "norms"])
def test_a_task_touches_neither_the_statistics_nor_the_next_task(tuned):
    algorithm, state = built(tuned=tuned)
    before = cases.copy(state)
    first = algorithm.adapt(state, cases.support_of(task(1)), Context()).tensors
    algorithm.adapt(state, cases.support_of(task(2)), Context())
    again = algorithm.adapt(state, cases.support_of(task(1)), Context(seed=9)).tensors
    assert cases.same(first, again)
    assert cases.same(before.learned, state.learned)
    assert cases.same(before.memory, state.memory)


def test_zero_is_among_the_rates_and_steps():
    for name in ("tune_lr", "test_steps"):
        assert getattr(build_params(PMF.Params, {name: 0}), name) == 0


def test_training_is_prototypes_by_cosines_with_the_episodes_statistics():
    algorithm, state = built(tau=4.0)
    e = task()
    result = algorithm.step(state, tasks.Episodes((e,)), At("episodes", 0, 0.0), Context())
    trunk = functional.under(state.learned)
    x = F.conv2d(torch.cat([e.support_x, e.query_x]), trunk["conv.weight"], padding=1)
    x = F.batch_norm(x, None, None, trunk["norm.weight"], trunk["norm.bias"], training=True)
    f = F.avg_pool2d(F.softplus(x), 2).flatten(1)
    n = len(e.support_y)
    centres = torch.stack([f[:n][e.support_y == k].mean(0) for k in range(3)])
    z = 4.0 * F.normalize(f[n:], dim=1) @ F.normalize(centres, dim=1).T
    assert float(result.loss) == pytest.approx(float(F.cross_entropy(z, e.query_y)), rel=1e-9)


def test_pretraining_comes_first_unless_there_are_weights_or_it_has_no_share():
    algorithm, _ = built()
    assert [p.name for p in algorithm.phases(None)] == [PRETRAINING, "episodes"]
    assert [p.name for p in built(pretraining=0.0)[0].phases(None)] == ["episodes"]
    weights = functional.under({**(s := algorithm.init(generator(0))).learned, **s.memory})
    setting = Setting("tiny-smooth", 1, tasks.SIZE, 3, (40,), weights)
    pretrained = PMF(build_params(PMF.Params, {}), setting)
    assert [p.name for p in pretrained.phases(None)] == ["episodes"]
    assert set(pretrained.init(generator(1)).learned) == {n for n in s.learned if n.startswith("trunk.")}


class TestChanges:
    def test_one_draw_is_for_all_pictures(self):
        x = torch.randn(4, 3, 8, 8, generator=generator(0))
        together = augment.augmented(x, generator(5))
        alone = torch.cat([augment.augmented(x[i : i + 1], generator(5)) for i in range(4)])
        torch.testing.assert_close(together, alone)
        assert not torch.allclose(together, augment.augmented(x, generator(6)))

    def test_a_shift_moves_by_whole_pixels_and_repeats_the_border(self):
        x = torch.arange(16.0).view(1, 1, 4, 4)
        moved = augment.shifted(x, 1, -2)
        assert torch.equal(moved[0, 0, 1:, :2], x[0, 0, :3, 2:])
        assert torch.equal(moved[0, 0, 0], moved[0, 0, 1])
        assert torch.equal(moved[0, 0, :, 2], moved[0, 0, :, 1])

    def test_about_one_draw_in_ten_leaves_the_light_alone_and_grey_stays_grey(self):
        x = torch.randn(1, 1, 8, 8, generator=generator(0)).expand(1, 3, 8, 8)
        gen, same_light = generator(1), 0
        for _ in range(400):
            changed = augment.augmented(x, gen)
            torch.testing.assert_close(changed[:, 0], changed[:, 1], rtol=0, atol=1e-5)
            same_light += bool(torch.isin(changed, x).all())
        assert 20 <= same_light <= 65
