"""Where everything lies in a grid of thumbnails with class headers: pure arithmetic, O(classes) to build. No Qt."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HEADER = 36
GAP = 8
MARGIN = 16
EDGE = 4


@dataclass(frozen=True, slots=True)
class Row:
    """A visible row of cells: section, first and last+1 cell, top in content pixels."""

    section: int
    first: int
    last: int
    top: int


@dataclass(frozen=True, slots=True)
class Hit:
    """What lies under a point: a header, or a cell (flat index) of a section."""

    section: int
    cell: int | None


class GridLayout:
    """Sections of cells, one under another, each under a header of 36 px.

    Cells are numbered through all sections (flat index), collapsed sections keep their numbers but take no space.

    Args:
        counts: cells per section.
        collapsed: sections of which only the header shows.
        width: of the viewport, px.
        cell: side of a cell, px.
    """

    def __init__(self, counts: Sequence[int], collapsed: frozenset[int], width: int, cell: int) -> None:
        self.counts = tuple(counts)
        self.collapsed = collapsed
        self.cell = cell
        self.pitch = cell + GAP
        self.columns = max(1, (width - MARGIN - EDGE + GAP) // self.pitch)
        self.starts = [0]
        self.tops: list[int] = []
        top = 0
        for section, n in enumerate(self.counts):
            self.tops.append(top)
            self.starts.append(self.starts[-1] + n)
            top += HEADER
            if section not in collapsed:
                top += self.pitch * -(-n // self.columns)
        self.height = top + (GAP if self.counts else 0)

    @property
    def cells(self) -> int:
        """Number of cells in all sections."""
        return self.starts[-1]

    def section_of(self, flat: int) -> int:
        """The section that a cell belongs to."""
        return bisect.bisect_right(self.starts, flat) - 1

    def position(self, flat: int) -> tuple[int, int]:
        """Left and top of a cell, in content pixels."""
        section = self.section_of(flat)
        row, column = divmod(flat - self.starts[section], self.columns)
        return MARGIN + column * self.pitch, self.tops[section] + HEADER + row * self.pitch

    def sections(self, top: int, bottom: int) -> range:
        """Sections that touch a strip of content."""
        if not self.tops:
            return range(0)
        first = max(0, bisect.bisect_right(self.tops, top) - 1)
        return range(first, bisect.bisect_left(self.tops, bottom, lo=first))

    def rows(self, top: int, bottom: int) -> Iterator[Row]:
        """Rows of cells that touch a strip of content, from the top down."""
        for section in self.sections(top, bottom):
            n = self.counts[section]
            if section in self.collapsed or not n:
                continue
            begin = self.tops[section] + HEADER
            first = max(0, (top - begin) // self.pitch)
            last = min(-(-n // self.columns), (bottom - begin) // self.pitch + 1)
            start = self.starts[section]
            for row in range(first, last):
                a = row * self.columns
                yield Row(section, start + a, start + min(n, a + self.columns), begin + row * self.pitch)

    def sticky(self, scroll: int) -> tuple[int, int] | None:
        """The header that stays at the top: its section and its top in content pixels (the next one pushes it)."""
        if not self.tops or scroll < 0:
            return None
        section = max(0, bisect.bisect_right(self.tops, scroll) - 1)
        top = scroll
        if section + 1 < len(self.tops):
            top = min(top, self.tops[section + 1] - HEADER)
        return section, top

    def at(self, x: int, y: int, scroll: int = 0) -> Hit | None:
        """What lies at a point of the content; ``scroll`` lets the sticky header cover what is under it."""
        stuck = self.sticky(scroll)
        if stuck is not None and stuck[1] <= y < stuck[1] + HEADER:
            return Hit(stuck[0], None)
        if not self.tops or not 0 <= y < self.height:
            return None
        section = max(0, bisect.bisect_right(self.tops, y) - 1)
        down = y - self.tops[section]
        if down < HEADER:
            return Hit(section, None)
        row, inside_y = divmod(down - HEADER, self.pitch)
        column, inside_x = divmod(x - MARGIN, self.pitch)
        index = row * self.columns + column
        if x < MARGIN or column >= self.columns or index >= self.counts[section] or section in self.collapsed:
            return None
        if inside_x >= self.cell or inside_y >= self.cell:
            return None
        return Hit(section, self.starts[section] + index)

    def inside(self, left: int, top: int, right: int, bottom: int) -> list[int]:
        """Cells that a rubber band touches."""
        found: list[int] = []
        first = max(0, (left - MARGIN + GAP) // self.pitch)
        last = min(self.columns - 1, (right - MARGIN) // self.pitch)
        if right < MARGIN or last < first:
            return found
        for row in self.rows(max(0, top), bottom + 1):
            if row.top <= bottom and row.top + self.cell >= top:
                found.extend(range(row.first + first, min(row.last, row.first + last + 1)))
        return found

    def step(self, flat: int, across: int, down: int) -> int:
        """The cell an arrow key leads to, over section borders and past collapsed sections; the same one at an end."""
        if across:
            return self._skip(flat, across)
        section = self.section_of(flat)
        row, column = divmod(flat - self.starts[section], self.columns)
        n = self.counts[section]
        rows = -(-n // self.columns)
        if 0 <= row + down < rows:
            return self.starts[section] + min(n - 1, (row + down) * self.columns + column)
        other = section + (1 if down > 0 else -1)
        while 0 <= other < len(self.counts):
            m = self.counts[other]
            if m and other not in self.collapsed:
                begin = 0 if down > 0 else (-(-m // self.columns) - 1) * self.columns
                return self.starts[other] + min(m - 1, begin + column)
            other += 1 if down > 0 else -1
        return flat

    def _skip(self, flat: int, across: int) -> int:
        target = flat + across
        while 0 <= target < self.cells:
            section = self.section_of(target)
            if section not in self.collapsed:
                return target
            target = self.starts[section + 1] if across > 0 else self.starts[section] - 1
        return flat

    def end(self, first: bool) -> int | None:
        """The first or the last cell that can be seen, or ``None``."""
        order = range(len(self.counts)) if first else range(len(self.counts) - 1, -1, -1)
        for section in order:
            if self.counts[section] and section not in self.collapsed:
                return self.starts[section] if first else self.starts[section + 1] - 1
        return None
