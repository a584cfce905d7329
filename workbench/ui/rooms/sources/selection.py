"""Which cells are selected: plain click, Ctrl, Shift, rubber band, arrow keys. No Qt."""

from __future__ import annotations

from collections.abc import Iterable


class Selection:
    """Cells by their flat index.

    Attributes:
        chosen: the selected cells.
        current: the cell with the cursor, or ``None``.
    """

    def __init__(self) -> None:
        self.chosen: set[int] = set()
        self.current: int | None = None
        self._anchor: int | None = None
        self._before: set[int] = set()

    def clear(self) -> None:
        """Nothing is selected and there is no cursor."""
        self.chosen.clear()
        self.current = self._anchor = None

    def choose(self, cell: int, *, extend: bool = False, toggle: bool = False) -> None:
        """A click or an arrow key: one cell, or from the last one to this, or this one too."""
        if extend and self._anchor is not None:
            span = set(range(min(self._anchor, cell), max(self._anchor, cell) + 1))
            self.chosen = self.chosen | span if toggle else span
        else:
            self.chosen = self.chosen ^ {cell} if toggle else {cell}
            self._anchor = cell
        self.current = cell

    def take(self, cells: Iterable[int]) -> None:
        """Exactly these; the cursor goes to the first."""
        self.chosen = set(cells)
        if self.chosen:
            self.current = self._anchor = min(self.chosen)

    def put_cursor(self, cell: int) -> None:
        """The cursor alone moves."""
        self.current = self._anchor = cell

    def begin_band(self, *, keep: bool) -> None:
        """A rubber band begins; ``keep`` adds what it touches to what is selected."""
        self._before = set(self.chosen) if keep else set()

    def band(self, touched: list[int]) -> None:
        """The rubber band touches these now."""
        self.chosen = self._before | set(touched)
        if touched:
            self.current = touched[-1]
