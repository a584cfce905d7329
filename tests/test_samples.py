"""The shipped samples: what is there, that the script makes it, that nothing is in two sets, size and licence."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.core import paths

SAMPLES = paths.samples()
SCRIPT = SAMPLES / "make_samples.py"
TEACH = ("characters", "surfaces")


def _folders(*parts: str) -> list[Path]:
    return sorted(p for p in SAMPLES.joinpath(*parts).iterdir() if p.is_dir())


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in {".png", ".jpg"})


def _make(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_alphabets_have_their_characters_and_drawings() -> None:
    alphabets = _folders("alphabets")
    assert len(alphabets) == 15
    for alphabet in alphabets:
        characters = _folders("alphabets", alphabet.name)
        assert len(characters) == 10
        for character in characters:
            assert [p.name for p in sorted(character.iterdir())] == [f"{n:02}.png" for n in range(1, 15)]


def test_three_whole_alphabets_are_held_out_and_no_other_has_a_role() -> None:
    marked = {p.parent.name: p.read_text(encoding="utf-8").strip() for p in (SAMPLES / "alphabets").rglob("role.txt")}
    assert marked == {"Tazhok": "held out", "Venkora": "held out", "Yapteru": "held out"}


def test_surfaces_have_their_classes_and_photographs() -> None:
    classes = _folders("surfaces")
    assert len(classes) >= 12
    for folder in classes:
        assert [p.name for p in sorted(folder.iterdir())] == [f"{n:02}.jpg" for n in range(1, 15)]


@pytest.mark.parametrize("task", TEACH)
def test_teach_sets_have_five_examples_and_ten_queries_per_class(task: str) -> None:
    support, query = _folders("teach", task, "support"), _folders("teach", task, "query")
    assert len(support) == 5
    assert [p.name for p in support] == [p.name for p in query]
    assert {len(_images(p)) for p in support} == {5}
    assert {len(_images(p)) for p in query} == {10}


def test_taught_surface_classes_are_in_no_other_set() -> None:
    known = {p.name for p in _folders("surfaces")}
    taught = {p.name for p in _folders("teach", "surfaces", "support")}
    assert not known & taught


def test_no_image_is_in_the_samples_twice() -> None:
    seen: dict[str, Path] = {}
    for path in _images(SAMPLES):
        with Image.open(path) as image:
            digest = hashlib.sha256(image.tobytes()).hexdigest()
        assert digest not in seen, f"{path} equals {seen[digest]}"
        seen[digest] = path
    assert len(seen) == 15 * 10 * 14 + 14 * 14 + 2 * 5 * 15


def test_drawings_are_dark_ink_on_light_paper_and_photographs_are_coloured() -> None:
    for folder in (*_folders("alphabets"), SAMPLES / "teach" / "characters"):
        path = _images(folder)[0]
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (56, 56))
            grey = np.asarray(image)
        assert grey[0].min() == 255
        assert grey.min() < 64
        assert 0.02 < (grey < 128).mean() < 0.4
    for folder in (*_folders("surfaces"), *_folders("teach", "surfaces", "query")):
        with Image.open(_images(folder)[0]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 96))
            colour = np.asarray(image).astype(float)
        assert colour.std() > 4


def test_characters_of_an_alphabet_differ_more_than_the_drawings_of_one() -> None:
    for alphabet in _folders("alphabets"):
        means = []
        for character in _folders("alphabets", alphabet.name):
            stack = []
            for path in _images(character):
                with Image.open(path) as image:
                    stack.append(np.asarray(image.resize((14, 14), Image.Resampling.BOX)).astype(float))
            means.append(np.mean(stack, axis=0))
        for i, first in enumerate(means):
            for second in means[:i]:
                assert np.abs(first - second).mean() > 8, alphabet.name


def test_all_samples_together_stay_under_six_megabytes() -> None:
    total = sum(p.stat().st_size for p in SAMPLES.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    assert 1_000_000 < total < 6_000_000


def test_the_licence_is_cc0() -> None:
    text = (SAMPLES / "LICENSE.txt").read_text(encoding="utf-8")
    assert "CC0 1.0" in text
    assert "SPDX-License-Identifier: CC0-1.0" in text


def test_the_script_makes_the_shipped_bytes_again(tmp_path: Path) -> None:
    character = _folders("alphabets", "Tazhok")[3]
    taught = _folders("teach", "characters", "query")[0]
    parts = [p.relative_to(SAMPLES).as_posix() for p in (character, taught, SAMPLES / "surfaces" / "rust")]
    result = _make("--out", tmp_path, "--only", *parts, "alphabets/Venkora/role.txt")
    assert result.returncode == 0, result.stderr
    made = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert len(made) == 14 + 10 + 14 + 1
    for path in made:
        assert (tmp_path / path).read_bytes() == (SAMPLES / path).read_bytes(), path


def test_check_names_files_that_are_missing_changed_or_strange(tmp_path: Path) -> None:
    part = "surfaces/scratch"
    assert _make("--out", tmp_path, "--only", part).returncode == 0
    assert _make("--out", tmp_path, "--only", part, "--check").returncode == 0
    folder = tmp_path / part
    (folder / "02.jpg").unlink()
    (folder / "03.jpg").write_bytes(b"other")
    (folder / "15.jpg").write_bytes(b"extra")
    result = _make("--out", tmp_path, "--only", part, "--check")
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        f"different: {part}/03.jpg",
        f"missing: {part}/02.jpg",
        f"not made by this script: {part}/15.jpg",
    ]


def test_contact_sheet_shows_every_image_of_the_part_asked_for(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = _make(
        "--contact-sheet", sheet, "--only", "teach/surfaces/support/drips", "teach/surfaces/support/blisters"
    )
    assert result.returncode == 0, result.stderr
    with Image.open(sheet) as image:
        assert image.size == (5 * 96, 2 * 96)
        pixels = image.convert("RGB").tobytes()
    with Image.open(io.BytesIO((SAMPLES / "teach/surfaces/support/blisters/01.jpg").read_bytes())) as first:
        assert pixels[:288] == first.tobytes()[:288]
