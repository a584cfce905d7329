"""What the benchmark on Omniglot asks for is valid, is not asked twice, and its table is that of the result files."""

import pytest

from tests.benchmarks import files, omniglot
from tests.benchmarks.recipes import CELLS, RECIPES
from workbench.core.params import build_params
from workbench.learn import registry
from workbench.project.runs import TrainRun


@pytest.fixture(autouse=True)
def _results(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")


def test_every_algorithm_has_a_recipe_that_can_be_met():
    known = registry.algorithms()
    assert {r.algorithm for r in RECIPES} == set(known)
    assert len({r.name for r in RECIPES}) == len(RECIPES)
    for recipe in RECIPES:
        build_params(known[recipe.algorithm].Params, recipe.all_settings)
        assert set(recipe.cells) <= set(CELLS)
        assert recipe.minutes <= 30


class Workbench:
    """Answers like the command line, and counts what is asked of it."""

    def __init__(self, monkeypatch, break_at=None):
        self.asked, self.break_at = [], break_at
        monkeypatch.setattr(omniglot, "run", self.run)
        monkeypatch.setattr(omniglot, "list_runs", lambda place: [TrainRun("7", place, "", "", "", "done")])
        monkeypatch.setattr(omniglot, "read_metrics", lambda _: [])
        monkeypatch.setattr(omniglot.lake, "measure", self.lake)

    def run(self, command, _data, place, **_how):
        if len(self.asked) == self.break_at:
            raise KeyboardInterrupt
        self.asked.append(command[0])
        if command[0] == "train":
            (place / "knowledge").mkdir(parents=True)
            trained = {"run": "7", "algorithm": "x", "episodes": 12345, "seconds": 600.2, "seed": 0, "stopped": False}
            return {**trained, "validation": None}
        ways = float(command[command.index("--ways") + 1])
        row = {"accuracy": 1 - ways / 100, "ci95": 0.001, "episodes": 600, "episodes_sha256": "ab"}
        return {**row, "seconds_per_task": 0.1, "transductive": False}

    def lake(self, names, _data, _place, _ctx, *, again):
        assert again
        self.asked += ["lake"] * len(names)
        figures = {"error": 0.12, "ci95": 0.03, "runs": 20, "episodes_sha256": "cd", "seconds_per_task": 0.1}
        named = {"name": names[0], "algorithm": "x", "transductive": False}
        return [(names[0], files.Result("", 0, {**figures, **named}))]


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    recipe = RECIPES[0]
    first = Workbench(monkeypatch, break_at=3)
    with pytest.raises(KeyboardInterrupt):
        omniglot.measure(recipe, tmp_path, tmp_path / "p")
    assert first.asked == ["train", "evaluate", "evaluate"]
    second = Workbench(monkeypatch)
    omniglot.measure(recipe, tmp_path, tmp_path / "p")
    assert second.asked == ["evaluate", "evaluate", "lake"]
    assert omniglot.complete(recipe)
    found = files.read(omniglot.BENCHMARK, omniglot.shown(omniglot.train_command(recipe)))
    assert set(found.figures["cells"]) == {f"{n}-{k}" for n, k in CELLS}
    # another machine does not have the entry: nothing is mixed
    third = Workbench(monkeypatch)
    omniglot.measure(recipe, tmp_path, tmp_path / "elsewhere")
    assert third.asked == ["train", *["evaluate"] * 4, "lake"]


def test_the_table_is_that_of_the_files_and_names_what_is_below(tmp_path, monkeypatch):
    Workbench(monkeypatch)
    omniglot.measure(RECIPES[0], tmp_path, tmp_path / "p")
    _, _, *rows = omniglot.table()
    assert len(rows) == 1
    assert "95.0 ± 0.1 (below 98.3)" in rows[0]
    assert "80.0 ± 0.1" in rows[0]
    assert "12.0 ± 3.0" in rows[0]
    assert "12,345 episodes, 10 min on" in rows[0]
    assert "seed 0" in rows[0]
    assert "98.8 / 99.7 / 96 / 98.9" in rows[0]


def test_commands_are_shown_as_typed_and_name_no_folder_of_this_machine():
    command = omniglot.shown(omniglot.train_command(RECIPES[0]))
    assert command.startswith("uv run workbench train $OMNIGLOT/omniglot28_background.zip --algorithm protonet")
    assert "--minutes" in command


def test_a_method_that_trains_nothing_starts_from_anothers_network(tmp_path, monkeypatch):
    recipe = next(r for r in RECIPES if r.start)
    workbench, commands = Workbench(monkeypatch), []

    class Library:
        def __init__(self, place):
            self.place = place

        def find(self, name):
            return None, self.place / name

    monkeypatch.setattr(omniglot, "Library", Library)
    monkeypatch.setattr(omniglot, "run", lambda c, *rest, **how: commands.append(c) or workbench.run(c, *rest, **how))
    omniglot.measure(recipe, tmp_path, tmp_path / "p")
    trained = [c for c in commands if c[0] == "train"]
    assert [c[c.index("--algorithm") + 1] for c in trained] == [recipe.start, recipe.algorithm]
    first = next(r for r in RECIPES if r.name == recipe.start)
    place = tmp_path / "p" / files.path_of(omniglot.BENCHMARK, omniglot.shown(omniglot.train_command(first))).stem
    assert trained[1][trained[1].index("--from") + 1] == str(place / f"omniglot-{recipe.start}")
    assert f"--from omniglot-{recipe.start}" in omniglot.shown(omniglot.train_command(recipe))
    # another method on the same network trains it no second time
    other = next(r for r in RECIPES if r.start == recipe.start and r is not recipe)
    omniglot.measure(other, tmp_path, tmp_path / "p")
    assert [c[c.index("--algorithm") + 1] for c in commands if c[0] == "train"][2:] == [other.algorithm]


def test_what_a_run_cut_short_had_kept_is_not_taken_for_the_trained(tmp_path, monkeypatch):
    place = tmp_path / "p" / files.path_of(omniglot.BENCHMARK, omniglot.shown(omniglot.train_command(RECIPES[0]))).stem
    (place / "knowledge" / "of-a-stopped-run").mkdir(parents=True)
    workbench = Workbench(monkeypatch)
    monkeypatch.setattr(omniglot, "list_runs", lambda place: [TrainRun("7", place, "", "", "", "stopped")])
    answer = workbench.run

    def resumed(command, data, place, **_how):
        assert not (place / "knowledge").exists() or command[0] != "resume"
        return answer(["train", *command[1:]] if command[0] == "resume" else command, data, place)

    monkeypatch.setattr(omniglot, "run", resumed)
    omniglot.measure(RECIPES[0], tmp_path, tmp_path / "p")
    assert workbench.asked == ["train", *["evaluate"] * 4, "lake"]
