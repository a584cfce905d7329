"""Every registered algorithm has every property; and each property notices the mistake that it is there for."""

import functools

import pytest
import torch

from tests.learn import cases, conformance, tasks
from tests.learn.cases import Case
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import heads, norm, registry
from workbench.learn.algorithms.maml import MAML
from workbench.learn.algorithms.protonet import ProtoNet
from workbench.learn.algorithms.reptile import Reptile
from workbench.learn.protocol import Adapted, Setting, State, StepResult, Support, generator

ALL = [
    # what a case has trained serves all its properties, so they are run by one process
    pytest.param(case, id=case.name, marks=pytest.mark.xdist_group(case.name))
    for key in registry.algorithms()
    for case in cases.of(key)
]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("prop", conformance.PROPERTIES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("case", ALL)
def test_property(case, prop):
    prop(case)


def test_the_whole_suite_is_one_call():
    conformance.check_algorithm("ridge")


@pytest.mark.parametrize("key", sorted(registry.algorithms()))
def test_onnx_gives_the_same_answers(key, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    algorithm = cases.build(key, {})
    state = cases.train(algorithm, algorithm.init(generator(0)), 1)
    e = tasks.episode(generator(4))
    deployed = algorithm.deploy(state, algorithm.adapt(state, cases.support_of(e), Context()))
    batch = ({0: torch.export.Dim("batch", min=1, max=1024)},)
    torch.onnx.export(
        deployed,
        (e.query_x[:2],),
        tmp_path / "model.onnx",
        dynamo=True,
        dynamic_shapes=batch,
        external_data=False,
        verbose=False,
    )
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for n in (1, len(e.query_x)):
        x = e.query_x[:n]
        got = torch.from_numpy(session.run(None, {name: x.numpy()})[0])
        cases.close(got, deployed(x)[0], 1e-5)
        assert torch.equal(got.argmax(1), deployed(x)[0].argmax(1))


# ---- each property fails where its mistake is planted ----------------------------------------------------


class LeakingQueries(ProtoNet):
    def _features(self, s, x):
        with norm.batch_statistics():
            return super()._features(s, x)


class WritesToItsState(ProtoNet):
    def adapt(self, s, support, ctx, **kwargs):
        s.memory["trunk.norm.running_mean"].add_(0.1)
        return super().adapt(s, support, ctx, **kwargs)


class PredictsFromItsLastPrediction(ProtoNet):
    def logits(self, s, a, x):
        z = super().logits(s, a, x)
        a.tensors["prototypes"] += 0.01 * self._features(s, x).mean(0)
        return z


class DrawsFromTheGlobalGenerator(ProtoNet):
    def init(self, gen):
        learned, memory = super().init(gen)
        return State({n: t + 0.1 * torch.randn(t.shape) for n, t in learned.items()}, memory)


class KeepsTheGraph(ProtoNet):
    def adapt(self, s, support, ctx, *, unlabelled=None, on_step=None):
        with torch.enable_grad():
            ctx.check()
            centres = heads.prototypes(self._features(s, support.x), support.y, support.ways)
            return Adapted({"prototypes": centres}, support.ways)


class NumbersCount(ProtoNet):
    def logits(self, s, a, x):
        return super().logits(s, a, x) + torch.arange(a.ways)


class FirstExampleOnly(ProtoNet):
    def adapt(self, s, support, ctx, **kwargs):
        first = [int((support.y == c).nonzero()[0]) for c in range(support.ways)]
        return super().adapt(s, Support(support.x[first], support.y[first], support.ways), ctx, **kwargs)


class NeverStops(ProtoNet):
    def adapt(self, s, support, ctx, **kwargs):
        return super().adapt(s, support, Context(), **kwargs)


class CutFeatures(ProtoNet):
    def step(self, s, batch, at, ctx):
        cut = {n: t.detach() if n.startswith("trunk.") else t for n, t in s.learned.items()}
        return super().step(State(cut, s.memory), batch, at, ctx)


class StillStatistics(ProtoNet):
    def step(self, s, batch, at, ctx):
        result = super().step(s, batch, at, ctx)
        return StepResult(loss=result.loss, metrics=result.metrics, correct=result.correct)


class ForgetsTheScale(ProtoNet):
    def deploy(self, s, a):
        deployed = super().deploy(s, a)
        deployed.head = heads.LinearHead(*heads.prototype_linear(2 * a.tensors["prototypes"]))
        return deployed


class KeepsSomethingOutsideItsState(ProtoNet):
    offset = 0.0

    def adapt(self, s, support, ctx, **kwargs):
        self.offset = self._features(s, support.x).mean()
        return super().adapt(s, support, ctx, **kwargs)

    def logits(self, s, a, x):
        return super().logits(s, a, x) * (1 + self.offset)


class WrongSign(Reptile):
    def step(self, s, batch, at, ctx):
        result = super().step(s, batch, at, ctx)
        return StepResult(grads={n: -g for n, g in result.grads.items()}, memory=result.memory, metrics=result.metrics)


class OneStepLess(MAML):
    def adapt(self, s, support, ctx, *, unlabelled=None, on_step=None):
        return super().adapt(s, support, ctx, on_step=None if on_step is None else lambda j, a: j and on_step(j - 1, a))


class TakesTheExamplesForSorted(ProtoNet):
    def adapt(self, s, support, ctx, **kwargs):
        return super().adapt(s, Support(support.x, support.y.sort().values, support.ways), ctx, **kwargs)


class TakesOneShotOnly(ProtoNet):
    def adapt(self, s, support, ctx, **kwargs):
        if len(support.y) % support.ways:
            support = Support(support.x[:2], torch.arange(2), 2)
        return super().adapt(s, support, ctx, **kwargs)


MISTAKES = [
    (LeakingQueries, conformance.a_query_alone_and_among_75_is_the_same),
    (WritesToItsState, conformance.adapting_leaves_the_state_untouched),
    (PredictsFromItsLastPrediction, conformance.predicting_twice_is_equal),
    (PredictsFromItsLastPrediction, conformance.adapting_leaves_the_state_untouched),
    (DrawsFromTheGlobalGenerator, conformance.same_seed_same_result),
    (KeepsTheGraph, conformance.no_graph_is_left),
    (NumbersCount, conformance.permuting_classes_permutes_outputs),
    (FirstExampleOnly, conformance.support_order_does_not_matter),
    (NeverStops, conformance.cancel_is_honoured),
    (CutFeatures, conformance.every_learned_tensor_gets_a_gradient),
    (StillStatistics, conformance.trunks_are_shared),
    (ForgetsTheScale, conformance.deploying_equals_logits),
    (KeepsSomethingOutsideItsState, conformance.saving_and_loading_changes_nothing),
    (WrongSign, conformance.a_toy_task_is_learnt),
    (OneStepLess, conformance.steps_are_shown),
    (TakesTheExamplesForSorted, conformance.scrambled_labels_give_chance),
    (TakesOneShotOnly, conformance.unequal_shots_and_few_of_all_work),
]


@pytest.mark.parametrize(("cls", "prop"), MISTAKES, ids=lambda v: v.__name__)
def test_a_planted_mistake_is_noticed(cls, prop):
    _, params = cases.of(cls.info.key)[0].make.args
    made = functools.partial(_planted, cls, params)
    with pytest.raises(AssertionError):
        prop(Case(cls.__name__, made))


def _planted(cls, params, ways):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE, ways=ways))
