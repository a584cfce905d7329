"""Makes the image sets of this folder; the committed files are its output, byte for byte.

    python samples/make_samples.py                       write everything beside this script
    python samples/make_samples.py --out DIR             write everything to DIR
    python samples/make_samples.py --out DIR --only alphabets/Tazhok surfaces/rust
    python samples/make_samples.py --check               compare the committed files with what would be written
    python samples/make_samples.py --contact-sheet FILE  one picture of everything (no files written)

What is made:

- ``alphabets/<Alphabet>/<character>/<NN>.png``: 15 invented alphabets x 10 characters x 14 drawings, 56 x 56 grey.
  Three alphabets carry a ``role.txt`` that says ``held out``.
- ``surfaces/<class>/<NN>.jpg``: 14 classes of surface defects and textures x 14 photographs, 96 x 96 colour.
- ``teach/characters`` and ``teach/surfaces``: 5 new classes each (a sixteenth alphabet; new kinds of defect), in
  ``support/<class>`` 5 examples and in ``query/<class>`` 10 pictures to predict.

The model. An alphabet is a style grammar (kinds of stroke, directions, number of strokes, what its characters share);
its characters are composed of one small repertoire of strokes and kept a minimum distance apart (``glyphs.py``). A
drawing is a character seen through a writer (slant, proportions, size, rotation, pen, pressure, rounding, bulge,
overshoot, tremor, sloppiness) and through the accidents of the moment (``handwriting.py``); the same number is the same
writer throughout an alphabet. A surface is a random material under a random lamp (``textures.py``) on which the class
paints its defect (``defects.py``). Every file has its own generator, seeded by its name alone, so that any part can be
made by itself and adding a class changes no other.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import defects
import glyphs
import handwriting
import textures
from PIL import Image

HERE = Path(__file__).resolve().parent

CHARACTERS = 10
WRITERS = 14
PHOTOS = 14
TAUGHT_CHARACTERS = 5
SUPPORT, QUERY = 5, 10

APART = 0.2
"""Least distance between two characters of an alphabet, in half boxes."""

VARIATION = handwriting.Variation()


def _matches(path: str, only: tuple[str, ...]) -> bool:
    return not only or any(path == part or path.startswith(f"{part.rstrip('/')}/") for part in only)


def _wanted(folder: str, only: tuple[str, ...]) -> bool:
    """Whether ``folder`` holds, or lies in, something asked for."""
    return _matches(folder, only) or any(part.startswith(f"{folder}/") for part in only)


def _teaching(number: int) -> tuple[str, int]:
    """Which part of a teach set the picture ``number`` (from 1) belongs to, and its number there."""
    return ("support", number) if number <= SUPPORT else ("query", number - SUPPORT)


def drawings(only: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """The characters' files: relative path and bytes."""
    for grammar in (*glyphs.GRAMMARS, glyphs.TAUGHT):
        taught = grammar is glyphs.TAUGHT
        home = "teach/characters" if taught else f"alphabets/{grammar.name}"
        if not _wanted(home, only):
            continue
        count, hands = (TAUGHT_CHARACTERS, SUPPORT + QUERY) if taught else (CHARACTERS, WRITERS)
        if grammar.held_out and _matches(f"{home}/role.txt", only):
            yield f"{home}/role.txt", b"held out\n"
        ideal = glyphs.characters(grammar, count, APART)
        for name, character in zip(glyphs.names(grammar, count), ideal, strict=True):
            for number in range(1, hands + 1):
                part, shown = _teaching(number)
                path = f"{home}/{part}/{name}/{shown:02}.png" if taught else f"{home}/{name}/{number:02}.png"
                if not _matches(path, only):
                    continue
                hand = handwriting.writer(VARIATION, glyphs.seeded("writer", grammar.name, number))
                chance = glyphs.seeded("drawing", grammar.name, name, number)
                yield path, handwriting.png(handwriting.draw(character, hand, VARIATION, chance))


def photographs(only: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """The surfaces' files: relative path and bytes."""
    for painters, home, count in (
        (defects.PAINTERS, "surfaces", PHOTOS),
        (defects.TAUGHT, "teach/surfaces", SUPPORT + QUERY),
    ):
        for name, paint in painters.items():
            for number in range(1, count + 1):
                part, shown = _teaching(number)
                path = (
                    f"{home}/{name}/{number:02}.jpg" if home == "surfaces" else f"{home}/{part}/{name}/{shown:02}.jpg"
                )
                if not _matches(path, only):
                    continue
                chance = glyphs.seeded("surface", name, number)
                surface = textures.material(chance)
                paint(surface, chance)
                yield path, textures.jpeg(textures.lit(surface, chance))


def files(only: tuple[str, ...] = ()) -> Iterator[tuple[str, bytes]]:
    """Every file, or those in the folders ``only``, as relative path (with slashes) and bytes."""
    yield from drawings(only)
    yield from photographs(only)


def check(folder: Path, only: tuple[str, ...]) -> list[str]:
    """One line for each file of ``folder`` that is missing, different or too many."""
    made = dict(files(only))
    found = {
        path.relative_to(folder).as_posix(): path
        for top in ("alphabets", "surfaces", "teach")
        for path in (folder / top).rglob("*")
        if path.is_file() and _matches(path.relative_to(folder).as_posix(), only)
    }
    lines = [f"missing: {path}" for path in made if path not in found]
    lines += [f"not made by this script: {path}" for path in found if path not in made]
    lines += [f"different: {path}" for path, data in made.items() if path in found and found[path].read_bytes() != data]
    return sorted(lines)


def contact_sheet(target: Path, only: tuple[str, ...]) -> None:
    """One row per class, everything that ``only`` asks for."""
    rows: dict[str, list[Image.Image]] = {}
    for path, data in files(only):
        if not path.endswith(".txt"):
            rows.setdefault(path.rpartition("/")[0], []).append(Image.open(io.BytesIO(data)).convert("RGB"))
    heights = [row[0].height for row in rows.values()]
    width = max(sum(image.width for image in row) for row in rows.values())
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    top = 0
    for row, height in zip(rows.values(), heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (column * image.width, top))
        top += height
    sheet.save(target)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the sample image sets.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: beside this script)")
    parser.add_argument("--only", nargs="+", default=[], metavar="FOLDER", help="make these folders alone")
    parser.add_argument("--check", action="store_true", help="compare with the files that are there, write nothing")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE", help="save one picture of everything instead")
    arguments = parser.parse_args()
    only = tuple(arguments.only)
    if arguments.contact_sheet:
        contact_sheet(arguments.contact_sheet, only)
        return 0
    if arguments.check:
        lines = check(arguments.out, only)
        print("\n".join(lines) if lines else "the files are what this script makes")
        return 1 if lines else 0
    count = size = 0
    for path, data in files(only):
        target = arguments.out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        count, size = count + 1, size + len(data)
    print(f"{count} files, {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
