"""What a person labelled, taken out of the project: a CSV, or copies sorted into class folders."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import unicodedata
from pathlib import Path

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.paths import escape
from workbench.core.teach import NONE, TeachTask
from workbench.core.values import ImageRef, Problem
from workbench.data.encoded import read_encoded

NONE_OF_THESE = "none of these"
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_BEGIN_FORMULAS = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


def labels_csv(task: TeachTask) -> bytes:
    r"""Everything a person labelled: ``image, member, class, kind, sha256``, UTF-8.

    ``kind`` is ``example`` (given to a class) or ``label`` (a prediction confirmed or corrected). Bytes of a path that
    are no text are written as ``\xNN``. A cell that a spreadsheet would run as a formula gets a leading quote.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image", "member", "class", "kind", "sha256"])
    for name, image, kind in _labelled(task):
        cells = (escape(image.path), escape(image.member), name, kind, image.sha256)
        writer.writerow([safe_cell(cell) for cell in cells])
    return buffer.getvalue().encode("utf-8", "replace")


def safe_cell(cell: str) -> str:
    """A CSV cell that no spreadsheet takes for a formula, also not one in full-width signs."""
    return f"'{cell}" if cell.lstrip(" \u00a0\u3000")[:1] in _BEGIN_FORMULAS else cell


def class_folders(task: TeachTask, target: Path, ctx: Context | None = None) -> tuple[int, tuple[Problem, ...]]:
    """Copy what a person labelled into one folder per class; the originals stay where they are.

    Args:
        task: the taught task.
        target: a folder; made if missing. Files that are there already are left alone.
        ctx: for progress and cancel.

    Returns:
        Number of pictures copied, and those that could not be, with the reason.

    Raises:
        WorkbenchError: there is nothing to copy.
        StorageError: a copy could not be written.
    """
    labelled = _labelled(task)
    if not labelled:
        raise WorkbenchError("Nothing was copied", "no picture is labelled yet", "Give a class an example first")
    folders = folder_names([name for name, _, _ in labelled])
    copied, problems = 0, []
    for done, (name, image, _) in enumerate(labelled, 1):
        if ctx is not None:
            ctx.check()
        try:
            data = _content(image)
        except ValueError as error:
            problems.append(Problem(image.path, f"it {error}", "error"))
        else:
            folder = target / folders[name]
            if not _there(folder, image.name, data):
                storage.save(_free(folder, image.name), data, keep_previous=False)
            copied += 1
        if ctx is not None:
            ctx.progress(done, len(labelled), "images")
    return copied, tuple(problems)


def folder_names(names: list[str]) -> dict[str, str]:
    """A folder's name for each class: what every file system takes, no two alike even where case is not told apart."""
    out: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        plain = _NOT_IN_NAMES.sub("_", unicodedata.normalize("NFC", name)).rstrip(". ") or "_"
        plain = plain.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
        if _RESERVED.fullmatch(plain):
            plain = f"_{plain}"
        free, number = plain, 2
        while free.casefold() in taken:
            free, number = f"{plain} ({number})", number + 1
        taken.add(free.casefold())
        out[name] = free
    return out


def _labelled(task: TeachTask) -> list[tuple[str, ImageRef, str]]:
    """Class name, picture, kind; classes in order, then what belongs to none of them."""
    rows: list[tuple[str, ImageRef, str]] = []
    for c in task.classes:
        rows += [(c.name, image, "example") for image in c.images]
        rows += [(c.name, q, "label") for q in task.queries if task.labels.get(q.sha256) == c.id]
    rows += [(NONE_OF_THESE, q, "label") for q in task.queries if task.labels.get(q.sha256) == NONE]
    return rows


def _content(image: ImageRef) -> bytes:
    data = read_encoded(image.path, image.member)
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise ValueError("was changed since it was loaded")
    return data


def _names(name: str) -> tuple[str, str]:
    path = Path(name)
    return path.stem, path.suffix


def _free(folder: Path, name: str) -> Path:
    stem, suffix = _names(name)
    path, number = folder / name, 2
    try:
        while path.exists():
            path, number = folder / f"{stem} ({number}){suffix}", number + 1
    except OSError as error:
        raise StorageError(f"{name} was not copied", error.strerror or str(error), "Choose another folder") from error
    return path


def _there(folder: Path, name: str, data: bytes) -> bool:
    """Whether the same bytes lie there already under this name (an export that is repeated)."""
    path = folder / name
    try:
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False
