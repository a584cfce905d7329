"""What every algorithm must do: ``check_algorithm(key)``, or each property on its own.

A property is a function of a :class:`Case` that raises AssertionError where it does not hold. The bodies use only the
protocol, so a new file in ``learn/algorithms`` is covered by being there.
"""

import contextlib
from dataclasses import replace

import safetensors.torch
import torch

from tests.learn import tasks
from tests.learn.cases import (
    GAIN,
    WAYS,
    accuracy,
    batch_of,
    close,
    copy,
    double,
    fixed_rows,
    give_gradients,
    of,
    predict,
    rows_permuted,
    same,
    support_of,
    train,
)
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.learn import functional, registry
from workbench.learn.optimiser import rates
from workbench.learn.protocol import Adapted, At, Setting, SourceSummary, State, Support, generator


def check_algorithm(key: str) -> None:
    """Every property, for every form of the algorithm.

    Raises:
        AssertionError: the first property that does not hold.
    """
    for case in of(key):
        for prop in PROPERTIES:
            prop(case)


def same_seed_same_result(case):
    """Two runs from one seed are equal to the last bit, another seed is not; the global generator is left alone."""
    before = torch.random.get_rng_state()
    algorithm = case.algorithm
    runs = [train(algorithm, algorithm.init(generator(seed)), 2) for seed in (0, 0, 1)]
    e = tasks.episode(generator(5))
    z = [predict(algorithm, s, e) for s in runs]
    assert same(runs[0].learned, runs[1].learned)
    assert same(runs[0].memory, runs[1].memory)
    assert torch.equal(z[0], z[1])
    assert not torch.equal(z[0], z[2])
    assert torch.equal(before, torch.random.get_rng_state())


def step_gives_what_the_engine_needs(case):
    """Loss and accuracy, right and wrong queries, every memory tensor, and a state that is not written to."""
    algorithm = case.algorithm
    assert case.has("trains") == bool(case.within)
    assert not case.within or abs(sum(p.share for p, _ in case.within) - 1) < 1e-9
    for phase, state in case.within:
        learned = {n: t.clone().requires_grad_() for n, t in state.learned.items()}
        memory = {n: t.clone() for n, t in state.memory.items()}
        batch = batch_of(phase, generator(1), 2)
        result = algorithm.step(State(learned, memory), batch, At(phase.name, 0, 0.0), Context())
        assert {"loss", "accuracy"} <= result.metrics.keys()
        assert 0 <= result.metrics["accuracy"] <= 1
        assert same(memory, state.memory)
        assert same({n: t.detach() for n, t in learned.items()}, state.learned)
        if result.memory is not None:
            assert result.memory.keys() == memory.keys()
            assert not any(t.requires_grad for t in result.memory.values())
        if (correct := result.shown()) is not None:
            assert correct.shape == batch.episodes[0].query_y.shape
            assert correct.dtype == torch.bool
        if result.grads is not None:
            assert not any(g.requires_grad for g in result.grads.values())


def every_learned_tensor_gets_a_gradient(case):
    """Nothing was cut from the graph, in any phase; what a phase does not train it declares frozen."""
    for phase, state in case.within:
        learned = {n: t.clone().requires_grad_() for n, t in state.learned.items()}
        batch = batch_of(phase, generator(1), 2)
        result = case.algorithm.step(State(learned, state.memory), batch, At(phase.name, 0, 0.0), Context())
        give_gradients(result, learned)
        for name in rates(phase, learned):
            assert learned[name].grad is not None, name
            assert float(learned[name].grad.abs().max()) > 0, name


def adapting_leaves_the_state_untouched(case):
    """Bit for bit, after adapting, predicting and deploying."""
    algorithm, state = case.algorithm, case.fresh
    before, e = copy(state), tasks.episode(generator(2))
    adapted = algorithm.adapt(state, support_of(e), Context())
    held = {n: t.clone() for n, t in adapted.tensors.items()}
    algorithm.logits(state, adapted, e.query_x)
    algorithm.deploy(state, adapted)(e.query_x)
    assert same(state.learned, before.learned)
    assert same(state.memory, before.memory)
    assert same(adapted.tensors, held)


def no_graph_is_left(case):
    """Neither in what was adapted nor in what is predicted, even from a state that is being trained."""
    algorithm = case.algorithm
    state = State({n: t.clone().requires_grad_() for n, t in case.fresh.learned.items()}, case.fresh.memory)
    e = tasks.episode(generator(2))
    adapted = algorithm.adapt(state, support_of(e), Context())
    deployed = algorithm.deploy(state, adapted)
    outputs = [algorithm.logits(state, adapted, e.query_x), *deployed(e.query_x)]
    for t in [*adapted.tensors.values(), *outputs, *deployed.parameters(), *deployed.buffers()]:
        assert not t.requires_grad
        assert t.grad_fn is None
    assert not any(m.training for m in deployed.modules())


