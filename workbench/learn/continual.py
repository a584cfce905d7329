"""Learning something new without losing the old: a pull towards what was known, or old pictures among the new ones.

A run that goes on from a trained network adds to its own loss ``L`` one of these (``theta*``: where the network stood
when the run began, ``p`` runs over the numbers of its *trunk*)::

    L2     L(theta) + lam / 2 sum_p      (theta_p - theta*_p)^2
    EWC    L(theta) + lam / 2 sum_p F_p  (theta_p - theta*_p)^2        (Kirkpatrick et al. 2017, arXiv 1612.00796)
    replay L, half of whose batches come from a few pictures per class of the old sources

``F_p = E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta_p)^2`` says how much the old answers change with a number: labels are
drawn from the network's own answers, and gradients are squared one example at a time. It is a mean over examples and is
not scaled to anything, so ``lam = 1`` is as many new examples as old ones. Over a series of sources there is one
running ``F <- g F + F_i`` and one anchor, the newest network (online EWC: Schwarz et al. 2018, arXiv 1805.06370).

Which ``p(y|x)``, for a method that is trained on episodes? Here: the nearest class mean in the trunk's features, as the
episode's examples give it, with the gradient through examples and queries alike and the factor before the distance that
fits the old sources best. Every method of the catalogue has that trunk and is used through such distances or a
classifier that starts from them, while an answer of its own with a gradient per query is not to be had from all of them
(inner loops, memories, pairs). The trunk normalises by its running statistics, as it does when it is used, so that an
answer depends on its own picture and the examples.

Heads are not held: rows, scales and classifiers belong to classes and tasks that come and go. Anchor and ``F`` are
plain numbers in the run's memory under ``keep.``, outside any graph, so that a run that was cut short goes on alike;
nothing of them is left in what the run gives.

Mistakes that are easily made here, and not made: the square of a batch's mean gradient (far smaller, and not what the
old answers hang on); labels of the data in place of drawn ones (vanishes where the network is sure and right); ``F``
divided by its largest value, so that ``lam`` means nothing; an anchor that moves along, which holds nothing; a head
that is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.data.episodes import Drawn, Episode, Labelled, Sampler
from workbench.data.source import Source
from workbench.learn import averaging, functional, heads
from workbench.learn.calibrate import fit_temperature
from workbench.learn.optimiser import rates
from workbench.learn.protocol import Phase, State, Tensors

How = Literal["none", "l2", "ewc", "replay"]
KEEP = "keep."
ANCHOR, FISHER, STRENGTH = f"{KEEP}anchor.", f"{KEEP}fisher.", f"{KEEP}strength"
STRENGTHS: Mapping[str, float] = {"l2": 0.01, "ewc": 100.0}
"""``lam`` where none is asked for: of three each, tenfold apart, those with the best mean accuracy on all of five
alphabets learnt one after the other, none of them among those that forgetting is reported on.
``uv run python -m tests.benchmarks.lifelong --choice`` measures it: 0.751 and 0.689. For both it is the smallest that
was tried. L2 0.1 is 0.008 below; EWC 1000 is 0.041 below, and holds the old better (0.000 lost in place of 0.020)."""
FORGETTING = 1.0
"""``g`` of the running Fisher information: 1 keeps every source as important as when it was learnt. Not measured."""
MOST_PICTURES = 20
"""Of each old class, for replay; all that a character of Omniglot has. A choice, not measured."""
EPISODES = 40
"""Behind a Fisher information; a quarter of them for pictures of more than 100 pixels. A choice, not measured."""
_LARGE = 100


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a run does so as not to lose the old.

    Attributes:
        how: ``l2`` or ``ewc``; replay is a matter of what is drawn (see :class:`Replayed`), and needs nothing here.
        strength: ``lam``.
        fisher: measures ``F`` by learned name, given the state the run begins with; one that goes on has it already.
    """

    how: How
    strength: float
    fisher: Callable[[State], Tensors] = field(default=lambda _: {})

    def begun(self, state: State) -> State:
        """The state with anchor, Fisher information and strength in its memory.

        Raises:
            WorkbenchError: the information does not speak of every number of the trunk: the rest would not be held.
        """
        if self.how not in ("l2", "ewc"):
            return state
        trunk = {n: t for n, t in state.learned.items() if n.startswith(functional.TRUNK)}
        like = next(iter(trunk.values()))
        held = {ANCHOR + n: t.detach().clone() for n, t in trunk.items()}
        held[STRENGTH] = torch.tensor(self.strength, dtype=torch.float64, device=like.device)
        if self.how == "ewc":
            found = self.fisher(state)
            without = [n for n, t in trunk.items() if n not in found or found[n].shape != t.shape]
            if without:
                raise WorkbenchError(
                    "The run did not start",
                    f"nothing says how much {without[0].removeprefix(functional.TRUNK)} mattered to the old sources",
                    "Choose --keep l2",
                )
            held |= {FISHER + n: found[n].detach().to(t) for n, t in trunk.items()}
        return State(state.learned, {**state.memory, **held})


