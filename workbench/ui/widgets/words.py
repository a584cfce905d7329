"""Numbers and times in words, and text of a person as such, for every room alike."""

from __future__ import annotations

import html
from collections.abc import Mapping

from PySide6.QtCore import QCoreApplication

from workbench.core.context import Progress


def time_left(seconds: float) -> str:
    """A rest of time, e.g. ``35 min left``."""
    tr = QCoreApplication.translate
    if seconds < 1:
        return tr("Words", "almost done")
    if seconds < 60:
        return tr("Words", "{n} s left").format(n=round(seconds))
    minutes = round(seconds / 60)
    if minutes < 90:
        return tr("Words", "{n} min left").format(n=minutes)
    return tr("Words", "{h} h {m} min left").format(h=minutes // 60, m=minutes % 60)


def rate(progress: Progress, per_second: float) -> str:
    """A speed, e.g. ``3.1 ep/s``."""
    digits = f"{per_second:.1f}" if per_second < 100 else f"{per_second:,.0f}"
    if progress.unit == "episodes":
        return QCoreApplication.translate("Words", "{n} ep/s").format(n=digits)
    return QCoreApplication.translate("Words", "{n} {unit}/s").format(n=digits, unit=progress.unit)


def interval(low: float, high: float, digits: int = 2) -> str:
    """A 95 % interval, e.g. ``(0.71-0.94)`` with an en dash."""
    return f"({low:.{digits}f}–{high:.{digits}f})"


def count(n: int) -> str:
    """A whole number with thousands set apart."""
    return f"{n:,}"


def power(value: float) -> tuple[str, str]:
    """A small number as a figure and what stands beside it: ``3.4`` and ``x 10^-6`` with raised digits."""
    if value == 0:
        return "0", ""
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return mantissa, f"× 10{raised}"


def held_out(value: object) -> tuple[str, str]:
    """Accuracy on labelled pictures of a domain before and after, or that none is claimed; and more of it.

    Args:
        value: ``provenance["aligned"]["held_out"]``; it may come from elsewhere and be anything.
    """
    if not isinstance(value, Mapping):
        return "no accuracy claimed", "The folder has no labelled pictures to measure with"
    before, after = number(value.get("before")), number(value.get("after"))
    difference, ci = number(value.get("difference")), number(value.get("ci95"))
    if before is None or after is None or difference is None or ci is None:
        return "no accuracy claimed", ""
    words = f"{before:.3f} before, {after:.3f} after"
    # where every episode went alike there is nothing to measure an interval by
    between = f" ({signed(difference - ci)} to {signed(difference + ci)})" if ci > 0 else ""
    return words, f"Difference {signed(difference)}{between}"


def number(value: object) -> float | None:
    """A number as such, anything else as ``None``."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def signed(value: float) -> str:
    """Three digits behind the point, with a true minus."""
    return f"{value + 0.0:.3f}".replace("-0.000", "0.000").replace("-", "−")


def plain(text: str) -> str:
    """Text for a tooltip, which has no plain-text switch: what looks like markup is shown, never obeyed."""
    return f"<span>{html.escape(text)}</span>".replace("\n", "<br>") if "<" in text or "&" in text else text
