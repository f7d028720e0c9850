"""What devices are called, where there are too many to write every name down."""

from collections.abc import Callable, Sequence
from typing import overload


class Names(Sequence[str]):
    """Names made when they are asked for.

    Example:
      >>> people = Names(1_000_000, "home-{}".format)
      >>> people[7], people[-1], people[:2]
      ('home-7', 'home-999999', ['home-0', 'home-1'])
    """

    def __init__(self, count: int, make: Callable[[int], str]) -> None:
        self._range = range(count)
        self._make = make

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._make(i) for i in self._range[index]]
        return self._make(self._range[index])