def parted(memory: Mapping[str, Tensor]) -> tuple[Tensors, Tensors]:
    """A run's memory as (what its algorithm knows of, what is kept beside it)."""
    held = {n: t for n, t in memory.items() if n.startswith(KEEP)}
    return {n: t for n, t in memory.items() if n not in held}, held


def own(state: State) -> State:
    """The state as its algorithm knows it."""
    return State(state.learned, parted(state.memory)[0])


@torch.no_grad()
def pulled(
    grads: Tensors, learned: Mapping[str, Tensor], held: Mapping[str, Tensor], phase: Phase | None = None
) -> Tensors:
    """The gradients with ``lam F_p (theta_p - theta*_p)`` added, where something is held.

    Args:
        grads: of the run's own loss, by learned name; what has none is not stepped and not pulled.
        learned: ``theta``.
        held: what :meth:`Keeping.begun` put into the memory.
        phase: where its steps are plain ones, a pull alone never goes past the anchor: it would swing ever wider.
    """
    if STRENGTH not in held:
        return grads
    out, strength = dict(grads), float(held[STRENGTH])
    plain = {} if phase is None or phase.optimiser != "sgd" else rates(phase, learned)
    for name, g in grads.items():
        if ANCHOR + name not in held:
            continue
        away = learned[name].detach() - held[ANCHOR + name]
        pull = strength * held.get(FISHER + name, torch.ones_like(away))
        out[name] = g + (pull.clamp_max(1 / plain[name]) if plain.get(name) else pull) * away
    return out


