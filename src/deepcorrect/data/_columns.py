"""Columns of labels and names that need little memory for millions of rows.

They behave like sequences and compare equal to lists. Forked processes read them without copies,
whereas a list of Python objects is copied page by page as its reference counts change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np

T = TypeVar("T")


class Column(Sequence[T], ABC):
    """A sequence from which any rows can be taken as a column of the same kind."""

    @abstractmethod
    def at(self, row: int) -> T:
        """The value of one row, from 0 to len - 1."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> Column[T]:
        """The column of the values at `rows`, in that order."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Column[T]: ...
    def __getitem__(self, index: int | slice) -> T | Column[T]:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(index)
        return self.at(row)

    def __iter__(self) -> Iterator[T]:
        return (self.at(row) for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(value) for value in self[:6])
        return f"[{shown}{', ...' if len(self) > 6 else ''}]"


class IntegerColumn(Column[int]):
    """Integers of 32 bits.

    Args:
        values: Integers that fit into 32 bits.

    Example:
        >>> from deepcorrect.data import IntegerColumn
        >>> IntegerColumn([3, 1, 2])[::2] == [3, 2]
        True
    """

    def __init__(self, values: Iterable[int] | np.ndarray) -> None:
        given = values if isinstance(values, np.ndarray) else np.fromiter(values, np.int64)
        self.array = given.astype(np.int32, copy=False)

    def __len__(self) -> int:
        return len(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype or np.int64, copy=True if copy is None else copy)

    def at(self, row: int) -> int:
        return int(self.array[row])

    def __iter__(self) -> Iterator[int]:
        return iter(self.array.tolist())

    def take(self, rows: np.ndarray) -> IntegerColumn:
        return IntegerColumn(self.array[rows])


class StringColumn(Column[str]):
    """Strings in one UTF-8 buffer, with the offsets at which each of them starts and ends.

    A column of some of the rows shares the buffer.

    Args:
        values: Any strings, including file names that are not valid Unicode (surrogate escapes).

    Example:
        >>> from deepcorrect.data import StringColumn
        >>> names = StringColumn(f"image_{number}.png" for number in range(1000))
        >>> names[7], names[998:]
        ('image_7.png', ['image_998.png', 'image_999.png'])
    """

    def __init__(self, values: Iterable[str]) -> None:
        content, ends = bytearray(), array("q")
        for value in values:
            content += value.encode("utf-8", "surrogateescape")
            ends.append(len(content))
        self.content = np.frombuffer(bytes(content), np.uint8)
        self.ends = np.array(ends, np.int64)
        self.starts = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def at(self, row: int) -> str:
        part = self.content[self.starts[row] : self.ends[row]].tobytes()
        return part.decode("utf-8", "surrogateescape")

    def take(self, rows: np.ndarray) -> StringColumn:
        taken = StringColumn(())
        taken.content, taken.starts, taken.ends = self.content, self.starts[rows], self.ends[rows]
        return taken


class NumberedNames(Column[str]):
    """Names that differ only by a number: `before`, the number, `after`.

    Args:
        before: The text before the number.
        count: How many names to number from 0; or an array of the numbers.
        after: The text after the number.

    Example:
        >>> from deepcorrect.data import NumberedNames
        >>> NumberedNames("row ", 3, " of digits")[2]
        'row 2 of digits'
    """

    def __init__(self, before: str, count: int | np.ndarray, after: str = "") -> None:
        self.before, self.after = before, after
        self.numbers = np.arange(count) if isinstance(count, int) else count

    def __len__(self) -> int:
        return len(self.numbers)

    def at(self, row: int) -> str:
        return f"{self.before}{self.numbers[row]}{self.after}"

    def take(self, rows: np.ndarray) -> NumberedNames:
        return NumberedNames(self.before, self.numbers[rows], self.after)
