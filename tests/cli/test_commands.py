"""Every command and its JSON, on a small project that is trained once."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workbench.__main__ import main
from workbench.core import paths
from workbench.learn.fast import native
from workbench.project.runs import read_request

ALPHABET = paths.samples() / "alphabets" / "Luzomi"
OTHER = paths.samples() / "alphabets" / "Venkora"
TEACH = paths.samples() / "teach" / "characters"
TRAIN = ["train", str(ALPHABET), "--algorithm", "protonet", "--ways", "3", "--shots", "1-2", "--queries", "3"]
TRAIN += ["--episodes", "6", "--image-size", "28", "--channels", "grey"]

# the keys that stay, and what stands in them; more may be added
TRAINED = {"entry", "path", "run", "algorithm", "backbone", "device", "seed", "episodes", "across_tasks", "seconds"}
TRAINED |= {"validation", "precision"}
EVALUATED = {"entry", "algorithm", "ways", "shots", "queries", "episodes", "across_tasks", "seed", "accuracy", "ci95"}
EVALUATED |= {"episodes_sha256", "transductive", "seconds_per_task"}
EXPORT = {"format", "files", "verified", "images_checked", "top1_agreement", "max_relative_logit_difference"}
EXPORT |= {"max_probability_difference"}
KNOWN = {"entry", "name", "algorithm", "backbone", "sources", "metrics", "similarity"}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """A command's exit code and JSON."""
    capsys.readouterr()
    code = main([*arguments, "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one object on standard output"
    return code, json.loads(out)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two entries."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(folder / "home"))
        assert main([*TRAIN, "--project", str(folder), "--name", "first"]) == 0
        assert main([*TRAIN, "--project", str(folder), "--name", "second", "--seed", "5"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A taught model."""
    folder = tmp_path_factory.mktemp("model") / "letters.model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(folder.parent / "home"))
        assert main(["adapt", "auto", str(TEACH / "support"), "--out", str(folder), "--project", str(project)]) == 0
    return folder


def test_tasks_lists_what_would_be_loaded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "1.png").write_bytes((TEACH / "support").rglob("*.png").__next__().read_bytes())
    (tmp_path / "set" / "a" / "2.png").write_bytes(b"not a picture")
    code, found = run(capsys, "tasks", str(tmp_path / "set"))
    assert code == 0
    assert found["tasks"][0]["classes"] == [{"name": "a", "images": 1}]
    assert found["tasks"][0]["unlabelled"] == 0
    (problem,) = found["problems"]
    assert problem["path"].endswith("2.png")
    assert problem["severity"] == "error"
    assert problem["reason"]


def test_train_prints_the_entry(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, done = run(capsys, *TRAIN, "--project", str(tmp_path), "--seed", "3")
    assert code == 0
    assert set(done) >= TRAINED
    assert set(done["validation"]) >= {"kind", "accuracy", "ci95"}
    assert done["algorithm"] == "protonet"
    assert done["episodes"] == 6
    assert done["seed"] == 3
    assert done["across_tasks"] is False
    assert done["validation"]["kind"] == "classes"
    assert 0 <= done["validation"]["accuracy"] <= 1
    assert (Path(done["path"]) / "entry.json").is_file()
    assert (tmp_path / "runs" / done["run"]).is_dir()
    code, shown = run(capsys, "knowledge", "show", done["entry"], "--project", str(tmp_path))
    assert code == 0
    assert set(shown) >= KNOWN
    assert shown["provenance"]["episodes"] == 6


@pytest.mark.skipif(not native(), reason="a processor without instructions for bf16")
def test_a_precision_reaches_the_run_and_the_card(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    low = [*TRAIN, "--backbone", "conv4", "--image-size", "16", "--precision", "bf16"]
    code, done = run(capsys, *low, "--project", str(tmp_path))
    assert code == 0
    assert done["precision"] == "bf16"
    shown = run(capsys, "knowledge", "show", done["entry"], "--project", str(tmp_path))[1]
    assert shown["provenance"]["precision"] == "bf16"
    assert read_request(tmp_path / "runs" / done["run"]).precision == "bf16"


def test_the_same_seed_learns_the_same(project: Path, tmp_path: Path) -> None:
    assert main([*TRAIN, "--project", str(tmp_path), "--name", "again"]) == 0
    digests = set()
    for folder in (project, tmp_path):
        for card in (folder / "knowledge").glob("*/entry.json"):
            text = card.read_text(encoding="utf-8")
            if '"first"' in text or '"again"' in text:
                digests.add(json.loads(text)["value"]["weights_sha256"])
    assert len(digests) == 1


def test_too_few_classes_is_refused_with_the_way_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = [*TRAIN, "--project", str(tmp_path)]
    arguments[arguments.index("3")] = "40"
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 1
    said = capsys.readouterr()
    assert "40" in json.loads(said.out)["error"]
    assert "Traceback" not in said.err


def test_evaluate_and_compare_use_the_same_frozen_episodes(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    asked = ["--ways", "3", "--shots", "2", "--queries", "3", "--episodes", "20", "--project", str(project)]
    code, one = run(capsys, "evaluate", "first", str(OTHER), *asked)
    assert code == 0
    assert set(one) >= EVALUATED
    assert one["episodes"] == 20
    assert one["transductive"] is False
    assert one["ci95"] > 0
    code, both = run(capsys, "compare", "first", "second", "--data", str(OTHER), *asked)
    assert code == 0
    assert [r["episodes_sha256"] for r in both["rows"]] == [one["episodes_sha256"]] * 2
    assert both["rows"][0]["accuracy"] == pytest.approx(one["accuracy"])
    (pair,) = both["pairs"]
    assert set(pair) >= {"a", "b", "difference", "ci95"}
    assert pair["difference"] == pytest.approx(both["rows"][0]["accuracy"] - both["rows"][1]["accuracy"])


def test_adapt_says_what_was_chosen(capsys: pytest.CaptureFixture[str], project: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    code, done = run(capsys, "adapt", "auto", str(TEACH / "support"), "--out", str(out), "--project", str(project))
    assert code == 0
    assert set(done) >= {"model", "classes", "chosen", "estimate", "seconds"}
    assert set(done["chosen"]) >= {"entry", "strategy", "weights", "reason"}
    assert all(set(w) >= {"entry", "weight"} for w in done["chosen"]["weights"])
    assert done["problems"] == []
    assert done["classes"] == sorted(p.name for p in (TEACH / "support").iterdir())
    assert sum(w["weight"] for w in done["chosen"]["weights"]) == pytest.approx(1)
    assert done["chosen"]["reason"]
    assert 0 <= done["estimate"]["low"] <= done["estimate"]["accuracy"] <= done["estimate"]["high"] <= 1
    code, forced = run(capsys, "adapt", "second", str(TEACH / "support"), "--out", str(out), "--project", str(project))
    assert code == 0
    assert forced["chosen"]["name"] == "second"


def test_one_example_per_class_has_no_estimate(
    capsys: pytest.CaptureFixture[str], project: Path, tmp_path: Path
) -> None:
    for folder in sorted((TEACH / "support").iterdir()):
        (tmp_path / "one" / folder.name).mkdir(parents=True)
        first = min(folder.iterdir())
        (tmp_path / "one" / folder.name / first.name).write_bytes(first.read_bytes())
    out = tmp_path / "m"
    code, done = run(capsys, "adapt", "auto", str(tmp_path / "one"), "--out", str(out), "--project", str(project))
    assert code == 0
    assert done["estimate"] is None
    assert "similarity" in done["chosen"]["reason"].lower()


def test_predict_ranks_classes_and_writes_a_table(
    capsys: pytest.CaptureFixture[str], project: Path, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "answers.csv"
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no")
    asked = [str(TEACH / "query"), str(bad), "--csv", str(table), "--copy-to", str(tmp_path / "sorted")]
    code, done = run(capsys, "predict", str(model), *asked, "--project", str(project))
    assert code == 0
    assert set(done) >= {"model", "predictions", "problems"}
    assert all(set(p) >= {"image", "ranked", "rejected", "nearest"} for p in done["predictions"])
    assert len(done["predictions"]) == 50
    for p in done["predictions"]:
        assert sum(r["probability"] for r in p["ranked"]) + p["none_of_these"] == pytest.approx(1, abs=1e-5)
        assert p["ranked"] == sorted(p["ranked"], key=lambda r: -r["probability"])
        assert len(p["nearest"]) == 3
    assert [p["path"] for p in done["problems"]] == [str(bad)]
    with table.open(encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 50
    assert set(rows[0]) == {"image", "class", "probability", "rejected", "by"}
    assert {r["by"] for r in rows} == {"machine"}
    assert sum(1 for _ in (tmp_path / "sorted").rglob("*.png")) == 50
    assert sum(1 for _ in (TEACH / "query").rglob("*.png")) == 50, "originals stay"


def test_a_bundle_opens_predicts_and_exports_elsewhere(
    capsys: pytest.CaptureFixture[str], project: Path, model: Path, tmp_path: Path
) -> None:
    asked = ["--format", "bundle", "--out", str(tmp_path / "out"), "--project", str(project)]
    code, done = run(capsys, "export", str(model), *asked)
    assert code == 0
    assert set(done) >= EXPORT
    assert done["verified"] is True
    assert done["images_checked"] == 25
    assert done["top1_agreement"] == 1.0
    assert done["max_relative_logit_difference"] <= 1e-5
    assert done["max_probability_difference"] <= 5e-4
    (bundle,) = (Path(f) for f in done["files"])
    # elsewhere: another project that knows nothing of it
    asked = [str(TEACH / "query"), "--project", str(tmp_path / "elsewhere")]
    code, there = run(capsys, "predict", str(bundle), *asked)
    assert code == 0
    _, here = run(capsys, "predict", str(model), *asked)
    for a, b in zip(here["predictions"], there["predictions"], strict=True):
        assert [r["class"] for r in a["ranked"]] == [r["class"] for r in b["ranked"]]
        assert a["none_of_these"] == pytest.approx(b["none_of_these"], abs=1e-6)
        assert [n["image"] for n in a["nearest"]] == [n["image"] for n in b["nearest"]]
    asked = ["--format", "safetensors", "--out", str(tmp_path / "again"), "--project", str(tmp_path / "elsewhere")]
    code, again = run(capsys, "export", str(bundle), *asked)
    assert code == 0
    assert again["verified"] is True
    assert again["images_checked"] == 25, "its thumbnails travel with it"


def test_a_damaged_entry_is_listed_and_hinders_nothing(
    capsys: pytest.CaptureFixture[str], project: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(project / "knowledge", tmp_path / "p" / "knowledge")).parent
    first = min(copy.glob("knowledge/*/entry.json"))
    first.write_bytes(first.read_bytes()[:-20])
    code, listed = run(capsys, "knowledge", "list", "--project", str(copy))
    assert code == 0
    assert [Path(p["path"]).name for p in listed["problems"]] == [first.parent.name]
    asked = ["--out", str(tmp_path / "m"), "--project", str(copy)]
    code, done = run(capsys, "adapt", "auto", str(TEACH / "support"), *asked)
    assert code == 0
    assert first.parent.name in {Path(p["path"]).name for p in done["problems"]}


def test_knowledge_list_and_similar(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    code, listed = run(capsys, "knowledge", "list", "--project", str(project))
    assert code == 0
    assert {"first", "second"} <= {e["name"] for e in listed["entries"]}
    assert all(set(e) >= KNOWN for e in listed["entries"])
    assert all(e["similarity"] is None for e in listed["entries"])
    code, near = run(capsys, "knowledge", "similar", str(OTHER), "--project", str(project))
    assert code == 0
    assert all(0 <= e["similarity"] <= 1 and e["resembles"] for e in near["entries"])


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(capsys, "algorithms")
    assert code == 0
    assert {"protonet", "maml", "fomaml", "reptile", "ridge"} <= {a["key"] for a in found["algorithms"]}
    assert set(found["algorithms"][0]) >= {"key", "title", "family", "paper", "tags"}
    code, found = run(capsys, "backbones")
    assert code == 0
    rows = {b["key"]: b for b in found["backbones"]}
    assert {"conv4", "resnet12", "resnet18"} <= set(rows)
    assert rows["conv4"]["pretrained"] is None
    assert rows["resnet18"]["pretrained"]["size"] > 1e7
    code, found = run(capsys, "devices")
    assert code == 0
    assert found["devices"][0]["key"] == "cpu"
    assert found["devices"][0]["images_per_second"] > 0
    assert set(found["devices"][0]) >= {"key", "name", "usable", "images_per_second", "agrees_with_cpu", "note"}
    code, found = run(capsys, "doctor")
    assert code in {0, 1}
    assert all(set(c) >= {"name", "ok", "found", "advice"} for c in found["checks"])


def test_refusals_are_sentences(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (
        ["tasks", str(tmp_path / "nothing")],
        ["adapt", "nobody", str(TEACH / "support"), "--out", str(tmp_path / "m"), "--project", str(tmp_path)],
        ["adapt", "auto", str(TEACH / "support" / "none"), "--out", str(tmp_path / "m"), "--project", str(tmp_path)],
        [*TRAIN, "--project", str(tmp_path), "--download"],
        ["knowledge", "show", "nobody", "--project", str(tmp_path)],
        ["evaluate", "nobody", str(OTHER), "--project", str(tmp_path)],
        ["predict", str(tmp_path / "no.model"), str(OTHER), "--project", str(tmp_path)],
        ["export", str(tmp_path), "--format", "onnx", "--out", str(tmp_path / "o"), "--project", str(tmp_path)],
        ["resume", "0001", "--project", str(tmp_path)],
        ["train", str(ALPHABET), "--algorithm", "magic", "--episodes", "2", "--project", str(tmp_path)],
        [*TRAIN, "--project", str(tmp_path), "--set", "lr=fast"],
        [*TRAIN, "--project", str(tmp_path), "--device", "cuda:7"],
    ):
        for as_json in ([], ["--json"]):
            capsys.readouterr()
            assert main([*arguments, *as_json]) == 1, arguments
            said = capsys.readouterr()
            assert said.err.strip().endswith("."), said.err
            assert "Traceback" not in said.err
            message = said.err.strip().splitlines()[-1]
            assert [json.loads(line) for line in said.out.splitlines()] == ([{"error": message}] if as_json else [])


def test_tables_hold_what_was_printed(capsys: pytest.CaptureFixture[str], project: Path, tmp_path: Path) -> None:
    asked = ["--ways", "3", "--shots", "2", "--queries", "3", "--episodes", "4", "--project", str(project)]
    names = ("--csv", "--latex", "--episodes-csv")
    files = [part for name in names for part in (name, str(tmp_path / "tables" / name.strip("-")))]
    code, both = run(capsys, "compare", "first", "second", "--data", str(OTHER), *asked, *files)
    assert code == 0
    with (tmp_path / "tables" / "csv").open(encoding="utf-8", newline="") as f:
        lines = list(csv.DictReader(f))
    values = [*(r["accuracy"] for r in both["rows"]), both["pairs"][0]["difference"]]
    assert [float(line["value"]) for line in lines] == pytest.approx(values, abs=1e-6)
    assert {line["episodes_sha256"] for line in lines} == {both["rows"][0]["episodes_sha256"]}
    assert "first $-$ second" in (tmp_path / "tables" / "latex").read_text(encoding="utf-8")
    per_episode = list(csv.reader((tmp_path / "tables" / "episodes-csv").read_text(encoding="utf-8").splitlines()))
    means = [sum(float(line[i]) for line in per_episode[1:]) / 4 for i in (1, 2)]
    assert means == pytest.approx(values[:2], abs=1e-6)
    capsys.readouterr()
    assert main(["evaluate", "first", str(OTHER), *asked, "--csv", str(tmp_path)]) == 1, "refused before it is measured"
    said = capsys.readouterr()
    assert "it is a folder" in said.err
    assert "Evaluating" not in said.err


@pytest.mark.parametrize("option", ["--ways", "--shots"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5-", "'5-' is neither a number nor a range such as 5-20"),
        ("-5", "'-5' is neither a number nor a range such as 5-20"),
        ("2-3-4", "'2-3-4' is neither a number nor a range such as 5-20"),
        ("five", "'five' is neither a number nor a range such as 5-20"),
        ("9-5", "'9-5' does not run from a smaller to a larger number above 0"),
        ("0-5", "'0-5' does not run from a smaller to a larger number above 0"),
    ],
)
def test_a_range_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], option: str, text: str, said: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*TRAIN, f"{option}={text}", "--json"])
    assert stopped.value.code == 2
    assert json.loads(capsys.readouterr().out) == {"error": f"argument {option}: {said}"}


def test_one_class_is_no_choice(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (TRAIN, ["evaluate", "first", str(OTHER)]):
        with pytest.raises(SystemExit):
            main([*command, "--ways", "1", "--json"])
        assert "a choice needs at least two classes" in json.loads(capsys.readouterr().out)["error"]


USAGE = [["train"], ["predict"], ["train", "x", "--algorithm", "a"], ["tasks", "--no"], ["evaluate"], ["knowledge"]]


@pytest.mark.parametrize("arguments", USAGE)
def test_usage_exits_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("usage: workbench")
    for as_json in ("--json", "--js"):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, as_json])
        assert stopped.value.code == 2
        said = capsys.readouterr()
        assert said.err.splitlines()[-1].endswith(f"error: {json.loads(said.out)['error']}")


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom workbench.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'PySide6', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there no screen means no variable")
def test_the_window_without_a_screen_says_so() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"}}
    done = subprocess.run(
        [sys.executable, "-m", "workbench"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "workbench demo" in done.stderr
    assert "workbench tour" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_mistyped_command_makes_no_project(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["bogus", "--json"])
    assert stopped.value.code == 2
    assert "'bogus'" in json.loads(capsys.readouterr().out)["error"]
    assert not list(tmp_path.iterdir())


def test_adapt_takes_the_pictures_that_are_to_be_predicted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    where = ["--project", str(tmp_path / "project")]
    asked = [*TRAIN, *where, "--name", "together", "--set", "test_steps=5", "--set", "batch=8"]
    asked[asked.index("protonet")] = "tim"
    assert main(asked) == 0
    adapting = ["adapt", "together", str(TEACH / "support"), "--out", str(tmp_path / "m"), *where]
    code, alone = run(capsys, *adapting)
    assert (code, alone["unlabelled"]) == (0, 0)
    assert "examples alone" in alone["note"]
    code, done = run(capsys, *adapting, "--unlabelled", str(TEACH / "query"))
    assert code == 0
    assert done["unlabelled"] == sum(p.is_file() for p in (TEACH / "query").rglob("*"))
    assert main([*adapting, "--unlabelled", str(TEACH / "query")]) == 0
    assert "helped to place the classes. The model is fixed now" in capsys.readouterr().out
    assert main([*adapting, "--unlabelled", str(tmp_path / "nowhere")]) == 1
