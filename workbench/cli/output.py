"""What a command prints: one JSON object or plain lines on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from tqdm import tqdm

from workbench.core.context import Context
from workbench.core.paths import display
from workbench.core.values import Problem


class Terminal:
    """Draws a job's status and progress on standard error; a bar on a terminal, one line per status elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._status = ""
        self._lock = threading.Lock()

    def __call__(self, ctx: Context) -> None:
        """Redraw; called by the context. A standard error that nobody reads any more ends the drawing, not the job."""
        if self._quiet:
            return
        try:
            self._draw(ctx)
        except (OSError, ValueError):
            self._quiet = True

    def _draw(self, ctx: Context) -> None:
        with self._lock:
            if ctx.status_text != self._status:
                self._status = ctx.status_text
                self.clear()
                if not self._stream.isatty():
                    self._stream.write(f"{_encodable(self._status, self._stream)}\n")
                    self._stream.flush()
            progress = ctx.progress_now
            if progress is None or not self._stream.isatty():
                return
            if self._bar is None or self._bar.unit != f" {progress.unit}":
                self.clear()
                self._bar = tqdm(
                    total=progress.total, unit=f" {progress.unit}", file=self._stream, leave=False, desc=self._status
                )
            self._bar.total = progress.total
            self._bar.set_description(self._status, refresh=False)
            self._bar.update(max(0, progress.done - self._bar.n))
            if progress.total and progress.done >= progress.total:
                self.clear()

    def clear(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()
            self._bar = None


def emit(value: dict[str, Any], as_json: bool, human: Callable[[dict[str, Any]], Iterable[str]]) -> None:
    """Print a result: one JSON object, or the lines a person reads."""
    if as_json:
        unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") in {"utf8", "utf16", "utf32"}
        sys.stdout.write(json.dumps(_printable(value), ensure_ascii=not unicode, allow_nan=False) + "\n")
    else:
        text = "".join(f"{line}\n" for line in human(_printable(value)))
        sys.stdout.write(_encodable(text, sys.stdout))
    sys.stdout.flush()


def say(line: str) -> None:
    """One line on standard error, whatever characters it holds and whether or not anybody reads it."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{_encodable(line, sys.stderr)}\n")
        sys.stderr.flush()


def say_problems(problems: Sequence[Problem], where: str = "'workbench tasks' lists them") -> None:
    """How many files were looked at and not taken, and the first of them."""
    bad = [p for p in problems if p.severity != "ignored"]
    if bad:
        more = f" and {len(bad) - 1} more ({where})" if len(bad) > 1 else ""
        say(f"{bad[0].severity}: {display(bad[0].path)}: {bad[0].reason}{more}")


def _encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _printable(value: Any) -> Any:
    """The same value with file names that any terminal and any JSON reader takes, and no NaN."""
    if isinstance(value, str):
        return display(value) if any("\ud800" <= ch <= "\udfff" for ch in value) else value
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> list[str]:
    """Rows as aligned columns, numbers to the right."""
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(head), *cells]) for i in range(len(head))]
    numeric = [all(_is_number(row[i]) for row in cells) and bool(cells) for i in range(len(head))]
    return [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)).rstrip()
        for line in [list(head), *cells]
    ]


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace(",", "").replace("-", "").isdigit()
