"""How long adapting takes: a 5-way 5-shot task of 84-pixel colour pictures, every algorithm, beside the targets.

``uv run python -m tests.benchmarks.adapt [--rounds 5] [--only KEY ...]``. The network is Conv-4 with fresh weights and
the pictures are noise: time depends on neither. What is known of source classes is measured on noise too. What is timed
ends with a network that can answer:

* *cold*: from the 25 pictures as tensors (and 75 without labels, where a method is transductive). Methods whose trunk
  no task changes take the pictures through it and adapt to the features, as the workbench does; the others adapt to the
  pictures;
* *cached*: from features that are known, where a method has such a trunk.

Methods that train on a task's pictures through the whole network are timed with 10 steps on Conv-4 of 32 filters, and
with 5 and 10 steps on Conv-4 of 64; those whose steps are no choice of the user, and all others, as they come.

Rounds go through all cases before they begin again, so that a busy minute does not fall on one of them; the figure is
the median. A machine that does other work measures that work.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks import files
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.params import fields_of
from workbench.data.episodes import Labelled
from workbench.learn import quick, registry
from workbench.learn.features import batch_size, embed
from workbench.learn.protocol import Algorithm, At, Setting, SourceSummary, State, Support, generator
from workbench.services import jobs

BENCHMARK = "adapt"
WAYS, SHOTS, QUERIES, SIZE, SEED = 5, 5, 15, 84, 0
SOURCE_CLASSES = 64
COLD, CACHED = 0.3, 0.03
"""Seconds: metric methods, and those that fit no more than a head."""
STEPPED = (("conv4-32", 10, 1.5), ("conv4", 5, 1.5), ("conv4", 10, 3.0))
"""Backbone, steps, seconds: methods that train the network on the task."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One algorithm in one form.

    Attributes:
        key: of the algorithm.
        backbone: key.
        steps: inner steps, or ``None`` where they are as they come.
        cold: adapts from pictures.
        cached: adapts from features, or ``None``.
        target: seconds, (cold, cached); ``None`` where nothing is promised.
    """

    key: str
    backbone: str
    steps: int | None
    cold: Callable[[], Tensor]
    cached: Callable[[], Tensor] | None
    target: tuple[float | None, float | None]


@dataclass(slots=True)
class Times:
    """Seconds of each round."""

    cold: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)


def forms(key: str) -> tuple[tuple[str, dict[str, Any], int | None], ...]:
    """Backbone, hyperparameters and steps of each form in which an algorithm is timed."""
    kind = registry.algorithms()[key]
    steps = next((s.name for s in fields_of(kind.Params) if s.name == "test_steps"), None)
    if steps is None or "gradient-based" not in kind.info.tags or "cacheable" in kind.info.tags:
        return (("conv4", {}, None),)
    return tuple((backbone, {steps: n}, n) for backbone, n, _ in STEPPED)


def target(key: str, backbone: str, steps: int | None) -> tuple[float | None, float | None]:
    """What is promised for a form: seconds cold and cached."""
    tags = registry.algorithms()[key].info.tags
    if "gradient-based" in tags and "cacheable" not in tags:
        return next((t for b, n, t in STEPPED if (b, n) == (backbone, steps)), None), None
    return COLD, CACHED if "cacheable" in tags else None


def cases(key: str, size: int = SIZE) -> Iterator[Case]:
    """The forms of one algorithm, ready to run.

    Raises:
        WorkbenchError: it cannot be had without pretrained weights, or not on this backbone.
    """
    gen = generator(SEED)
    x = torch.randn(WAYS * SHOTS, 3, size, size, generator=gen)
    y = torch.arange(WAYS).repeat_interleave(SHOTS)
    for backbone, params, steps in forms(key):
        algorithm = registry.create(key, params, Setting(backbone, 3, size, WAYS, (SOURCE_CLASSES,)))
        state = measured(algorithm, algorithm.init(generator(SEED)), size)
        cold, cached = _runs(algorithm, state, x, y)
        yield Case(key, backbone, steps, cold, cached, target(key, backbone, steps))


def measured(algorithm: Algorithm, state: State, size: int) -> State:
    """The state after what only measures the source classes, where a method has that: a task borrows from it."""
    y = torch.arange(SOURCE_CLASSES).repeat(2)
    for phase in algorithm.phases(SourceSummary((SOURCE_CLASSES,), len(y))):
        if phase.stream == "batches" and "" in phase.frozen:
            x = torch.randn(len(y), 3, size, size, generator=generator(SEED + 2))
            found = algorithm.step(state, Labelled(x, y, torch.zeros_like(y)), At(phase.name, 0, 0.0), Context())
            state = State(state.learned, state.memory if found.memory is None else found.memory)
            state = algorithm.finish(state, phase, Context())
    return state


def _runs(
    algorithm: Algorithm, state: State, x: Tensor, y: Tensor
) -> tuple[Callable[[], Tensor], Callable[[], Tensor] | None]:
    """Adapting from pictures, and from features where that can be; each answers about one query at its end."""
    ctx = Context(seed=SEED)
    asked = None
    if "transductive" in algorithm.info.tags:
        asked = torch.randn(WAYS * QUERIES, *x.shape[1:], generator=generator(SEED + 1))
    if "cacheable" not in algorithm.info.tags:

        def from_pictures() -> Tensor:
            with quick.passes():
                adapted = algorithm.adapt(state, Support(x, y, WAYS), ctx, unlabelled=asked)
            deployed = algorithm.deploy(state, adapted)
            with torch.no_grad():
                logits: Tensor = deployed(x[:1])[0]
            return logits

        return from_pictures, None
    trunk = algorithm.trunk(state)
    assert trunk is not None, "a cacheable algorithm has a trunk"
    trunk.eval()
    at_once = batch_size(x.shape[2], x.shape[3])
    pictures = x if asked is None else torch.cat([x, asked])
    never = torch.full((), math.nan).expand(x.shape)

    def features() -> Tensor:
        return embed(trunk, lambda i, j: pictures[i:j], len(pictures), at_once, ctx)

    def from_features(found: Tensor) -> Tensor:
        support = Support(never, y, WAYS, found[: len(x)])
        adapted = algorithm.adapt(state, support, ctx, unlabelled=None if asked is None else found[len(x) :])
        with torch.no_grad():
            logits: Tensor = algorithm.head(state, adapted)(found[:1])
        return logits

    known = features()
    return lambda: from_features(features()), lambda: from_features(known)


def timed(found: Sequence[Case], rounds: int) -> list[Times]:
    """Each case once to warm up, then ``rounds`` times through all of them.

    Raises:
        ValueError: an answer is not finite.
    """
    out = [Times() for _ in found]
    for n in range(rounds + 1):
        for case, times in zip(found, out, strict=True):
            for run, kept in ((case.cold, times.cold), (case.cached, times.cached)):
                if run is None:
                    continue
                begun = time.perf_counter()
                answer = run()
                took = time.perf_counter() - begun
                if not bool(answer.isfinite().all()):
                    raise ValueError(f"{case.key} on {case.backbone} answers {answer.tolist()}")
                if n:
                    kept.append(took)
    return out


def row(case: Case, times: Times) -> dict[str, Any]:
    """Medians of a case beside its targets."""
    cold, cached = case.target
    return {
        "algorithm": case.key,
        "backbone": case.backbone,
        "steps": case.steps,
        "cold": round(statistics.median(times.cold), 5),
        "cold_all": [round(t, 5) for t in times.cold],
        "cold_target": cold,
        "cached": round(statistics.median(times.cached), 5) if times.cached else None,
        "cached_target": cached,
    }


def missed(r: dict[str, Any]) -> list[str]:
    """Which targets of a row were not reached."""
    return [
        name
        for name in ("cold", "cached")
        if r[f"{name}_target"] is not None and r[name] is not None and r[name] > r[f"{name}_target"]
    ]


def line(r: dict[str, Any]) -> str:
    """A row in words."""
    name = f"{r['algorithm']} on {r['backbone']}" + ("" if r["steps"] is None else f", {r['steps']} steps")
    shown = [f"cold {1000 * r['cold']:7.1f} ms{_against(r['cold_target'])}"]
    if r["cached"] is not None:
        shown.append(f"cached {1000 * r['cached']:6.1f} ms{_against(r['cached_target'])}")
    return f"{name:36} {', '.join(shown)}" + "".join(f"  {n} MISSED" for n in missed(r))


def _against(limit: float | None) -> str:
    return "" if limit is None else f" (<= {1000 * limit:.0f})"


def main(arguments: list[str] | None = None) -> int:
    """Measure all algorithms, print and keep the figures; 1 where a target was missed."""
    parser = argparse.ArgumentParser(description="Time to adapt to a 5-way 5-shot task at 84 pixels with Conv-4.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY")
    asked = parser.parse_args(arguments)
    jobs.load_runtime(Context())
    found: list[Case] = []
    left_out: dict[str, str] = {}
    for key in asked.only or registry.algorithms():
        try:
            found += cases(key)
        except WorkbenchError as error:
            left_out[key] = str(error)
            print(f"{key}: {error}", flush=True)
    rows = [row(case, times) for case, times in zip(found, timed(found, max(1, asked.rounds)), strict=True)]
    for r in rows:
        print(line(r))
    command = f"uv run python -m tests.benchmarks.adapt --rounds {asked.rounds}"
    command += f" --only {' '.join(asked.only)}" if asked.only else ""
    files.write(BENCHMARK, command, SEED, {"rows": rows, "left_out": left_out})
    return int(any(missed(r) for r in rows))


if __name__ == "__main__":
    sys.exit(main())
