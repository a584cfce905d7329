"""The twenty one-shot tasks of Lake, Salakhutdinov and Tenenbaum (2015), on which people err 4.5 % of the time.

``uv run python -m tests.benchmarks.lake --data FOLDER`` measures whatever ``tests.benchmarks.omniglot`` has trained on
this machine; ``--missing`` leaves out what was measured already of the same weights, and ``--table`` prints the table
of what there is. Entries may be named; those that it has not trained are looked for in the project ``--project DIR``.

A run shows one drawing of each of twenty characters of one alphabet, all by one person, and asks which of them each of
twenty drawings by another person is. The characters are of alphabets that training on the background set has never
seen; nothing is turned. The figure is the mean error over the runs; its interval is 1.96 standard errors over them.

``FOLDER`` holds ``omniglot28_evaluation.zip`` and ``oneshot_20runs.csv`` (``run, test_item, test_file, train_class,
train_file``: the drawing asked about, and the one of the same character that is shown).
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.benchmarks import files
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.paths import cache_home
from workbench.core.values import KnowledgeEntry, Preprocess
from workbench.data.encoded import read_encoded
from workbench.data.episodes import Drawn, Sampler, Source, episodes_hash
from workbench.data.pixels import open_image, to_pixels
from workbench.learn.evaluate import Evaluation, FrozenEpisodes, evaluate
from workbench.project.library import Library
from workbench.services import knowledge as known

BENCHMARK = "lake"
ZIP, RUNS = "omniglot28_evaluation.zip", "oneshot_20runs.csv"
PEOPLE, ASKED = 0.045, 0.1
"""Errors: of people, and what the best inductive method may have."""
SEED = 0


class Pair(NamedTuple):
    """One character of a run: the drawing that is shown and the one that is asked about."""

    shown: str
    asked: str


def read_runs(path: Path) -> dict[str, tuple[Pair, ...]]:
    """Each run's characters, in the order of their numbers among the shown ones (``train_class``).

    Raises:
        ValueError: a pair that is not of one character, or a drawing that is shown or asked about twice in a run.
    """
    found: dict[str, dict[str, Pair]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            pair = Pair(row["train_file"], row["test_file"])
            if Path(pair.shown).parent != Path(pair.asked).parent or pair.shown == pair.asked:
                raise ValueError(f"{row['run']}: {pair.shown} and {pair.asked} are not two drawings of one character")
            if found.setdefault(row["run"], {}).setdefault(row["train_class"], pair) != pair:
                raise ValueError(f"{row['run']}: {row['train_class']} is there twice")
    runs = {run: tuple(p for _, p in sorted(pairs.items())) for run, pairs in sorted(found.items())}
    for run, pairs in runs.items():
        if len({Path(p.shown).parent for p in pairs}) < len(pairs):
            raise ValueError(f"{run}: two of its classes are one character")
    return runs


def frozen(runs: dict[str, tuple[Pair, ...]], archive: Path, p: Preprocess) -> FrozenEpisodes:
    """The runs as episodes of one example and one query per class, with the pixels that an entry sees."""
    sources = tuple(
        Source(
            run,
            tuple(str(Path(pair.shown).parent) for pair in pairs),
            tuple(np.stack([_pixels(archive, member, p) for member in pair]) for pair in pairs),
        )
        for run, pairs in runs.items()
    )
    ways = len(next(iter(runs.values())))
    sampler = Sampler(sources, ways=(ways, ways), shots=(1, 1), queries=1, mean=p.mean, std=p.std)
    drawn, classes = [], 0
    for run, pairs in runs.items():
        c = np.arange(classes, classes + len(pairs), dtype=np.int64)
        y = np.arange(len(pairs), dtype=np.int64)
        drawn.append(Drawn(4 * (2 * c), y, 4 * (2 * c + 1), y, 4 * c, run))
        classes += len(pairs)
    return FrozenEpisodes(sampler, tuple(drawn), episodes_hash(drawn))


def _pixels(archive: Path, member: str, p: Preprocess) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = open_image(read_encoded(str(archive), member))
    found: np.ndarray[Any, np.dtype[np.uint8]] = to_pixels(
        image, size=p.size, channels=p.channels, fit=p.fit, resample=p.resample
    )
    return found


def command_of(entry: KnowledgeEntry) -> str:
    """What measures it again; the folder stands as a variable, since it differs between machines."""
    return f"uv run python -m tests.benchmarks.lake --data $OMNIGLOT {shlex.quote(entry.name)}"


def figures_of(entry: KnowledgeEntry, found: Evaluation, transductive: bool) -> dict[str, Any]:
    """What the result file keeps."""
    return {
        "entry": entry.id,
        "name": entry.name,
        "algorithm": entry.algorithm,
        "backbone": entry.backbone,
        "weights_sha256": entry.weights_sha256,
        "error": 1 - found.accuracy,
        "ci95": found.ci95,
        "runs": found.episodes,
        "errors": [round(1 - a, 6) for a in found.per_episode],
        "by_step": [
            {"step": s.step, "error": 1 - s.accuracy, "ci95": s.ci95, "runs": s.episodes, "episodes_sha256": s.sha256}
            for s in found.by_step
        ],
        "transductive": transductive,
        "seconds_per_task": found.seconds_per_task,
        "episodes_sha256": found.sha256,
        "trained": {k: entry.provenance.get(k) for k in ("episodes", "seconds", "seed")},
    }


def measure(
    names: Sequence[str], data: Path, project: Path, ctx: Context, *, again: bool = False
) -> Iterator[tuple[str, files.Result | WorkbenchError]]:
    """Measure entries; yields each name with its result, or why it has none.

    Args:
        names: ids, names or paths.
        data: the folder with the evaluation set and the file of runs.
        project: whose knowledge is looked through first.
        ctx: of the job.
        again: measure also what was measured already of the same weights.
    """
    runs = read_runs(data / RUNS)
    library = Library(project)
    episodes: dict[str, FrozenEpisodes] = {}
    for name in names:
        try:
            entry, path = library.find(name)
            before = files.read(BENCHMARK, command_of(entry))
            if before is not None and before.figures["weights_sha256"] == entry.weights_sha256 and not again:
                yield name, before
                continue
            p = entry.preprocess
            if p.digest not in episodes:
                episodes[p.digest] = frozen(runs, data / ZIP, p)
            knowledge = known.load(entry, path, library)
            found = evaluate(knowledge.algorithm, knowledge.state, episodes[p.digest], ctx)
        except WorkbenchError as error:
            yield name, error
            continue
        figures = figures_of(entry, found, "transductive" in knowledge.algorithm.info.tags)
        yield name, files.write(BENCHMARK, command_of(entry), ctx.seed, figures)


def trained(project: Path) -> dict[str, Path]:
    """The entries that ``tests.benchmarks.omniglot`` has trained in a folder, each with the project that holds it."""
    from tests.benchmarks import omniglot  # which imports this file

    places = {}
    for recipe in omniglot.RECIPES:
        key = omniglot.shown(omniglot.train_command(recipe))
        places[f"omniglot-{recipe.name}"] = project / files.path_of(omniglot.BENCHMARK, key).stem
    return {name: place for name, place in places.items() if (place / "knowledge").is_dir()}


def line(f: dict[str, Any]) -> str:
    """A result in words."""
    return (
        f"{f['name']} ({f['algorithm']}, {_protocol(f)}): error {_percent(f)} %, {f['runs']} runs, "
        f"{1000 * f['seconds_per_task']:.0f} ms a run"
    )


def table() -> Iterator[str]:
    """What there is, the least error first, and the best inductive one beside people and what is asked of it."""
    yield "| entry | method | error, % of the queries | protocol | trained |"
    yield "|---|---|---|---|---|"
    found = sorted((r.figures for r in files.all_of(BENCHMARK)), key=lambda f: float(f["error"]))
    for f in found:
        how = f"{f['trained']['episodes']:,} episodes, {f['trained']['seconds'] / 60:.0f} min"
        yield f"| `{f['name']}` | {f['algorithm']} | {_percent(f)} | {_protocol(f)} | {how} |"
    best = next((f for f in found if not f["transductive"]), None)
    if best is not None:
        verdict = "reached" if best["error"] <= ASKED else "missed"
        yield ""
        yield (
            f"The best inductive one is `{best['name']}` with {_percent(best)} %; asked for: {100 * ASKED:.0f} % "
            f"({verdict}); people: {100 * PEOPLE:.1f} %."
        )


def _protocol(f: dict[str, Any]) -> str:
    return "transductive" if f["transductive"] else "inductive"


def _percent(f: dict[str, Any]) -> str:
    return f"{100 * f['error']:.2f} \u00b1 {100 * f['ci95']:.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 where an entry could not be measured."""
    parser = argparse.ArgumentParser(description="Lake's twenty one-shot tasks of Omniglot.")
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help="none: all that tests.benchmarks.omniglot trained")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help=f"with {ZIP} and {RUNS}")
    parser.add_argument(
        "--project",
        type=Path,
        default=cache_home() / "benchmarks" / "omniglot",
        metavar="DIR",
        help="where that trained them, or a project that holds the entries named",
    )
    parser.add_argument("--missing", action="store_true", help="only what has not been measured of the same weights")
    parser.add_argument("--table", action="store_true", help="print the table of what there is")
    asked = parser.parse_args(arguments)
    if asked.data is None and not asked.table:
        parser.error("--data is needed to measure")
    failed, project = 0, asked.project.absolute()
    if asked.data is not None:
        places = trained(project)
        for name in asked.entries or places:
            ((_, result),) = measure(
                [name], asked.data, places.get(name, project), Context(seed=SEED), again=not asked.missing
            )
            if isinstance(result, WorkbenchError):
                failed = 1
                print(f"{name}: {result}", file=sys.stderr)
            else:
                print(line(result.figures), flush=True)
    if asked.table:
        print("\n".join(table()))
    return failed


if __name__ == "__main__":
    sys.exit(main())
