"""Evaluations as CSV and LaTeX: every figure is there once, and no name breaks a table or runs as a formula."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from workbench.core.errors import StorageError
from workbench.services.evaluating import paired
from workbench.services.requests import Evaluated
from workbench.services.tables import COLUMNS, check_targets, episodes_csv, escaped, to_csv, to_latex, write


def result(entry: str, name: str, per_episode: tuple[float, ...], steps: bool = False, **more: object) -> Evaluated:
    row = {
        "entry": entry,
        "name": name,
        "algorithm": "maml" if steps else "protonet",
        "backbone": "conv4",
        "ways": 5,
        "shots": 1,
        "queries": 15,
        "episodes": len(per_episode),
        "across_tasks": True,
        "rotations": False,
        "seed": 7,
        "accuracy": sum(per_episode) / len(per_episode),
        "ci95": 0.0125,
        "episodes_sha256": 64 * "a",
        "transductive": False,
        "trained_on": [],
        "seconds_per_task": 0.25,
    }
    if steps:
        few = {"ci95": 0.01, "episodes": 2, "episodes_sha256": 64 * "b"}
        row["by_step"] = [{"step": j, "accuracy": 0.2 + j / 10, **few} for j in range(2)]
    return Evaluated(row | more, per_episode)


A = result("aaaa1111", "one", (0.5, 0.75, 1.0))
B = result("bbbb2222", "two", (0.25, 0.75, 0.5), steps=True, transductive=True, trained_on=["letters"])
PAIR = {"a": "aaaa1111", "b": "bbbb2222", **paired(A, B)}


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def test_every_figure_is_a_line() -> None:
    found = rows(to_csv([A, B], [PAIR]))
    assert tuple(found[0]) == COLUMNS
    assert [(r["figure"], r["entry"], r["step"], r["minus"]) for r in found] == [
        ("accuracy", "aaaa1111", "", ""),
        ("accuracy", "bbbb2222", "", ""),
        ("accuracy after step", "bbbb2222", "0", ""),
        ("accuracy after step", "bbbb2222", "1", ""),
        ("difference", "aaaa1111", "", "bbbb2222"),
    ]
    assert [float(r["value"]) for r in found] == pytest.approx([0.75, 0.5, 0.2, 0.3, 0.25])
    assert [float(r["ci95"]) for r in found[:4]] == pytest.approx([0.0125, 0.0125, 0.01, 0.01])
    assert float(found[4]["ci95"]) == pytest.approx(PAIR["ci95"], abs=1e-6)
    assert [r["protocol"] for r in found] == ["inductive", "transductive", "transductive", "transductive", ""]
    shared = ("ways", "shots", "queries", "seed", "across_tasks", "rotations")
    for r in found:
        assert tuple(r[k] for k in shared) == ("5", "1", "15", "7", "true", "false")
        over = ("2", 64 * "b") if r["step"] else ("3", 64 * "a")
        assert (r["episodes"], r["episodes_sha256"]) == over
    assert [r["seconds_per_task"] for r in found][:2] == ["0.250000"] * 2
    assert [r["trained_on"] for r in found] == ["", "letters", "letters", "letters", ""]
    assert found[4]["name"] == "one"
    assert found[4]["minus_name"] == "two"


def test_a_negative_difference_stays_a_number() -> None:
    pair = {"a": "bbbb2222", "b": "aaaa1111", **paired(B, A)}
    assert rows(to_csv([A, B], [pair]))[-1]["value"] == "-0.250000"


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-x", "@a", " =a", "\uff1da", "\uff0ba", "\uff20a"])
def test_no_name_is_run_by_a_spreadsheet(name: str) -> None:
    evil = result("cccc3333", name, (0.5, 0.5), trained_on=[name])
    (line,) = rows(to_csv([evil]))
    assert line["name"] == "'" + name
    assert line["trained_on"] == "'" + name
    head = next(csv.reader(io.StringIO(episodes_csv([evil]).decode())))
    assert head == ["episode", f"'{name} (cccc3333)"]


def test_names_with_commas_quotes_and_lines() -> None:
    name = 'a,"b"\nc'
    (line,) = rows(to_csv([result("cccc3333", name, (0.5, 0.5))]))
    assert line["name"] == 'a,"b"\ufffdc'


def test_each_episode_is_a_line() -> None:
    found = list(csv.reader(io.StringIO(episodes_csv([A, B]).decode())))
    assert found[0] == ["episode", "one (aaaa1111)", "two (bbbb2222)"]
    assert [[float(v) for v in line] for line in found[1:]] == [[0, 0.5, 0.25], [1, 0.75, 0.75], [2, 1.0, 0.5]]


SPECIAL = r"\{}$&#_%~^<>|" + '"[]*'


def test_latex_prints_names_as_they_are() -> None:
    assert escaped("50% of A_1 & B") == r"50\% of A\_1 \& B"
    assert escaped("a\nb\t c") == "a b c"
    assert escaped("\x07\udcff") == "??"
    # undone again, every sign is there once and in order
    text = escaped(SPECIAL)
    words = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">"}
    plain = re.sub(r"\\(text\w+)\{\}", lambda m: ({**words, "textbar": "|"})[m[1]], text)
    plain = re.sub(r"\\([{}$&#_%])", r"\1", plain.replace("''", '"'))
    assert re.sub(r"\{([\[\]*])\}", r"\1", plain) == SPECIAL


def test_latex_tables() -> None:
    text = to_latex([A, B], [PAIR]).decode()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    assert r"one & protonet & $75.00 \pm 1.25$ & 0.2500 \\" in text
    assert r"two (transductive) & maml & $50.00 \pm 1.25$" in text
    assert r"two & 1 & 2 & $30.00 \pm 1.00$ \\" in text
    assert text.count("% After inner steps: the first 2 of these episodes, SHA-256 " + 64 * "b") == 1
    assert r"one $-$ two & $+25.00 \pm" in text
    assert "% two was trained on letters." in text
    assert "3 frozen episodes of seed 7, SHA-256 " + 64 * "a" in text
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) in {1, 2, 3}
    assert text.endswith("\\end{tabular}\n")
    alone = to_latex([A]).decode()
    assert alone.count(r"\begin{tabular}") == 1


def test_latex_tells_entries_of_one_name_apart() -> None:
    twin = result("dddd4444", "one", (0.5, 0.5, 0.5))
    text = to_latex([A, twin]).decode()
    assert "one (aaaa1111)" in text
    assert "one (dddd4444)" in text


def test_no_name_leaves_a_comment_or_begins_a_line_option() -> None:
    evil = result("cccc3333", "[2cm] a\n\\input{x}", (0.5, 0.5), trained_on=["x\n\\input{y}"])
    text = to_latex([evil]).decode()
    assert "\\input" not in text
    assert not any(line.startswith(("[", "*")) for line in text.splitlines())


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_takes_it(tmp_path: Path) -> None:
    evil = result("cccc3333", SPECIAL, (0.5, 0.5, 0.5))
    body = to_latex([evil, B], [{**PAIR, "a": "cccc3333"}]).decode()
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\n\\end{document}\n", "utf-8"
    )
    subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=batchmode", "t.tex"], cwd=tmp_path, check=True, timeout=60
    )


def test_files_are_written_where_asked(tmp_path: Path) -> None:
    write([A, B], [PAIR], table=str(tmp_path / "new" / "t.csv"), latex="", episodes=str(tmp_path / "e.csv"))
    assert (tmp_path / "new" / "t.csv").read_bytes() == to_csv([A, B], [PAIR])
    assert (tmp_path / "e.csv").read_bytes() == episodes_csv([A, B])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.csv", "new"]
    write([A], table=str(tmp_path / "e.csv"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.csv", "new"], "a table can be made again: no copy is kept"


def test_targets_that_cannot_be_are_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="it is a folder"):
        check_targets("", str(tmp_path))
    with pytest.raises(StorageError, match="into one file"):
        check_targets(str(tmp_path / "a"), "", f"{tmp_path}/a")
    check_targets("", "", "")
