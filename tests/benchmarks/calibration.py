"""Whether the figures that are shown are honest: probabilities, "none of these", influence, the estimate's interval.

``uv run python -m tests.benchmarks.calibration --data FOLDER`` trains one network on Omniglot's background alphabets
(ten minutes) and asks the services of the Teach room about tasks of the evaluation alphabets and of folders of photos:

* *probabilities*: expected calibration error (15 bins) of the answers as shown, 5-way with 1, 2 and 5 examples; beside
  it that of the classes alone, as if "none of these" were no answer;
* *unknown*: how well "none of these" tells pictures of a class that was not taught, area under the curve, 5-way 5-shot;
* *influence*: how often a planted wrong label has the largest influence, Omniglot 5-way 5-shot: ten seeded trials, and
  the share of two hundred others;
* *interval*: how often the 95 % interval of the accuracy holds the realised one, 200 tasks of 5 classes with 2 to 5
  examples, drawn in turn from the evaluation alphabets, clothes and hands; for one knowledge that was named (the one
  trained here) and for the one chosen among all. The realised accuracy is that on *all* other pictures of the task's
  classes (75 to 190), the best of the classes counting as the answer, as in the estimate. It is a sample itself: of
  ``m`` pictures with ``r`` right it is ``(r + 1/2) / (m + 1)``, so that 75 of 75 is not an accuracy of exactly 1; the
  share of the intervals that hold ``r / m`` stands beside it.

Tasks are drawn within one alphabet. Temperature and thresholds come from alphabets that were held out of the training.
``--on validation`` asks about those instead of the evaluation alphabets; defaults are chosen there, and the shipped
knowledge of all background alphabets is not among what can be chosen then. What any knowledge that can be chosen was
trained on is never asked about. ``--only PART ...``
leaves out the others, ``--again`` measures what was measured, ``--table`` puts the table into the README.

``FOLDER`` holds ``omniglot28/omniglot28_background.zip`` and ``omniglot28_evaluation.zip`` (see ``omniglot``), and the
folders of classes ``clothing10`` and ``signdigits10``.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import files, omniglot
from tests.benchmarks.calibrated_tasks import (
    Answered,
    Domain,
    Drawn,
    answered,
    area,
    calibration_error,
    domain,
    draw,
    influences,
    mislabel,
)
from workbench.core.context import Context
from workbench.core.paths import cache_home
from workbench.core.values import KnowledgeEntry
from workbench.learn import registry
from workbench.project import library
from workbench.project.library import Library
from workbench.services import jobs

BENCHMARK, SEED, NAME = "calibration", 0, "calibration"
WAYS, SHOTS = 5, (1, 2, 5)
EPISODES, QUERIES = 100, 10
TASKS, TASK_SHOTS = 200, (2, 3, 4, 5)
TRIALS, MORE_TRIALS = 10, 200
PARTS = ("probabilities", "unknown", "influence", "interval")
ERROR, AREA, FIRST, COVERED = 0.05, 0.85, 9, (0.90, 0.99)
"""Promised: calibration error, area under the curve, trials of ten, share of the intervals."""
TRAIN = [
    *["train", "$OMNIGLOT/omniglot28_background.zip", "--algorithm", "protonet", "--backbone", "conv4", "--rotations"],
    *["--image-size", "28", "--channels", "grey", "--ways", "5-20", "--shots", "1-5", "--queries", "5"],
    *["--minutes", "10", "--seed", str(SEED), "--name", NAME],
]


class Setup:
    """The project with its trained entry, and the domains, scanned when they are first asked for."""

    def __init__(self, data: Path, project: Path, entry: KnowledgeEntry, on: str) -> None:
        self.project, self.entry, self.ctx = project, entry, Context(seed=SEED)
        archive = "omniglot28_background.zip" if on == "validation" else "omniglot28_evaluation.zip"
        self._places = {
            "omniglot": data / "omniglot28" / archive,
            "clothing": data / "clothing10",
            "hands": data / "signdigits10",
        }
        self._found: dict[str, Domain] = {}

    def domain(self, name: str) -> Domain:
        """``omniglot``, ``clothing`` or ``hands``, without what anything that may be chosen was trained on."""
        if name not in self._found:
            self._found[name] = domain(name, self._places[name], Library(self.project).entries())
        return self._found[name]

    def answered(self, task: Drawn, choice: str = "auto") -> Answered:
        """What the product says of a task."""
        return answered(task, self.project, choice, self.ctx)


def rng(*what: object) -> np.random.Generator:
    """Randomness of its own for each thing that is measured."""
    return np.random.default_rng([SEED, *"/".join(map(str, what)).encode()])


# ---- parts -----------------------------------------------------------------------------------------------------------
def probabilities(setup: Setup) -> dict[str, Any]:
    """Calibration error of the shown answers per domain and shots."""
    rows = []
    for name in ("omniglot", "clothing"):
        for shots in SHOTS:
            gen = rng("probabilities", name, shots)
            shown: list[tuple[float, bool]] = []
            among: list[tuple[float, bool]] = []
            for _ in range(EPISODES):
                task = draw(setup.domain(name), gen, WAYS, shots, QUERIES)
                for p, truth in zip(setup.answered(task).predictions, task.truth, strict=True):
                    shown.append((max(*p.probabilities, p.none), not p.rejected and p.best == truth))
                    among.append((p.probabilities[p.best] / math.fsum(p.probabilities), p.best == truth))
            rows.append(
                {
                    "domain": name,
                    "shots": shots,
                    "episodes": EPISODES,
                    "error": round(calibration_error(*zip(*shown, strict=True)), 5),
                    "error_among_classes": round(calibration_error(*zip(*among, strict=True)), 5),
                    "accuracy": round(statistics.fmean(right for _, right in among), 5),
                    "accuracy_shown": round(statistics.fmean(right for _, right in shown), 5),
                    "confidence_shown": round(statistics.fmean(c for c, _ in shown), 5),
                    "confidence_among_classes": round(statistics.fmean(c for c, _ in among), 5),
                }
            )
            print(_line(rows[-1]), flush=True)
    return {"rows": rows}


def unknown(setup: Setup) -> dict[str, Any]:
    """Area under the curve of "none of these" for a class that was not taught."""
    rows = []
    for name in ("omniglot", "clothing"):
        gen = rng("unknown", name)
        known: list[float] = []
        strange: list[float] = []
        refused: list[tuple[bool, bool]] = []
        each: list[float] = []
        for _ in range(EPISODES):
            task = draw(setup.domain(name), gen, WAYS, 5, QUERIES, withheld=1)
            found = setup.answered(task).predictions
            a = [p.none for p, truth in zip(found, task.truth, strict=True) if truth < WAYS]
            b = [p.none for p, truth in zip(found, task.truth, strict=True) if truth >= WAYS]
            refused += [(truth >= WAYS, p.rejected) for p, truth in zip(found, task.truth, strict=True)]
            each.append(area(a, b))
            known += a
            strange += b
        rows.append(
            {
                "domain": name,
                "shots": 5,
                "episodes": EPISODES,
                "area": round(area(known, strange), 5),
                "area_within_episodes": round(statistics.fmean(each), 5),
                "known_refused": round(statistics.fmean(r for s, r in refused if not s), 5),
                "unknown_accepted": round(statistics.fmean(not r for s, r in refused if s), 5),
            }
        )
        print(_line(rows[-1]), flush=True)
    return {"rows": rows}


def influence(setup: Setup) -> dict[str, Any]:
    """Rank of a planted wrong label by influence."""

    def first(what: str, trials: int) -> list[int]:
        ranks = []
        for trial in range(trials):
            gen = rng("influence", what, trial)
            task, (wrong, place) = mislabel(draw(setup.domain("omniglot"), gen, WAYS, 5, 2), gen)
            found = influences(task, setup.project, "auto", setup.ctx)
            planted = found[wrong][place]
            ranks.append(1 + sum(v > planted for row in found for v in row))
        return ranks

    ranks, more = first("trials", TRIALS), first("more", MORE_TRIALS)
    row = {
        "domain": "omniglot",
        "shots": 5,
        "ranks": ranks,
        "first": sum(r == 1 for r in ranks),
        "more_trials": len(more),
        "more_first": sum(r == 1 for r in more),
        "more_worst": max(more),
    }
    print(_line(row), flush=True)
    return {"rows": [row]}


def interval(setup: Setup) -> dict[str, Any]:
    """How often the interval holds what comes true."""
    rows = []
    names = ("omniglot", "clothing", "hands")
    for arm, choice in (("named", str(setup.entry.id)), ("chosen", "auto")):
        tasks = []
        for n in range(TASKS):
            name, shots = names[n % len(names)], TASK_SHOTS[(n // len(names)) % len(TASK_SHOTS)]
            task = draw(setup.domain(name), rng("interval", n), WAYS, shots, None)
            found = setup.answered(task, choice)
            if found.estimate is None:
                raise SystemExit(f"task {n} has {shots} examples a class and no estimate")
            right = [p.best == truth for p, truth in zip(found.predictions, task.truth, strict=True)]
            e = found.estimate
            realised = (sum(right) + 0.5) / (len(right) + 1)
            tasks.append((name, shots, e.accuracy, e.low, e.high, realised, found.tried, statistics.fmean(right)))
        rows.append({"arm": arm, "tasks": len(tasks), **_covered(tasks), "by": {}})
        for part in names:
            rows[-1]["by"][part] = _covered([t for t in tasks if t[0] == part])
        for shots in TASK_SHOTS:
            rows[-1]["by"][f"{shots} examples"] = _covered([t for t in tasks if t[1] == shots])
        rows[-1]["all"] = [[*t[:2], *(round(v, 4) for v in t[2:])] for t in tasks]
        print(_line({k: v for k, v in rows[-1].items() if k != "all"}), flush=True)
    return {"rows": rows}


def _covered(tasks: Sequence[tuple[str, int, float, float, float, float, int, float]]) -> dict[str, float]:
    ends = [(low, high, real, plain) for _, _, _, low, high, real, _, plain in tasks]
    return {
        "covered": round(statistics.fmean(low <= real <= high for low, high, real, _ in ends), 4),
        "covered_plain": round(statistics.fmean(low <= plain <= high for low, high, _, plain in ends), 4),
        "above": round(statistics.fmean(real > high for _, high, real, _ in ends), 4),
        "below": round(statistics.fmean(real < low for low, _, real, _ in ends), 4),
        "width": round(statistics.fmean(high - low for low, high, *_ in ends), 4),
        "estimated": round(statistics.fmean(t[2] for t in tasks), 4),
        "realised": round(statistics.fmean(t[7] for t in tasks), 4),
        "tried": round(statistics.fmean(t[6] for t in tasks), 2),
    }


def _line(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in row.items())


MEASURES: Mapping[str, Callable[[Setup], dict[str, Any]]] = {
    "probabilities": probabilities,
    "unknown": unknown,
    "influence": influence,
    "interval": interval,
}


# ---- the command -----------------------------------------------------------------------------------------------------
def command(part: str, on: str, entry: str) -> str:
    """The line that measures a part again."""
    line = f"uv run python -m tests.benchmarks.calibration --data FOLDER --only {part}"
    line += "" if on == "evaluation" else f" --on {on}"
    return line + (f" --entry {shlex.quote(entry)}" if entry else "")


def trained(data: Path, project: Path, named: str, *, computing: bool) -> KnowledgeEntry:
    """The entry that is asked about: the one that is named, or the one that is trained here if it is not there."""
    library = Library(project)
    wanted = named or NAME
    if not any(wanted in (e.id, e.name) for e in library.entries()):
        if named:
            raise SystemExit(f"There is no knowledge called {named} in {project}")
        omniglot.run(TRAIN, data / "omniglot28", project, computing=computing)
    return Library(project).find(wanted)[0]


def missed(part: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which promises a part does not keep."""
    out = []
    for row in rows:
        where = f"{row.get('domain', row.get('arm'))}"
        if part == "probabilities" and row["error"] > ERROR:
            out.append(f"{where} {row['shots']}-shot: calibration error {row['error']:.3f} above {ERROR}")
        if part == "unknown" and row["domain"] == "omniglot" and row["area"] < AREA:
            out.append(f"{where}: area {row['area']:.3f} below {AREA}")
        if part == "influence" and row["first"] < FIRST:
            out.append(f"{where}: {row['first']} of {TRIALS} first, below {FIRST}")
        if part == "interval" and not COVERED[0] <= row["covered"] <= COVERED[1]:
            out.append(f"{where}: {row['covered']:.3f} covered, not {COVERED[0]} to {COVERED[1]}")
    return out


