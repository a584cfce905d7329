"""How long one outer step of meta-training takes: the workbench's beside a textbook's loop over tasks.

``uv run python -m tests.benchmarks.meta_step [--rounds 7] [--only ROW ...]``. Conv-4 of 64 filters, 28x28 grey noise as
pictures, episodes in memory, the outer optimiser's step included. One process goes round the forms of a step, so that a
busy moment does not fall on one of them alone; figures are medians, and what counts is their ratio:

* *textbook*: :mod:`tests.benchmarks.textbook`, torch's threads inside its operations;
* *peer*: where it differs, the same with queries normalised by one another's statistics, as other libraries do;
* *clear*: the algorithm's own file, without the fast path;
* *full*: the fast path as training uses it;
* *bf16*: the fast path in lower precision (``--precision bf16``), where the processor has instructions for it.

Gradients of the fast path are compared with the textbook's in double precision, on fewer tasks.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks import files, textbook
from workbench.core.context import Context
from workbench.data.episodes import Episode, Episodes
from workbench.learn import fast, functional, registry
from workbench.learn.algorithms import reptile
from workbench.learn.optimiser import Moments, norm, stepped
from workbench.learn.protocol import Algorithm, At, Phase, Setting, SourceSummary, State, Tensors, generator
from workbench.services import runtime

BENCHMARK, SEED, SIZE, AT = "meta_step", 0, 28, At("episodes", 0, 0.0)
AGREES = 1e-10
"""Largest relative difference of a tensor's gradient in double precision."""


@dataclass(frozen=True, slots=True)
class Row:
    """One case of the table.

    Attributes:
        title: for people.
        key: of the algorithm.
        params: its hyperparameters.
        ways: per task.
        shots: per class.
        tasks: per outer step.
        target: textbook's time divided by the workbench's.
        low_target: the same in lower precision; 0 where it is only reported.
    """

    title: str
    key: str
    params: dict[str, Any]
    ways: int
    shots: int
    tasks: int
    target: float = 1.7
    low_target: float = 0.0


_HEAD = {"head": "textbook", "inner_lr": 0.4}
QUERIES = 15
ROWS = {
    "maml-1": Row("MAML, 1 step, 32 tasks", "maml", {**_HEAD, "inner_steps": 1}, 5, 1, 32, low_target=2.2),
    "maml-5": Row(
        "MAML, 5 steps, 32 tasks", "maml", {**_HEAD, "inner_lr": 0.1, "inner_steps": 5}, 5, 1, 32, low_target=2.2
    ),
    "fomaml": Row("FOMAML, 1 step, 4 tasks", "fomaml", {**_HEAD, "inner_steps": 1}, 5, 1, 4, low_target=2.2),
    "anil": Row("ANIL, 5 steps, 32 tasks", "anil", {**_HEAD, "inner_steps": 5}, 5, 1, 32, low_target=2.4),
    "reptile": Row(
        "Reptile, 5 tasks, 5 steps of 10", "reptile", {"head": "zero", "inner_steps": 5, "inner_batch": 10}, 5, 1, 5
    ),
    "protonet-20": Row("ProtoNet, 20-way 1-shot", "protonet", {}, 20, 1, 1, low_target=2.4),
    "protonet-60": Row("ProtoNet, 60-way 5-shot", "protonet", {}, 60, 5, 1, low_target=2.4),
}


