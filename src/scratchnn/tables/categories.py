"""The categories of a column: those with a feature, the codes of values, and problems of columns of text."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from .arrays import Array
from .dataframe import NUMBER_TYPES, is_missing

MIN_ROWS = 2  # of a category with a feature of its own
MAX_CATEGORIES = 100  # features of a column: the most frequent categories, and one for all others
MIN_TEXTS = 20  # distinct ones in a column that reads as numbers or dates: fewer are meant as categories
MIN_SHARE = 0.8  # of values that read as numbers or dates
DATE = re.compile(r"\d{4}-\d\d?-\d\d?([ T].*)?|\d\d?([./-])\d\d?\2\d{2,4}([ T].*)?")

Counts = Counter[str | None]


@dataclass(frozen=True, eq=False)
class CodedRows:
    """Rows of numbers and category codes. An index returns dense rows: the numbers, and the one-hot encoded codes.

    ``numbers`` are (n_rows, n_numbers), and ``codes`` (n_rows, n_categorical), -1 for no category. ``starts``,
    (n_categorical + 1,), are the first feature of each column of categories, and the number of all features.
    """

    numbers: Array
    codes: Array
    starts: Array
    dtype = np.dtype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and the number of features."""
        return len(self.codes), int(self.starts[-1])

    def __getitem__(self, rows: Any) -> Array:
        """Return rows, (n_taken, n_features)."""
        codes = self.codes[rows]
        result = np.zeros((len(codes), self.shape[1]))
        result[:, : self.numbers.shape[1]] = self.numbers[rows]
        row_starts = np.arange(0, result.size, self.shape[1])[:, np.newaxis]
        result.reshape(-1)[(row_starts + self.starts[:-1] + codes)[codes >= 0]] = 1
        return result


def to_text(value: Any) -> str | None:
    """Return the text of a category, the same for equal numbers. None if the value is missing."""
    if is_missing(value):
        return None
    if not isinstance(value, NUMBER_TYPES):
        return str(value)
    number: Any = value
    try:
        return str(int(number)) if number == int(number) else repr(float(number))
    except OverflowError:  # of infinity
        return str(value)


def to_number(text: str | None) -> float | None:
    """Return the number that a text represents, integers to their last digit; None if there is no such number."""
    for read in (int, float):
        try:
            return read(text or "")
        except ValueError:
            continue
    return None


def count_categories(codes: Array, values: Sequence[Any]) -> Counts:
    """Return the number of rows of each category, by its text, and of missing values, by None."""
    counts: Counts = Counter()
    for value, count in zip(values, np.bincount(codes, minlength=len(values)).tolist(), strict=True):
        if count:
            counts[to_text(value)] += count
    return counts


def choose_categories(counts: Counts) -> list[str | None]:
    """Return the frequent categories, sorted, None last."""
    categories = sorted(counts, key=lambda text: (text is None, text or ""))
    sizes = np.array([counts[each] for each in categories])
    is_frequent = sizes >= MIN_ROWS
    if is_frequent.sum() + 1 > MAX_CATEGORIES:
        is_frequent[np.argsort(sizes, kind="stable")[: 1 - MAX_CATEGORIES]] = False
    return list(compress(categories, is_frequent))


def find_codes(values: Sequence[Any], categories: Sequence[str | None], is_numeric: bool, other: int) -> Array:
    """Return the index of each value among the categories, (n_values,), or ``other``.

    Text is compared with text, and numbers by value: 1, 1.0 and True are equal. If the categories are numbers
    (``is_numeric``), "1.0" is the number 1. A number is also equal to a category of text that represents it.
    """
    places = {category: place for place, category in enumerate(categories)}
    by_number: dict[Any, int] | None = None
    codes = np.full(len(values), other, np.int8)
    for row, value in enumerate(values):
        text = to_text(value)
        place = places.get(text)
        if place is None and text is not None and (is_numeric or isinstance(value, NUMBER_TYPES)):
            if by_number is None:
                by_number = {to_number(each): place for each, place in reversed(places.items())}
            number = to_number(text)
            place = None if number is None else by_number.get(number)
        codes[row] = other if place is None else place
    return codes


def describe_problem(counts: Counts, categories: Sequence[str | None], is_chosen: bool) -> str | None:
    """Return the problem of a column of categories: numbers, dates, or mostly infrequent. None if there is none.

    Text that the user has chosen as categories may read as numbers or dates.
    """
    n_rows = counts.total() - counts[None]
    if not n_rows:
        return "no values"
    if not is_chosen and len(counts) > MIN_TEXTS:
        found = {
            "reads as numbers": sum(n for text, n in counts.items() if to_number(text) is not None),
            "reads as dates": sum(n for text, n in counts.items() if text and DATE.fullmatch(text.strip())),
        }
        for problem, count in found.items():
            if count >= MIN_SHARE * n_rows:
                return f"{problem} in {count:,} of {n_rows:,} rows"
    n_frequent = sum(counts[text] for text in categories if text is not None)
    if not n_frequent and n_rows > 1:
        return "all values different: counts for nothing"
    return f"{n_rows - n_frequent:,} of {n_rows:,} values are infrequent" if n_frequent < 0.5 * n_rows else None
