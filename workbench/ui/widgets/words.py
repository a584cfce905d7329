"""Numbers and times in words, for every room alike."""

from __future__ import annotations

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
