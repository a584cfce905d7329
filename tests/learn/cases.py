"""Algorithms small enough for a test, and what is done to them there: train, adapt, predict, compare.

``of(key)`` gives an algorithm in each of its forms on a tiny backbone and toy tasks; ``conformance`` holds what each of
them has to do.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from tests.learn import tasks
from workbench.core.context import Context
from workbench.core.params import fields_of
from workbench.data.episodes import Episodes, Sequences
from workbench.learn import registry
from workbench.learn.optimiser import rates
from workbench.learn.protocol import At, Phase, Setting, SourceSummary, State, Support, generator

WAYS = 5
QUICK = {"inner_steps": 3, "test_steps": 4, "inner_batch": 10, "lr": 0.01}
"""Hyperparameters that make a case a matter of seconds, where an algorithm has them."""
QUICK_BY_KEY = {
    "reptile": {"inner_lr": 0.01, "inner_steps": 6},
    "maml++": {"inner_lr": 0.05},
    "mtl": {"inner_lr": 0.3, "factor_lr": 0.01},
    "versa": {"lr": 0.003},
    "l2l": {"inner_steps": 10, "lr": 0.02},
    "mann": {"tasks": 2, "controller": 32, "rows": 16, "width": 8, "heads": 2},
}
GAIN = {"boil-textbook": 0.04, "cavia-textbook": None, "mann": None}
"""Where less is learnt of the toy task, or nothing: rows that stay, and one convolution alone, or the gains of its
eight channels, to turn the features of any five classes towards them; a memory whose use is itself to be learnt, which
takes longer (its oracles have a task that it does learn)."""


def build(key: str, params: dict[str, Any], ways: int = WAYS) -> Any:
    """An algorithm on the tiny backbone."""
    tasks.tiny_backbone()
    return registry.create(key, params, Setting("tiny", 1, tasks.SIZE, ways=ways, classes_per_source=(40,)))


@dataclass(frozen=True)
class Case:
    """One algorithm in one of its forms; ``make(ways)`` builds it (tests plant mistakes by handing in their own)."""

    name: str
    make: Callable[[int], Any]

    @functools.cached_property
    def algorithm(self):
        return self.make(WAYS)

    @functools.cached_property
    def fresh(self):
        """A state as training begins, moved on by two steps so that no tensor is zero by chance."""
        return train(self.algorithm, self.algorithm.init(generator(3)), 2)

    @functools.cached_property
    def within(self):
        """Each phase of training with a state two steps into it; none where nothing is trained."""
        return stages(self.algorithm, self.algorithm.init(generator(3)), 2)[0]

    @functools.cached_property
    def trained(self):
        return train(self.algorithm, self.algorithm.init(generator(0)), 40)

    def has(self, tag):
        return tag in self.algorithm.info.tags


def of(key: str) -> list[Case]:
    """The algorithm in each of its forms: one case per choice of a field called ``head`` or ``form``."""
    tasks.tiny_backbone()
    specs = {spec.name: spec for spec in fields_of(registry.algorithms()[key].Params)}
    quick = {name: value for name, value in QUICK.items() if name in specs} | QUICK_BY_KEY.get(key, {})
    chosen = next((name for name in ("head", "form") if name in specs), None)
    if chosen is None:
        return [Case(key, functools.partial(build, key, quick))]
    return [
        Case(f"{key}-{choice}", functools.partial(build, key, {**quick, chosen: choice}))
        for choice in specs[chosen].choices
    ]


def train(algorithm, state, steps, seed=0, first=0, **kwargs):
    """A plain loop over all phases: no schedule, no clipping; the outer optimiser that each phase names.

    A phase has its share of the steps, at least two where there are two.
    """
    return stages(algorithm, state, steps, seed, first, **kwargs)[1]


def stages(algorithm, state, steps, seed=0, first=0, **kwargs):
    """The phases, each with the state at its last step, and the state after all of them."""
    ctx, gen, done, found = Context(seed=seed), generator(100 + seed + first), first, []
    for phase in algorithm.phases(SourceSummary((40,), 400)):
        learned = {n: t.detach().clone().requires_grad_() for n, t in state.learned.items()}
        groups = [{"params": [learned[n]], "lr": lr} for n, lr in rates(phase, learned).items()]
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[phase.optimiser]
        optimiser, memory = make(groups) if groups else None, state.memory
        last = done + max(min(steps, 2), round(steps * phase.share))
        for i in range(done, last):
            batch = batch_of(phase, gen, phase.tasks_per_step, **{"queries": 8, **kwargs})
            result = algorithm.step(State(learned, memory), batch, At(phase.name, i, 0.0), ctx)
            give_gradients(result, learned)
            if optimiser is not None:  # a phase may move nothing, and measure
                optimiser.step()
            memory = memory if result.memory is None else result.memory
        done, state = last, State({n: t.detach() for n, t in learned.items()}, memory)
        found.append((phase, state))
        state = algorithm.finish(state, phase, ctx)
    return found, state


def batch_of(phase: Phase, gen, count: int, **kwargs):
    """What the engine would hand to a step of this phase, with so many episodes where it is given episodes."""
    if phase.stream == "sequences":
        xs, ys = [], []
        for e in tasks.batch(gen, count, **kwargs).episodes:
            order = torch.randperm(len(e.support_y) + len(e.query_y), generator=gen)
            xs.append(torch.cat([e.support_x, e.query_x])[order])
            ys.append(torch.cat([e.support_y, e.query_y])[order])
        return Sequences(torch.stack(xs, 1), torch.stack(ys, 1))
    if phase.stream != "episodes":
        return tasks.labelled(gen, phase.batch_size)
    episodes = tasks.batch(gen, count, **kwargs)
    return Episodes(episodes.episodes, tasks.labelled(gen, phase.labelled) if phase.labelled else None)


def give_gradients(result, learned):
    for t in learned.values():
        t.grad = None
    if result.loss is not None:
        result.loss.backward()
    else:
        for name, g in result.grads.items():
            learned[name].grad = g.detach().clone()


def support_of(e, x=None, y=None):
    return Support(e.support_x if x is None else x, e.support_y if y is None else y, e.ways)


def predict(algorithm, state, e, ctx=None):
    """Logits of an episode's queries after adapting to its support set."""
    adapted = algorithm.adapt(state, support_of(e), ctx or Context(seed=1))
    return algorithm.logits(state, adapted, e.query_x)


