"""Every algorithm on Omniglot: train on the background alphabets, evaluate on alphabets never seen.

``uv run python -m tests.benchmarks.omniglot --data FOLDER`` trains each of ``recipes.RECIPES`` in turn and evaluates it
in four cells: 5-way and 20-way, 1 shot and 5 shots, 600 episodes each; then in Lake's one-shot runs (see ``lake``),
where it takes 20 classes. ``--missing`` leaves out what was measured already, ``--only NAME ...`` all others,
``--table`` prints the table of what there is and puts it into the README.

``FOLDER`` holds ``omniglot28_background.zip`` and ``omniglot28_evaluation.zip``, each with the files
``Alphabet/character/drawing.png``, from the repository ``brendenlake/omniglot``, and ``oneshot_20runs.csv``. What is
done is the command line's ``train`` and ``evaluate`` in processes of their own; the commands stand in the result files.
A run that was killed is taken up where it stopped, and a cell that was measured is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import files, lake
from tests.benchmarks.recipes import CELLS, RECIPES, Recipe
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.paths import cache_home
from workbench.project.library import Library
from workbench.project.runs import list_runs, read_metrics

BENCHMARK = "omniglot"
EPISODES, SEED = 600, 0
_DATA = "$OMNIGLOT"
_BACKGROUND, _EVALUATION = f"{_DATA}/omniglot28_background.zip", f"{_DATA}/omniglot28_evaluation.zip"


def train_command(recipe: Recipe) -> list[str]:
    """The command that trains it; the folder of the data stands as a variable."""
    command = ["train", _BACKGROUND, "--algorithm", recipe.algorithm, "--backbone", "conv4"]
    command += ["--rotations", "--across-tasks", "--image-size", "28", "--channels", "grey"]
    command += ["--ways", recipe.ways, "--shots", recipe.shots, "--queries", str(recipe.queries)]
    for name, value in sorted(recipe.all_settings.items()):
        command += ["--set", f"{name}={value}"]
    if recipe.start:
        command += ["--from", f"omniglot-{recipe.start}"]
    return [*command, "--minutes", str(recipe.minutes), "--seed", str(SEED), "--name", f"omniglot-{recipe.name}"]


def evaluate_command(recipe: Recipe, ways: int, shots: int) -> list[str]:
    """The command that measures one cell."""
    command = ["evaluate", f"omniglot-{recipe.name}", _EVALUATION, "--rotations", "--across-tasks"]
    command += ["--ways", str(ways), "--shots", str(shots), "--queries", "15", "--episodes", str(EPISODES)]
    return [*command, "--seed", str(SEED)]


def shown(command: Sequence[str]) -> str:
    """As a person types it."""
    return "uv run workbench " + " ".join(part if part.startswith(_DATA) else shlex.quote(part) for part in command)


def run(command: Sequence[str], data: Path, project: Path, *, computing: bool = False) -> dict[str, Any]:
    """Run a command of the workbench.

    Args:
        command: its arguments.
        data: the folder of the data.
        project: the folder of the project.
        computing: count the seconds of computing instead of the clock's, see :mod:`tests.benchmarks.computing`.

    Returns:
        its JSON.

    Raises:
        SystemExit: it was refused; what it said has been printed.
    """
    real = [str(data / part.removeprefix(f"{_DATA}/")) if part.startswith(_DATA) else part for part in command]
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.benchmarks.computing" if computing else "workbench",
            *real,
            "--project",
            str(project),
            "--json",
        ],
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    if ended.returncode:
        raise SystemExit(f"{shown(command)}\nended with {ended.returncode}: {ended.stdout}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def measure(recipe: Recipe, data: Path, project: Path, *, computing: bool = False) -> None:
    """Train, or take up what was begun, then measure the cells that are missing; each result is kept at once."""
    key = shown(train_command(recipe))
    before = files.read(BENCHMARK, key)
    figures: dict[str, Any] = {"name": recipe.name, "cells": {}} if before is None else dict(before.figures)
    place = project / files.path_of(BENCHMARK, key).stem
    if not (place / "knowledge").is_dir():
        # the entry is not on this machine: what was measured of another one is not mixed with this one's
        figures = {"name": recipe.name, "cells": {}}
    if "train" not in figures:
        # what a run that was cut short had kept would bear the same name as what it comes to
        shutil.rmtree(place / "knowledge", ignore_errors=True)
        begun = [r for r in list_runs(place) if r.state in {"interrupted", "stopped", "failed"}]
        trained = run(
            ["resume", begun[0].id] if begun else started(recipe, data, project, computing=computing),
            data,
            place,
            computing=computing,
        )
        if trained["stopped"]:
            raise SystemExit(f"{recipe.name}: stopped before its time; the same command goes on with it")
        newest = next(r for r in list_runs(place) if r.id == trained["run"])
        figures["train"] = {
            k: trained[k] for k in ("algorithm", "episodes", "seconds", "seed", "validation", "stopped")
        }
        figures["curve"] = [
            [m.step, round(m.time, 1), round(m.value, 5)]
            for m in read_metrics(newest.folder)
            if m.name == "validation/accuracy"
        ]
        figures["threads"] = len(os.sched_getaffinity(0))
        figures["clock"] = "computing" if computing else "wall"
        files.write(BENCHMARK, key, SEED, figures)
    for ways, shots in recipe.cells:
        if f"{ways}-{shots}" not in figures["cells"]:
            command = evaluate_command(recipe, ways, shots)
            row = run(command, data, place, computing=computing)
            parts = ("accuracy", "ci95", "episodes", "episodes_sha256", "seconds_per_task", "transductive", "by_step")
            row = {k: row[k] for k in parts if k in row}
            figures["cells"][f"{ways}-{shots}"] = {**row, "command": shown(command)}
            files.write(BENCHMARK, key, SEED, figures)
            print(f"{recipe.name}: {ways}-way {shots}-shot {_percent(row)}", flush=True)
    if (20, 1) in recipe.cells and "lake" not in figures:
        name = f"omniglot-{recipe.name}"
        ((_, result),) = lake.measure([name], data, place, Context(seed=lake.SEED), again=True)
        if isinstance(result, WorkbenchError):
            raise SystemExit(f"{name}: {result}")
        figures["lake"] = {k: result.figures[k] for k in ("error", "ci95", "runs", "episodes_sha256")}
        files.write(BENCHMARK, key, SEED, figures)
        print(lake.line(result.figures), flush=True)


def started(recipe: Recipe, data: Path, project: Path, *, computing: bool = False) -> list[str]:
    """The command that trains it, with the place of the network it starts from, which is trained if it is not there."""
    command = train_command(recipe)
    if recipe.start:
        first = next(r for r in RECIPES if r.name == recipe.start)
        place = project / files.path_of(BENCHMARK, shown(train_command(first))).stem
        if not (place / "knowledge").is_dir():
            measure(first, data, project, computing=computing)
        _, entry = Library(place).find(f"omniglot-{first.name}")
        command[command.index("--from") + 1] = str(entry)
    return command


def complete(recipe: Recipe) -> bool:
    """Whether all of it was measured."""
    found = files.read(BENCHMARK, shown(train_command(recipe)))
    if found is None or len(found.figures["cells"]) < len(recipe.cells):
        return False
    return (20, 1) not in recipe.cells or "lake" in found.figures


def forget(recipe: Recipe, project: Path) -> None:
    """Drop a result and what it was measured of."""
    path = files.path_of(BENCHMARK, shown(train_command(recipe)))
    path.unlink()
    shutil.rmtree(project / path.stem, ignore_errors=True)


def _percent(row: dict[str, Any], what: str = "accuracy") -> str:
    return f"{100 * row[what]:.1f} ± {100 * row['ci95']:.1f}"


# ---- the table -------------------------------------------------------------------------------------------------------
def table() -> Iterator[str]:
    """What there is, as a table of the README."""
    titles = " | ".join(f"{ways}-way {shots}-shot" for ways, shots in CELLS)
    yield f"| method | `--only` | head | {titles} | Lake's runs, error | trained | the paper's figures |"
    yield "|---" * (6 + len(CELLS)) + "|"
    for recipe in RECIPES:
        found = files.read(BENCHMARK, shown(train_command(recipe)))
        if found is None or not found.figures["cells"]:
            continue
        cells = []
        for (ways, shots), floor in zip(CELLS, recipe.floors, strict=True):
            row = found.figures["cells"].get(f"{ways}-{shots}")
            missed = row is not None and floor is not None and 100 * row["accuracy"] < floor
            cells.append("-" if row is None else _percent(row) + (f" (below {floor:g})" if missed else ""))
        by_lake = _percent(found.figures["lake"], "error") if "lake" in found.figures else "-"
        trained, threads = found.figures["train"], found.figures["threads"]
        how = f"{trained['episodes']:,} episodes, {math.ceil(trained['seconds'] / 60 - 0.5)} min"
        how += f" on {threads} core{'s' if threads > 1 else ''}" if _by_the_clock(found.figures) else " of computing"
        how += f", seed {trained['seed']}"
        published = " / ".join("-" if p is None else f"{p:g}" for p in recipe.paper)
        paper = "-" if recipe.paper == (None,) * 4 else published
        paper += f" ({recipe.differs})" if recipe.differs and paper != "-" else ""
        head = f"`{recipe.name}` | {recipe.form or 'its own'}"
        yield f"| {recipe.title} | {head} | {' | '.join(cells)} | {by_lake} | {how} | {paper} |"


def _by_the_clock(figures: Mapping[str, Any]) -> bool:
    """Whether minutes are the clock's."""
    return bool(figures.get("clock", "wall") == "wall")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with the two zips")
    parser.add_argument(
        "--computing", action="store_true", help="count seconds of computing, where the machine does other work as well"
    )
    parser.add_argument("--missing", action="store_true", help="only what has not been measured completely")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"of: {', '.join(_names())}")
    parser.add_argument("--table", action="store_true", help="print the table of what there is and update the README")
    parser.add_argument("--project", type=Path, default=cache_home() / "benchmarks" / BENCHMARK, metavar="DIR")
    asked = parser.parse_args()
    unknown = sorted(set(asked.only) - set(_names()))
    if unknown:
        parser.error(f"there is no method called {', '.join(unknown)}")
    if not asked.table:
        if asked.data is None:
            parser.error("--data is needed to train and evaluate")
        for recipe in RECIPES:
            if asked.only and recipe.name not in asked.only:
                continue
            if not (asked.missing and complete(recipe)):
                if complete(recipe):
                    forget(recipe, asked.project)
                measure(recipe, asked.data.absolute(), asked.project, computing=asked.computing)
    lines = list(table())
    print("\n".join(lines))
    if asked.table:
        files.into_readme(BENCHMARK, lines)


def _names() -> list[str]:
    return [recipe.name for recipe in RECIPES]


if __name__ == "__main__":
    main()
