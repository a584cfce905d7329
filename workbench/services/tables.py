"""Evaluations as tables: CSV for programs and spreadsheets, LaTeX for papers.

The CSV is in long form, one figure per line, so that one file holds everything and each line says what it is: the
accuracy of an entry, its accuracy after an inner step, or the difference between two entries on the same episodes.
Fractions are 0..1 there, as in the JSON; LaTeX shows per cent.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core import storage
from workbench.core.errors import StorageError
from workbench.core.paths import display
from workbench.project.labels import safe_cell
from workbench.services.requests import Evaluated

COLUMNS = (
    "figure",
    "entry",
    "name",
    "algorithm",
    "minus",
    "minus_name",
    "step",
    "value",
    "ci95",
    "protocol",
    "ways",
    "shots",
    "queries",
    "episodes",
    "across_tasks",
    "rotations",
    "seed",
    "episodes_sha256",
    "seconds_per_task",
    "trained_on",
)
"""Of the CSV. ``figure`` is ``accuracy``, ``accuracy after step`` (``step`` says which) or ``difference`` (``entry``
minus ``minus``); ``ci95`` is half the width of the 95 % interval over episodes; ``episodes`` and
``episodes_sha256`` are those of the line's figure, after a step often only the first of all; ``trained_on`` names the
tasks among those evaluated that the entry was trained on."""
_TEXTS = frozenset({"entry", "name", "algorithm", "minus", "minus_name", "trained_on"})


def to_csv(results: Sequence[Evaluated], pairs: Sequence[Mapping[str, Any]] = ()) -> bytes:
    """Rows of ``COLUMNS``, UTF-8; a text that a spreadsheet would run as a formula gets a leading quote."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    by_id = {r.row["entry"]: r.row for r in results}
    for r in results:
        writer.writerow(_figure("accuracy", r.row, r.row["accuracy"], r.row["ci95"]))
        for s in r.row.get("by_step", ()):
            writer.writerow(_figure("accuracy after step", r.row | s, s["accuracy"], s["ci95"]))
    for p in pairs:
        line = _figure("difference", by_id[p["a"]], p["difference"], p["ci95"], minus=by_id[p["b"]])
        writer.writerow({k: v for k, v in line.items() if k not in {"protocol", "seconds_per_task", "trained_on"}})
    return buffer.getvalue().encode("utf-8", "replace")


def _figure(
    kind: str,
    row: Mapping[str, Any],
    value: float,
    ci95: float,
    minus: Mapping[str, Any] | None = None,
) -> dict[str, object]:
    line = {k: row[k] for k in COLUMNS if k in row}
    line |= {"figure": kind, "value": f"{value:.6f}", "ci95": f"{ci95:.6f}", "protocol": _protocol(row)}
    line |= {"seconds_per_task": f"{row['seconds_per_task']:.6f}", "trained_on": "; ".join(row["trained_on"])}
    if minus is not None:
        line |= {"minus": minus["entry"], "minus_name": minus["name"]}
    return {k: _cell(k, v) for k, v in line.items()}


