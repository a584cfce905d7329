"""How sure may a network be of a task that is unlike its sources? What ``calibrate.expected_temperature`` goes by.

``uv run python -m tests.benchmarks.unlike`` takes the networks of :mod:`tests.benchmarks.transfer` (which has to have
trained them: alphabets, surfaces, clothes and hands at 28 pixels, and their ancestor) and the shipped ones, and asks
each about tasks of the invented alphabets and of two kinds of surfaces, except those that it was trained on: 5-way with
1, 2 and 5 examples, 80 tasks each. For several strengths ``b`` of ``T = T_home exp(b (1 - likeness)^2)`` it prints the
log-loss of new pictures, the mean over pairs, and by domain for pairs that are like (0.4 or more) and unlike, with the
calibration error. With two examples or more the temperature is fitted on left-out ones, held near that, which the
program does without. Nothing that the calibration of the shipped knowledge is measured on takes part, but as a source.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.benchmarks import transfer_domains as domains
from tests.benchmarks import transfer_episodes as episodes
from tests.benchmarks.calibrated_tasks import calibration_error
from workbench.core.context import Context
from workbench.learn.calibrate import expected_temperature, task_temperatures
from workbench.learn.leaving_out import HeldOut, held_out
from workbench.learn.protocol import Support
from workbench.project.library import Library
from workbench.services import jobs
from workbench.services import knowledge as known
from workbench.transfer.represent import represent, similarity

TARGETS, SIZE, SHOTS, TASKS, SEED = ("materials", "defects", "invented"), 28, (1, 2, 5), 80, 77
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
SHIPPED = {"Starter: Omniglot": TARGETS, "Starter: drawn characters": TARGETS[:2], "Starter: surfaces": TARGETS[2:]}
"""And what they were not trained on."""
LIKE = 0.4


class Asked(NamedTuple):
    """One task under one network: queries' logits ``[Q, 5]`` and classes, left-out answers, examples' classes."""

    pair: str
    domain: str
    likeness: float
    typical: float
    logits: Tensor
    truth: Tensor
    left_out: HeldOut
    y: Tensor


def asked(domain: str, folder: Path, project: Path, shots: int, ctx: Context) -> Iterator[Asked]:
    """Every network that was not trained on the domain, on the same tasks."""
    library = Library(project)
    y = episodes.labels(shots)
    trained = (f"{n}-{SIZE}" for n in (domains.ANCESTOR, *domains.SCALES["full"].entries(SIZE)) if n != domain)
    for name in (*trained, *(n for n, unknown in SHIPPED.items() if domain in unknown)):
        k = known.load(*library.find(name), library)
        pictures = domains.read(folder, k.preprocess)
        trunk = k.algorithm.trunk(k.state)
        assert trunk is not None, "prototypical networks have a trunk"
        with torch.no_grad():
            features = torch.cat([trunk(part) for part in torch.split(pictures.inputs(k.preprocess), 256)])
        for rows in episodes.drawn(pictures.members, shots, TASKS, SEED + shots):
            x, queries = features[rows].tensor_split([len(y)])
            support = Support(x, y, episodes.WAYS, x)
            with torch.no_grad():
                logits = k.algorithm.head(k.state, k.algorithm.adapt(k.state, support, ctx))(queries)
            likeness = max(similarity(represent(x), source) for _, source in k.sources)
            left_out = held_out(k.algorithm, k.state, support, ctx)
            truth = episodes.labels(len(queries) // episodes.WAYS)
            yield Asked(f"{name} on {domain}", domain, likeness, k.figures["temperature"], logits, truth, left_out, y)


def line(shots: int, strength: float, tasks: Sequence[Asked]) -> str:
    """Log-loss over pairs; that and calibration error by domain, of what is like (+) and unlike (-) the sources."""
    pairs: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    shown: dict[str, list[tuple[float, bool]]] = {}
    for task in tasks:
        expected = expected_temperature(task.typical, task.likeness, strength)
        z = task.logits / task_temperatures(task.left_out, task.y, episodes.WAYS, expected).answers
        group = task.domain + ("+" if task.likeness >= LIKE else "-")
        losses.setdefault(group, []).append(float(F.cross_entropy(z, task.truth)))
        pairs.setdefault(task.pair, []).append(losses[group][-1])
        sure, best = z.softmax(1).max(1)
        shown.setdefault(group, []).extend(zip(sure.tolist(), (best == task.truth).tolist(), strict=True))
    whole = statistics.fmean(map(statistics.fmean, pairs.values()))
    each = {group: statistics.fmean(found) for group, found in sorted(losses.items())}
    errors = {group: calibration_error(*zip(*found, strict=True)) for group, found in shown.items()}
    groups = "  ".join(f"{group} {loss:.3f} ({errors[group]:.3f})" for group, loss in each.items())
    return f"{shots} shots, b = {strength:g}: log-loss {whole:.4f}; {groups}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each number of examples and strength."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.unlike", description=__doc__)
    parser.add_argument("--project", type=Path, help="where tests.benchmarks.transfer keeps its networks")
    found = parser.parse_args(arguments)
    root = found.project or domains.place(domains.SCALES["full"])
    ctx = Context()
    jobs.load_runtime(ctx)
    for shots in SHOTS:
        tasks = [t for d in TARGETS for t in asked(d, root / "domains" / d, root / "project", shots, ctx)]
        for strength in STRENGTHS:
            print(line(shots, strength, tasks), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