def fisher(
    network: nn.Module, state: State, sampler: Sampler, gen: Generator, ctx: Context, episodes: int | None = None
) -> Tensors:
    """The diagonal Fisher information of a trunk's answers on some sources, see the module; by learned name, never < 0.

    Args:
        network: the trunk's skeleton.
        state: holds ``trunk.*``.
        sampler: of the sources; its episodes say how many classes and examples an answer is about, and each of their
            queries is one example of the mean.
        gen: draws episodes and labels, on the processor.
        ctx: checked before each query.
        episodes: how many; ``None`` = as many as the size of the pictures allows.
    """
    size = sampler.sources[0].arrays[0].shape[1]
    count = (EPISODES if size <= _LARGE else EPISODES // 4) if episodes is None else episodes
    trunk, buffers = functional.under(state.learned), functional.under(state.memory)
    device = next(iter(trunk.values())).device
    tasks = [sampler.draw(gen).to(device) for _ in range(count)]
    scale = _fitting_scale(network, trunk, buffers, tasks, ctx)
    total = {n: torch.zeros_like(t) for n, t in trunk.items()}
    for e in tasks:

        def answers(at: Tensors, picture: Tensor, e: Episode = e) -> Tensor:
            f = functional.call(network, at, buffers, torch.cat([e.support_x, picture]))
            return heads.distance_logits(f[-1:], heads.prototypes(f[:-1], e.support_y, e.ways), scale)

        part = averaging.fisher_diagonal(answers, trunk, e.query_x, gen, ctx)
        total = {n: t + part[n] for n, t in total.items()}
    queries = sum(len(e.query_y) for e in tasks)
    return functional.named({n: t / queries for n, t in total.items()})


@torch.no_grad()
def _fitting_scale(
    network: nn.Module, trunk: Tensors, buffers: Tensors, tasks: Sequence[Episode], ctx: Context
) -> float:
    """The factor before squared distances under which the queries of some episodes are least surprising."""
    found, most = [], max(e.ways for e in tasks)
    for e in tasks:
        ctx.check()
        f = functional.call(network, trunk, buffers, torch.cat([e.support_x, e.query_x]))
        support, queries = f.tensor_split([len(e.support_y)])
        z = heads.distance_logits(queries, heads.prototypes(support, e.support_y, e.ways))
        found.append(F.pad(z, (0, most - e.ways), value=-torch.inf))
    start = f.shape[1] / heads.START
    return 1 / fit_temperature(torch.cat(found), torch.cat([e.query_y for e in tasks]), start)


def running(before: Mapping[str, Tensor], new: Mapping[str, Tensor], forgetting: float = FORGETTING) -> Tensors:
    """``g F + F_new``, by name: the one Fisher information of all sources so far; ``before`` may be empty."""
    return {n: forgetting * before[n].to(t) + t if n in before else t for n, t in new.items()}


# ---- replay ----------------------------------------------------------------------------------------------------------


class Replayed(Sampler):
    """Draws from new sources and from what was kept of old ones, half and half; sources are numbered new ones first.

    An episode or a sequence is of one kind, a supervised batch has as many pictures of each (or is of one kind where it
    is of one source). Every class of either kind has a row of its own, so that no old class is taken for a new one.

    Args:
        new: draws from the new sources.
        old: draws from the pictures kept of the old ones, as episodes of the same kind.
    """

    def __init__(self, new: Sampler, old: Sampler) -> None:
        super().__init__(
            (*new.sources, *old.sources),
            ways=(min(new.ways[0], old.ways[0]), new.ways[1]),
            shots=(min(new.shots[0], old.shots[0]), new.shots[1]),
            queries=new.queries,
            rotations=new.rotations,
            across_tasks=new.across_tasks,
            mean=new.mean,
            std=new.std,
        )
        self._new, self._old = new, old

    def pick(self, gen: Generator) -> Drawn:
        """Draw an episode's ids, from either kind as likely."""
        if _coin(gen):
            return self._new.pick(gen)
        d = self._old.pick(gen)
        first_row, first_class = 4 * self._new.images, 4 * len(self._new.rows.arrays)
        return replace(
            d,
            support_ids=d.support_ids + first_row,
            query_ids=d.query_ids + first_row,
            classes=d.classes + first_class,
        )

    def labelled(
        self, gen: Generator, batch_size: int, *, one_source: bool = False, balanced: bool = False
    ) -> Labelled:
        """A supervised batch, half of it of the old sources."""
        of_new = batch_size - batch_size // 2
        if one_source or batch_size < 2:
            of_new = batch_size if _coin(gen) else 0
        options = {"one_source": one_source, "balanced": balanced}
        parts = [s.labelled(gen, n, **options) for s, n in ((self._new, of_new), (self._old, batch_size - of_new)) if n]
        first = len(self._new.sources)
        sources = [p.source + first if i or not of_new else p.source for i, p in enumerate(parts)]
        return Labelled(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]), torch.cat(sources))


def _coin(gen: Generator) -> bool:
    return bool(torch.randint(0, 2, (1,), generator=gen).item())


def exemplars(sources: Sequence[Source], gen: Generator, most: int = MOST_PICTURES) -> tuple[Source, ...]:
    """The same sources with at most ``most`` pictures of each class, drawn by ``gen``."""
    out = []
    for source in sources:
        arrays = []
        for a in source.arrays:
            rows = torch.randperm(len(a), generator=gen)[:most].sort().values.numpy()
            arrays.append(a if len(a) <= most else np.asarray(a)[rows])
        out.append(replace(source, arrays=tuple(arrays), support_only=()))
    return tuple(out)