def episode(gen: torch.Generator, ways: int, shots: int, dtype: torch.dtype, size: int = SIZE) -> Episode:
    """Noisy copies of a random picture per class."""
    pattern = torch.randn(ways, 1, size, size, generator=gen)

    def copies(count: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(ways).repeat_interleave(count)
        return (pattern[y] + torch.randn(len(y), 1, size, size, generator=gen)).to(dtype), y

    (x, y), (query_x, query_y) = copies(shots), copies(QUERIES)
    ids = torch.arange(len(y) + len(query_y))
    names = tuple(str(k) for k in range(ways))
    return Episode(x, y, query_x, query_y, ways, names, "noise", ids[: len(y)], ids[len(y) :])


class Case:
    """One row ready to run, in one float type."""

    def __init__(self, row: Row, dtype: torch.dtype, tasks: int, size: int = SIZE) -> None:
        self.row, gen = row, generator(SEED)
        self.algorithm: Algorithm = registry.create(row.key, row.params, Setting("conv4", 1, size, ways=row.ways))
        fresh = self.algorithm.init(gen)
        self.state = State(*({n: t.to(dtype) for n, t in part.items()} for part in fresh))
        self.batch = Episodes(tuple(episode(gen, row.ways, row.shots, dtype, size) for _ in range(tasks)))
        self.phase: Phase = self.algorithm.phases(SourceSummary((row.ways,), 100))[0]
        self.fast = fast.step_of(self.algorithm, "cpu")
        self.low = fast.step_of(self.algorithm, "cpu", "bf16")

    # ---- gradients, in the three forms -------------------------------------------------------------------------------
    def textbook(self, *, own: bool = False) -> Tensors:
        """By name, as the workbench names them; ``own`` as in :func:`textbook.maml`."""
        theta = {n.removeprefix(functional.TRUNK): t.clone().requires_grad_() for n, t in self.state.learned.items()}
        p, episodes = self.row.params, self.batch.episodes
        if self.row.key == "reptile":
            grads = textbook.reptile(theta, episodes, self._minibatches(), alpha=1e-3, beta2=reptile.BETA2)
        else:
            fixed = {"alpha": p.get("inner_lr"), "steps": p.get("inner_steps")}
            second = self.row.key == "maml"
            loss: Callable[..., Tensor] = {
                "maml": partial(textbook.maml, **fixed, second=second, own=own),
                "fomaml": partial(textbook.maml, **fixed, second=second, own=own),
                "anil": partial(textbook.anil, **fixed),
                "protonet": textbook.protonet,
            }[self.row.key]
            grads = textbook.mean_gradient(theta, episodes, loss)
        return {functional.TRUNK + n if n[0].isdigit() else n: g for n, g in grads.items()}

    def clear(self) -> Tensors:
        """From the algorithm's file."""
        return _gradients(self._given(), self.algorithm.step)

    def full(self) -> Tensors:
        """From the fast path."""
        assert self.fast is not None
        return _gradients(self._given(), self.fast)

    def bf16(self) -> Tensors:
        """From the fast path in lower precision."""
        assert self.low is not None
        return _gradients(self._given(), self.low)

    def _given(self) -> tuple[State, Episodes]:
        leaves = {n: t.detach().requires_grad_() for n, t in self.state.learned.items()}
        return State(leaves, self.state.memory), self.batch

    def _minibatches(self) -> list[list[Tensor]]:
        """Those that the workbench draws."""
        p, ctx, rows = self.row.params, Context(seed=SEED), []
        for i, e in enumerate(self.batch.episodes):
            gen = generator(ctx.seed_for(f"reptile/{AT.phase}/{AT.step}/{i}"))
            count = len(e.support_y) + len(e.query_y)
            rows.append(reptile.minibatches(count, p["inner_batch"], p["inner_steps"], gen))
        return rows

    # ---- whole steps -------------------------------------------------------------------------------------------------
    def steps(self) -> dict[str, Callable[[], object]]:
        """Every form of the step, the optimiser's part included."""
        value = {n: t.clone() for n, t in self.state.learned.items()}
        if self.row.key == "reptile":
            outer: torch.optim.Optimizer = torch.optim.SGD(list(value.values()), lr=1.0)
        else:
            outer = torch.optim.Adam(list(value.values()), lr=1e-3)
        moments = Moments()

        def loop(own: bool) -> None:
            grads = self.textbook(own=own)
            for n, t in value.items():
                t.grad = grads.get(n)
            outer.step()

        def ours(grads: Callable[[], Tensors]) -> None:
            found = grads()
            stepped(self.state.learned, found, moments, self.phase, 0.0, norm(found))

        forms: dict[str, Callable[[], object]] = {"textbook": partial(loop, False)}
        if "maml" in self.row.key:
            forms["peer"] = partial(loop, True)
        forms |= {"clear": partial(ours, self.clear), "full": partial(ours, self.full)}
        return {**forms, "bf16": partial(ours, self.bf16)} if fast.native() else forms


def _gradients(given: tuple[State, Episodes], step: Callable[..., Any]) -> Tensors:
    s, batch = given
    grads = fast.with_gradients(step(s, batch, AT, Context(seed=SEED)), s).grads
    assert grads is not None
    return dict(grads)


def difference(found: Tensors, wanted: Tensors) -> float:
    """The largest over tensors of ``|a - b| / |b|``; a tensor far smaller than the whole counts against the whole.

    A gradient that is zero but for rounding, as of a scale that a norm cancels, would otherwise be compared with noise.
    """
    total = float(torch.stack([g.norm() for g in wanted.values()]).norm())
    return max(float((found[n] - g).norm()) / max(float(g.norm()), 1e-3 * total) for n, g in wanted.items())


def agreement(row: Row, size: int = SIZE) -> float:
    """Of the fast path with the textbook's loop, in double precision."""
    case = Case(row, torch.float64, min(row.tasks, 3), size)
    return difference(case.full(), case.textbook())


@dataclass(slots=True)
class Times:
    """Seconds of each round by form, and the load of the machine before the first."""

    load: float
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, form: str) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds[form])

    def ratio(self, form: str, to: str = "textbook") -> float:
        """Median over rounds of one form's time divided by another's in the same round."""
        pairs = zip(self.seconds[to], self.seconds[form], strict=True)
        return statistics.median(a / b for a, b in pairs)