def table(entry: str) -> Iterator[str]:
    """What was measured of an entry ("": the one that is trained here), as a table of the README."""
    found = {part: files.read(BENCHMARK, command(part, "evaluation", entry)) for part in PARTS}
    yield "| figure | where | measured | promised |"
    yield "|---|---|---|---|"
    for part, result in found.items():
        for row in () if result is None else result.figures["rows"]:
            yield f"| {' | '.join(_cells(part, row))} |"


def _cells(part: str, row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if part == "probabilities":
        where = f"{row['domain']}, 5-way {row['shots']}-shot, {row['episodes']} episodes"
        text = f"{row['error']:.3f} (classes alone {row['error_among_classes']:.3f}; accuracy {row['accuracy']:.3f})"
        return "calibration error of the answers shown", where, text, f"<= {ERROR}"
    if part == "unknown":
        where = f"{row['domain']}, 5-way 5-shot, {row['episodes']} episodes"
        text = f"{row['area']:.3f} (known refused {row['known_refused']:.3f}, unknown accepted "
        text += f"{row['unknown_accepted']:.3f})"
        promised = f">= {AREA}" if row["domain"] == "omniglot" else "reported"
        return '"none of these" for a class not taught, area under the curve', where, text, promised
    if part == "influence":
        text = f"{row['first']} of {TRIALS} (of {row['more_trials']} others {row['more_first']})"
        return (
            "planted wrong label has the largest influence",
            "omniglot, 5-way 5-shot",
            text,
            f">= {FIRST} of {TRIALS}",
        )
    arm = "one knowledge, named" if row["arm"] == "named" else f"chosen among {row['tried']:g} on average"
    text = f"{row['covered']:.3f} (plain share {row['covered_plain']:.3f}; width {row['width']:.2f}; "
    text += f"estimated {row['estimated']:.3f}, realised {row['realised']:.3f})"
    where = f"{row['tasks']} tasks of drawings, clothes and hands; {arm}"
    return "95 % interval of the accuracy holds the realised one", where, text, f"{COVERED[0]:.2f} to {COVERED[1]:.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing, print it; 1 where a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--on", choices=("evaluation", "validation"), default="evaluation", help="which alphabets")
    parser.add_argument("--entry", default="", help="name or id of knowledge in the project, instead of training")
    parser.add_argument("--again", action="store_true", help="measure what was measured before, too")
    parser.add_argument("--computing", action="store_true", help="count the training's minutes in seconds of computing")
    parser.add_argument("--table", action="store_true", help="print the table and put it into the README")
    parser.add_argument("--project", type=Path, default=cache_home() / "benchmarks" / BENCHMARK, metavar="DIR")
    asked = parser.parse_args(arguments)
    if asked.table:
        lines = list(table(asked.entry))
        print("\n".join(lines))
        files.into_readme(BENCHMARK, lines)
        return 0
    if asked.data is None:
        parser.error("--data is needed to measure")
    if asked.on == "validation":
        library.starter_knowledge = lambda: asked.project / "nothing shipped"
    jobs.load_runtime(Context())
    registry.algorithms()
    entry = trained(asked.data.absolute(), asked.project, asked.entry, computing=asked.computing)
    setup = Setup(asked.data.absolute(), asked.project, entry, asked.on)
    failed = []
    for part in asked.only:
        key = command(part, asked.on, asked.entry)
        before = files.read(BENCHMARK, key)
        # what was measured of another network is not this one's
        if before is None or asked.again or before.figures["network"] != entry.provenance.get("trunk"):
            figures = {"network": entry.provenance.get("trunk"), "training": entry.provenance.get("seconds")}
            before = files.write(BENCHMARK, key, SEED, {**figures, **MEASURES[part](setup)})
        failed += missed(part, before.figures["rows"])
    print("\n".join(f"MISSED {line}" for line in failed) if failed else "All is as promised.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