def accuracy(algorithm, state, episodes=20, scramble=False, **kwargs):
    gen = generator(77)
    right = []
    for _ in range(episodes):
        e = tasks.episode(gen, **{"unseen": True, **kwargs})
        if scramble:
            e = replace(e, support_y=e.support_y[torch.randperm(len(e.support_y), generator=gen)])
        right.append((predict(algorithm, state, e).argmax(1) == e.query_y).float().mean())
    return float(torch.stack(right).mean())


def double(state):
    return State(*({n: t.double() if t.is_floating_point() else t for n, t in part.items()} for part in state))


def copy(state):
    return State(*({n: t.detach().clone() for n, t in part.items()} for part in state))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def close(a, b, tolerance):
    """Largest difference relative to the largest logit."""
    assert a.shape == b.shape
    gap = float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
    assert gap <= tolerance, f"relative difference {gap:.2e}"


def rows_permuted(state, order):
    """The state with a fixed-row head's rows in another order (``head.*`` of a textbook head), else as it is.

    Where such a head's rows have step sizes or spreads of their own (``alpha.head.*``, ``prior.head.*``), these go with
    them.
    """
    moved = ("head.", "alpha.head.", "prior.head.") if fixed_rows(state) else ()
    return State({n: t[order] if n.startswith(moved) else t for n, t in state.learned.items()}, state.memory)


def fixed_rows(state):
    return any(n.startswith("head.") for n in state.learned)
