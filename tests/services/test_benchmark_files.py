"""Result files of the benchmarks: one per command, whole, and read back as written."""

from __future__ import annotations

import dataclasses

import pytest

from tests.benchmarks import files
from workbench.core.errors import StorageError


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    return tmp_path


def test_what_is_written_is_read_back() -> None:
    command = "python -m tests.benchmarks.lake --key protonet --seed 3"
    assert files.read("lake", command) is None
    written = files.write("lake", command, 3, {"error": 0.045, "runs": [0.0, 0.05], "name": "Prototypen – ü"})
    found = files.read("lake", command)
    assert found == written
    assert written.versions["torch"]
    assert written.date.endswith("+00:00")
    assert files.path_of("lake", command).name.startswith("key-protonet-seed-3-")


def test_commands_do_not_share_a_file(results) -> None:  # type: ignore[no-untyped-def]
    names = ["a --x 1", "a --x 1 ", "a --x-1", "a " + 60 * "y" + "1", "a " + 60 * "y" + "2", ""]
    for i, command in enumerate(names):
        files.write("many", command, i, {"i": i})
    files.write("many", names[0], 9, {"i": 0})
    assert [r.command for r in files.all_of("many")] == sorted(names)
    assert len(list((results / "many").iterdir())) == len(names)
    assert next(r for r in files.all_of("many") if r.command == names[0]).seed == 9
    assert files.all_of("none") == ()


def test_a_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="error"):
        files.write("lake", "c", 0, {"error": float("nan")})
    assert files.read("lake", "c") is None


def test_a_damaged_file_is_no_result() -> None:
    files.write("lake", "c", 0, {})
    path = files.path_of("lake", "c")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StorageError, match=r"c.*json"):
        files.read("lake", "c")
    with pytest.raises(StorageError):
        files.all_of("lake")


def test_a_result_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        files.write("lake", "c", 0, {}).seed = 1  # type: ignore[misc]


def test_the_readme_gets_a_table_between_its_marks(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    monkeypatch.setattr(files, "README", readme)
    begin, end = "<!-- lake: made by tests.benchmarks.lake --table -->", "<!-- /lake -->"
    readme.write_text(f"a\n{begin}\nold\n{end}\nz\n", encoding="utf-8")
    for _ in range(2):
        files.into_readme("lake", ["new", "rows"])
        assert readme.read_text(encoding="utf-8") == f"a\n{begin}\nnew\nrows\n{end}\nz\n"
    readme.write_text("no marks", encoding="utf-8")
    with pytest.raises(SystemExit, match="lacks the marks"):
        files.into_readme("lake", [])
    assert readme.read_text(encoding="utf-8") == "no marks"
