"""Values that hold tensors, kept up to a number of bytes: those longest unused go first.

Bytes are counted as values come and go, so what one of them costs does not depend on how many there are.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, ValuesView
from typing import Generic, TypeVar

from torch import Tensor

V = TypeVar("V")


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of what tensors lie in, by its address; what several of them share is there once."""
    return {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}


class Shelf(Generic[V]):
    """Values by key, for one thread.

    Args:
        held: all tensors that a value keeps alive. They stay as they are while it lies here, but for those that
            :meth:`count` is told of.

    Attributes:
        nbytes: that all of them hold together; what several share counts once.
    """

    def __init__(self, held: Callable[[V], Iterable[Tensor]]) -> None:
        self.nbytes = 0
        self._held = held
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._counted: dict[Hashable, dict[int, int]] = {}
        self._holders: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> ValuesView[V]:
        """Those longest unused first."""
        return self._values.values()

    def get(self, key: Hashable) -> V | None:
        """What lies there, which is a use of it."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: V, most: int) -> None:
        """Keep a value, and of the others no more than fit beside it in ``most`` bytes."""
        self._drop(key)
        self._values[key] = value
        self.count((key,), most)

    def count(self, keys: Iterable[Hashable], most: int) -> None:
        """Count anew those of the values that are still here, and keep no more than ``most`` bytes and one value."""
        for key in keys:
            if key not in self._values:
                continue
            self._uncount(key)
            self._counted[key] = storages(self._held(self._values[key]))
            for address, size in self._counted[key].items():
                self._holders[address] += 1
                self.nbytes += size if self._holders[address] == 1 else 0
        while len(self) > 1 and self.nbytes > most:
            self._drop(next(iter(self._values)))

    def clear(self) -> None:
        """Let go of everything."""
        for key in list(self._values):
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        self._uncount(key)
        self._values.pop(key, None)

    def _uncount(self, key: Hashable) -> None:
        for address, size in self._counted.pop(key, {}).items():
            self._holders[address] -= 1
            if not self._holders[address]:
                del self._holders[address]
                self.nbytes -= size
