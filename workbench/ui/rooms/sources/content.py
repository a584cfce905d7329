"""What the grid shows: sections of pictures, filtered by words, in slices of time. No Qt."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workbench.core.values import ImageRef, Task

UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class Section:
    """One class (or the unlabelled pictures) as the grid shows it.

    Attributes:
        name: of the class.
        hue: index of its colour and shape, ``UNLABELLED`` for none.
        images: all its pictures.
        shown: which of them pass the filter, ``None`` for all.
        share: number of pictures over that of the largest class, for the bar.
    """

    name: str
    hue: int
    images: tuple[ImageRef, ...]
    shown: tuple[int, ...] | None
    share: float

    @property
    def count(self) -> int:
        """Cells of the section."""
        return len(self.images) if self.shown is None else len(self.shown)

    def image(self, cell: int) -> ImageRef:
        """The picture of a cell."""
        return self.images[cell if self.shown is None else self.shown[cell]]


def sections_of(task: Task | None) -> tuple[Section, ...]:
    """All sections, unfiltered: the classes in order, then the unlabelled pictures."""
    if task is None:
        return ()
    most = max([len(c.images) for c in task.classes] + [len(task.unlabelled), 1])
    found = [Section(c.name, i, c.images, None, len(c.images) / most) for i, c in enumerate(task.classes)]
    if task.unlabelled:
        found.append(Section("Unlabelled", UNLABELLED, task.unlabelled, None, len(task.unlabelled) / most))
    return tuple(found)


def narrow(sections: Sequence[Section], words: str, slice_s: float = 0.008) -> Iterator[tuple[Section, ...] | None]:
    """Sections whose name holds ``words``, and of the others the pictures whose file name does.

    Args:
        sections: unfiltered.
        words: looked for without regard to case; all of them must occur.
        slice_s: after this long it yields ``None``, so that the window can do something else in between.

    Yields:
        ``None`` any number of times, then the result.
    """
    wanted = words.casefold().split()
    found: list[Section] = []
    until = time.monotonic() + slice_s
    for section in sections:
        name = section.name.casefold()
        rest = [w for w in wanted if w not in name]
        if not rest:
            found.append(section)
            continue
        shown = []
        for i, image in enumerate(section.images):
            file = image.name.casefold()
            if all(w in file for w in rest):
                shown.append(i)
            if not i % 256 and time.monotonic() > until:
                yield None
                until = time.monotonic() + slice_s
        if shown:
            found.append(Section(section.name, section.hue, section.images, tuple(shown), section.share))
    yield tuple(found)


def all_items(sections: Sequence[Section]) -> Iterator[tuple[str, ImageRef]]:
    """Class name and picture of every cell, in order."""
    for section in sections:
        for cell in range(section.count):
            yield section.name, section.image(cell)


def count_marked(sections: Sequence[Section], marks: frozenset[str]) -> tuple[int, ...]:
    """How many pictures of each class are among ``marks``."""
    if not marks:
        return (0,) * len(sections)
    return tuple(sum(s.image(i).sha256 in marks for i in range(s.count)) if s.hue >= 0 else 0 for s in sections)


def same(a: Sequence[Section], b: Sequence[Section]) -> bool:
    """Whether two lists of sections show the very same pictures under the same names, without looking at each."""
    return len(a) == len(b) and all(
        x.images is y.images and x.shown == y.shown and (x.name, x.hue) == (y.name, y.hue)
        for x, y in zip(a, b, strict=True)
    )