def timed(row: Row, rounds: int, tasks: int | None = None, size: int = SIZE) -> Times:
    """All forms once to warm up, then ``rounds`` times round."""
    forms = Case(row, torch.float32, tasks or row.tasks, size).steps()
    times = Times(os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, {name: [] for name in forms})
    for n in range(rounds + 1):
        for name, run in forms.items():
            gc.collect()
            begun = time.perf_counter()
            run()
            if n:
                times.seconds[name].append(time.perf_counter() - begun)
    return times


def figures(row: Row, times: Times, agrees: float) -> dict[str, Any]:
    """What is kept of a row."""
    images = row.tasks * row.ways * (row.shots + QUERIES)
    forms = {
        name: {
            "milliseconds": round(1000 * times.median(name), 2),
            "tasks_per_second": round(row.tasks / times.median(name), 2),
            "ratio": round(times.ratio(name), 3),
            "rounds": [round(1000 * t, 2) for t in seconds],
        }
        for name, seconds in times.seconds.items()
    }
    against = {"to_peer": round(times.ratio("full", "peer"), 3)} if "peer" in times.seconds else {}
    return {
        "title": row.title,
        "forms": forms,
        **against,
        "target": row.target,
        "low_target": row.low_target,
        "gradients_differ_by": agrees,
        "images": images,
        "load": round(times.load, 2),
    }


def line(found: dict[str, Any]) -> str:
    """A row in words."""
    full, times = found["forms"]["full"], ", ".join(f"{n} {f['milliseconds']:.0f}" for n, f in found["forms"].items())
    peer = f" ({found['to_peer']:.2f}x of peers)" if "to_peer" in found else ""
    short = "" if full["ratio"] >= found["target"] else f", {found['target']}x MISSED"
    if "bf16" in found["forms"]:
        low, wanted = found["forms"]["bf16"]["ratio"], found["low_target"]
        short += f"; bf16 {low:.2f}x" + ("" if low >= wanted else f", {wanted}x MISSED")
    return (
        f"{found['title']:34} {full['ratio']:.2f}x{peer}{short}; ms: {times}; "
        f"gradients {found['gradients_differ_by']:.1e}; load {found['load']:.1f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rows, keep and show them; 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.meta_step", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="times that each form is measured (7)")
    parser.add_argument("--only", nargs="+", choices=sorted(ROWS), default=list(ROWS), metavar="ROW", help="rows")
    parser.add_argument("--show", action="store_true", help="show what was measured before, measure nothing")
    options = parser.parse_args(arguments)
    runtime.ready()  # threads and memory as a training has them, for all forms
    good = True
    for key in options.only:
        command = f"uv run python -m tests.benchmarks.meta_step --only {key}"
        kept = files.read(BENCHMARK, command) if options.show else None
        if kept is None and options.show:
            continue
        if kept is None:
            row = ROWS[key]
            kept = files.write(BENCHMARK, command, SEED, figures(row, timed(row, options.rounds), agreement(row)))
        print(line(kept.figures), flush=True)
        good &= kept.figures["forms"]["full"]["ratio"] >= kept.figures["target"]
        good &= kept.figures["gradients_differ_by"] < AGREES
        low = kept.figures["forms"].get("bf16")
        good &= low is None or low["ratio"] >= kept.figures["low_target"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
