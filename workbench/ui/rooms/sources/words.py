"""Numbers and lists in words."""

from __future__ import annotations

from collections.abc import Sequence


def count(n: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 image", "1,040 images"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names as a sentence part: "a", "a and b", "a, b, c and 4 more"."""
    shown = list(names[:most])
    rest = len(names) - len(shown)
    if rest:
        shown.append(f"{rest:,} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