def _cell(column: str, value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return safe_cell(display(value)) if isinstance(value, str) and column in _TEXTS else value


def _protocol(row: Mapping[str, Any]) -> str:
    return "transductive" if row["transductive"] else "inductive"


def episodes_csv(results: Sequence[Evaluated]) -> bytes:
    """One line per episode, one column per entry: what paired tests of another kind need."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["episode", *(safe_cell(f"{display(r.row['name'])} ({r.row['entry']})") for r in results)])
    for i, accuracies in enumerate(zip(*(r.per_episode for r in results), strict=True)):
        writer.writerow([i, *(f"{a:.6f}" for a in accuracies)])
    return buffer.getvalue().encode("utf-8", "replace")


# ---- LaTeX -----------------------------------------------------------------------------------------------------------

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # behind a line's end these two would be taken for its options
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{ch: f"\\{ch}" for ch in "{}$&#_%"},
}


def escaped(text: str) -> str:
    """A text that LaTeX prints as it is, on one line; what cannot be printed becomes a question mark."""
    plain = display(" ".join(text.split())).replace("\ufffd", "?")
    return "".join(_ESCAPES.get(ch, ch) for ch in plain)


def to_latex(results: Sequence[Evaluated], pairs: Sequence[Mapping[str, Any]] = ()) -> bytes:
    """Up to three tables: accuracies, accuracies by inner step, paired differences. They need the package booktabs.

    Comments above them say how the episodes were drawn; what is transductive is marked.
    """
    return "\n".join([*_preface(results), "", *_tables(results, pairs), ""]).encode("utf-8", "replace")


def _preface(results: Sequence[Evaluated]) -> Iterator[str]:
    r = results[0].row
    drawn = "across all tasks" if r["across_tasks"] else "within one task"
    turned = ", each class turned by 90, 180 and 270 degrees counted as a class too" if r["rotations"] else ""
    yield r"% \usepackage{booktabs}"
    yield f"% {r['ways']}-way {r['shots']}-shot, {r['queries']} queries per class, classes drawn {drawn}{turned};"
    yield f"% {r['episodes']} frozen episodes of seed {r['seed']}, SHA-256 {r['episodes_sha256']}."
    yield "% Intervals: 1.96 standard errors over episodes, of one trained entry each; not the noise of training."
    for row in (r.row for r in results):
        if row["trained_on"]:
            yield f"% {escaped(row['name'])} was trained on {escaped(', '.join(row['trained_on']))}."


def _tables(results: Sequence[Evaluated], pairs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = [r.row for r in results]
    names = {r["entry"]: _name(r, rows) for r in rows}
    yield from _tabular(
        "llrr",
        ("entry", "method", r"accuracy (\%)", "seconds per task"),
        (
            (
                names[r["entry"]] + (r" (transductive)" if r["transductive"] else ""),
                escaped(r["algorithm"]),
                _percent(r["accuracy"], r["ci95"]),
                f"{r['seconds_per_task']:.4f}",
            )
            for r in rows
        ),
    )
    stepped = [r for r in rows if r.get("by_step")]
    if stepped:
        yield ""
        for count, sha256 in dict.fromkeys(
            (s["episodes"], s["episodes_sha256"]) for r in stepped for s in r["by_step"]
        ):
            yield f"% After inner steps: the first {count} of these episodes, SHA-256 {sha256}."
        yield from _tabular(
            "lrrr",
            ("entry", "inner step", "episodes", r"accuracy (\%)"),
            (
                (names[r["entry"]], str(s["step"]), str(s["episodes"]), _percent(s["accuracy"], s["ci95"]))
                for r in stepped
                for s in r["by_step"]
            ),
        )
    if pairs:
        yield ""
        yield from _tabular(
            "lr",
            ("paired difference", "percentage points"),
            ((f"{names[p['a']]} $-$ {names[p['b']]}", _percent(p["difference"], p["ci95"], sign=True)) for p in pairs),
        )


def _name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    alike = sum(r["name"] == row["name"] for r in rows) > 1
    return escaped(f"{row['name']} ({row['entry']})" if alike else row["name"])


def _percent(value: float, ci95: float, *, sign: bool = False) -> str:
    shown = f"{100 * value:{'+' if sign else ''}.2f}"
    return rf"${shown} \pm {100 * ci95:.2f}$"


def _tabular(columns: str, head: Iterable[str], lines: Iterable[Iterable[str]]) -> Iterator[str]:
    yield rf"\begin{{tabular}}{{{columns}}}"
    yield r"\toprule"
    yield rf"{' & '.join(head)} \\"
    yield r"\midrule"
    for line in lines:
        yield rf"{' & '.join(line)} \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"


# ---- files -----------------------------------------------------------------------------------------------------------


def check_targets(*files: str) -> None:
    """Refuse before a long evaluation what could not be written after it.

    Raises:
        StorageError: a target is a folder, or two tables would go into one file.
    """
    given = [Path(f).absolute() for f in files if f]
    for path in given:
        if path.is_dir():
            raise StorageError(f"{display(path)} was not written", "it is a folder", "Give the name of a file")
    if len(set(given)) < len(given):
        raise StorageError(
            "The tables were not written", "two of them would go into one file", "Give each a file of its own"
        )


def write(
    results: Sequence[Evaluated],
    pairs: Sequence[Mapping[str, Any]] = (),
    *,
    table: str = "",
    latex: str = "",
    episodes: str = "",
) -> None:
    """Write the tables that were asked for; "" asks for none.

    Raises:
        StorageError: one could not be written.
    """
    for path, data in (
        (table, to_csv(results, pairs)),
        (latex, to_latex(results, pairs)),
        (episodes, episodes_csv(results)),
    ):
        if path:
            storage.save(Path(path), data, keep_previous=False)
