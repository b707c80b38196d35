"""What checks answered, by type and name."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

__all__ = ["Results"]

T = TypeVar("T")


class Results:
    """Answers of any type; two of one type have different names, and the only one of its type may have none.

    Args:
        pairs: names and answers.
    """

    def __init__(self, pairs: Iterable[tuple[str, object]] = ()) -> None:
        self._by_type: dict[type, dict[str, Any]] = {}
        for name, answer in pairs:
            self.add(name, answer)

    def add(self, name: str, answer: object) -> None:
        """Keep one, in the place of an earlier one of the same type and name."""
        self._by_type.setdefault(type(answer), {})[name] = answer

    def of(self, kind: type[T]) -> Mapping[str, T]:
        """All of one type, by name, in the order in which they came."""
        return self._by_type.get(kind, {})

    def only(self, kind: type[T]) -> T | None:
        """The first of a type, or None."""
        return next(iter(self.of(kind).values()), None)

    def __iter__(self) -> Iterator[tuple[str, object]]:
        return iter([pair for named in self._by_type.values() for pair in named.items()])