def permuting_classes_permutes_outputs(case):
    """Numbering the classes in another order changes nothing but the order (float64)."""
    if case.has("order-dependent"):
        return
    algorithm, state = case.algorithm, double(case.fresh)
    e = tasks.episode(generator(6), shots=(1, 2, 3, 2, 1), dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    place = torch.argsort(order)
    z = predict(algorithm, state, e)
    moved = replace(e, support_y=place[e.support_y])
    close(predict(algorithm, rows_permuted(state, order), moved), z[:, order], 1e-7)


def support_order_does_not_matter(case):
    """Showing the examples in another order changes nothing (float64)."""
    if case.has("order-dependent"):
        return
    algorithm, state = case.algorithm, double(case.fresh)
    e = tasks.episode(generator(6), shots=(1, 2, 3, 2, 1), dtype=torch.float64)
    order = torch.randperm(len(e.support_y), generator=generator(1))
    moved = replace(e, support_x=e.support_x[order], support_y=e.support_y[order])
    close(predict(algorithm, state, moved), predict(algorithm, state, e), 1e-7)


def unequal_shots_and_few_of_all_work(case):
    """1-shot 2-way, unequal shots, and other numbers of classes than in training (or a refusal, with a fixed head)."""
    for ways, shots in ((2, 1), (3, (1, 6, 3)), (7, 1)):
        e = tasks.episode(generator(ways), ways=ways, shots=shots)
        trained = case.make(ways)
        state = train(trained, trained.init(generator(0)), 1, ways=ways, shots=shots)
        z = predict(trained, state, e)
        assert z.shape == (len(e.query_y), ways)
        assert bool(z.isfinite().all())
        # what is neither fixed nor free takes as many classes as in training, or fewer
        limited = ways > WAYS and not case.has("any-way")
        if fixed_rows(case.fresh) or limited:
            with contextlib.suppress(WorkbenchError):
                predict(case.algorithm, case.fresh, e)
                raise AssertionError("a limited head took another number of classes")
        else:
            assert bool(predict(case.algorithm, case.fresh, e).isfinite().all())


def a_query_alone_and_among_75_is_the_same(case):
    """No query may see the others, unless the algorithm says that it is transductive."""
    if case.has("transductive"):
        return
    algorithm, state = case.algorithm, case.fresh
    e = tasks.episode(generator(8), queries=15)
    adapted = algorithm.adapt(state, support_of(e), Context())
    deployed = algorithm.deploy(state, adapted)
    for function in (lambda x: algorithm.logits(state, adapted, x), lambda x: deployed(x)[0]):
        together = function(e.query_x)
        alone = torch.cat([function(e.query_x[i : i + 1]) for i in (0, 31, 74)])
        close(alone, together[[0, 31, 74]], 1e-5)


def predicting_twice_is_equal(case):
    """Predicting changes nothing."""
    algorithm, state, e = case.algorithm, case.fresh, tasks.episode(generator(9))
    adapted = algorithm.adapt(state, support_of(e), Context())
    assert torch.equal(algorithm.logits(state, adapted, e.query_x), algorithm.logits(state, adapted, e.query_x))
    again = algorithm.adapt(state, support_of(e), Context())
    if not case.has("stochastic"):
        assert same(adapted.tensors, again.tensors)


def saving_and_loading_changes_nothing(case):
    """State and adapted tensors through safetensors, into an algorithm built anew: equal logits, to the last bit."""
    algorithm, state, e = case.algorithm, case.fresh, tasks.episode(generator(9))
    adapted = algorithm.adapt(state, support_of(e), Context())
    parts = [safetensors.torch.load(safetensors.torch.save(p)) for p in (state.learned, state.memory, adapted.tensors)]
    other = case.make(WAYS)
    loaded = other.logits(State(parts[0], parts[1]), Adapted(parts[2], adapted.ways), e.query_x)
    assert torch.equal(loaded, algorithm.logits(state, adapted, e.query_x))


def deploying_equals_logits(case):
    """The plain module gives the same logits, and its trunk the same features; cached features give the same head."""
    algorithm, state, e = case.algorithm, case.fresh, tasks.episode(generator(10))
    adapted = algorithm.adapt(state, support_of(e), Context())
    logits, embedding = algorithm.deploy(state, adapted)(e.query_x)
    close(logits, algorithm.logits(state, adapted, e.query_x), 1e-5)
    close(algorithm.head(state, adapted)(embedding), logits, 1e-6)
    features = algorithm.embed(state, adapted, e.query_x)
    if features is not None:
        close(embedding, features, 1e-5)
    trunk = algorithm.trunk(state)
    assert (trunk is not None) == case.has("cacheable")
    if trunk is not None:
        close(trunk(e.query_x), embedding, 1e-5)
        cached = Support(torch.full_like(e.support_x, torch.nan), e.support_y, e.ways, trunk(e.support_x))
        from_cache = algorithm.adapt(state, cached, Context())
        close(algorithm.logits(state, from_cache, e.query_x), logits, 1e-5)


def steps_are_shown(case):
    """``on_step`` counts from 0 (before the first) to what ``adapt`` returns; only gradient methods call it."""
    algorithm, state, e = case.algorithm, case.fresh, tasks.episode(generator(10))
    seen = []
    adapted = algorithm.adapt(state, support_of(e), Context(), on_step=lambda j, a: seen.append((j, a)))
    if not case.has("gradient-based"):
        assert not seen
        return
    assert [j for j, _ in seen] == list(range(algorithm.p.test_steps + 1))
    assert same(seen[-1][1].tensors, adapted.tensors)
    first, last = (algorithm.logits(state, a, e.query_x) for a in (seen[0][1], adapted))
    assert not torch.equal(first, last)


class _StopAt(Context):
    """Is cancelled at the n-th check."""

    __slots__ = ("checks", "n")

    def __init__(self, n):
        super().__init__()
        self.n, self.checks = n, 0

    def check(self):
        self.checks += 1
        if self.checks == self.n:
            self.cancel()
        super().check()


def cancel_is_honoured(case):
    """Within one inner step while adapting, and between tasks and inner steps while training."""
    algorithm, state, e = case.algorithm, case.fresh, tasks.episode(generator(10))
    gradient = case.has("gradient-based")
    for n in (1, algorithm.p.test_steps) if gradient else (1,):
        shown = []
        try:
            algorithm.adapt(state, support_of(e), _StopAt(n), on_step=lambda j, a, shown=shown: shown.append(j))
        except JobCancelledError:
            assert shown == (list(range(n)) if gradient else [])
        else:
            raise AssertionError(f"adapting did not stop at check {n}")
    for phase, state in case.within:
        learned = {n: t.clone().requires_grad_() for n, t in state.learned.items()}
        batch, inner = batch_of(phase, generator(1), 2), getattr(algorithm.p, "inner_steps", 1)
        for n in (1, 2 * inner) if phase.stream == "episodes" else (1,):
            try:
                algorithm.step(State(learned, state.memory), batch, At(phase.name, 0, 0.0), _StopAt(n))
            except JobCancelledError:
                continue
            raise AssertionError(f"training did not stop at check {n}")


def trunks_are_shared(case):
    """Trunk tensors are called ``trunk.*`` (buffers in memory), so another head can be put on them."""
    algorithm, state = case.algorithm, case.fresh
    network = registry.backbone("tiny").skeleton(1, tasks.SIZE)
    params = {f"trunk.{n}" for n, _ in network.named_parameters()}
    buffers = {f"trunk.{n}" for n, _ in network.named_buffers()}
    assert params <= state.learned.keys()
    assert buffers <= state.memory.keys()
    if algorithm.phases(SourceSummary((40,), 400)):
        assert float((state.memory["trunk.norm.running_var"] - 1).abs().max()) > 1e-3
    weights = functional.under({**state.learned, **state.memory})
    setting = Setting("tiny", 1, tasks.SIZE, weights=weights)
    taken = registry.create("ridge", {}, setting).init(generator(0))
    assert all(torch.equal(taken.learned[n], state.learned[n]) for n in params)
    assert all(torch.equal(taken.memory[n], state.memory[n]) for n in buffers)


def a_toy_task_is_learnt(case):
    """Unseen classes are told apart much better after a little training (without any training: at all)."""
    algorithm = case.algorithm
    before = accuracy(algorithm, algorithm.init(generator(0)))
    if not algorithm.phases(SourceSummary((40,), 400)):
        assert before > 0.3
        return
    gain = GAIN.get(case.name, 0.2)
    if gain is not None:
        after = accuracy(algorithm, case.trained)
        assert after > before + gain, f"{before:.3f} before, {after:.3f} after"


def scrambled_labels_give_chance(case):
    """Being right although the examples' labels are wrong means that the numbering of classes was memorised."""
    algorithm, state = case.algorithm, case.trained
    found = accuracy(algorithm, state, episodes=60, scramble=True)
    assert abs(found - 1 / WAYS) < 0.08, f"{found:.3f}"


PROPERTIES = (
    same_seed_same_result,
    step_gives_what_the_engine_needs,
    every_learned_tensor_gets_a_gradient,
    adapting_leaves_the_state_untouched,
    no_graph_is_left,
    permuting_classes_permutes_outputs,
    support_order_does_not_matter,
    unequal_shots_and_few_of_all_work,
    a_query_alone_and_among_75_is_the_same,
    predicting_twice_is_equal,
    saving_and_loading_changes_nothing,
    deploying_equals_logits,
    steps_are_shown,
    cancel_is_honoured,
    trunks_are_shared,
    a_toy_task_is_learnt,
    scrambled_labels_give_chance,
)
