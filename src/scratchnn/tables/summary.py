"""What training must know of all samples, merged from the parts that processes have.

Each process of `data_parallel` summarizes its own samples, and the summaries are merged: classes, counts of categories,
moments, and samples from which bins and the penalty are computed. A process that fits alone has all samples, so each
function returns what it got.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from .arrays import Array, get_float_dtype
from .table import Table

T = TypeVar("T")


class Exchange(Protocol):
    """How the processes that train a model together exchange what they know. `distributed` has one."""

    rank: int

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in their order."""

    def guard(self, estimator: Any, method: str) -> AbstractContextManager[None]:
        """Return a context for a call of an estimator's method, whose error ends the call in all processes."""

    def share_archive(self, open_archive: Callable[[], Any]) -> AbstractContextManager[Any]:
        """Return a context with the file of a checkpoint, which one process opens for all."""


_exchange: Exchange | None = None


def get_exchange() -> Exchange | None:
    """Return the exchange of this process, or None if it fits alone."""
    return _exchange


def set_exchange(exchange: Exchange | None) -> None:
    """Set the exchange of this process."""
    global _exchange
    _exchange = exchange


def gather(value: T) -> list[T]:
    """Return the values of all parts, in their order."""
    return [value] if _exchange is None else _exchange.gather(value)


def locate(n_samples: int) -> tuple[int, int]:
    """Return how many samples there are in the parts before this one, and in all parts."""
    counts, rank = gather(n_samples), 0 if _exchange is None else _exchange.rank
    return sum(counts[:rank]), sum(counts)


def draw_rows(n_rows: int, n_most: int) -> slice | Array:
    """Return which of its ``n_rows`` this part contributes to a sample of all parts' rows: always the same ones.

    The sample has all rows, or ``n_most`` drawn at random: evenly spaced ones may all be of one kind.
    """
    n_before, n_all = locate(n_rows)
    if n_all <= n_most:
        return slice(None)
    drawn = np.sort(np.random.default_rng(0).choice(n_all, n_most, replace=False)) - n_before
    return drawn[(drawn >= 0) & (drawn < n_rows)]


def merge_flags(flag: bool) -> bool:
    """Return whether the flag is set in any part."""
    return any(gather(flag))


def join_samples(values: Tensor) -> Tensor:
    """Return the samples of all parts, in their order, on the device of ``values``."""
    if _exchange is None:
        return values
    return torch.cat([torch.from_numpy(each) for each in gather(values.cpu().numpy())]).to(values.device)


@dataclass(frozen=True)
class SampleCounts:
    """How many samples all parts have, with their weights, and the dtype that holds the values of X."""

    n_samples: int
    weight: float  # of all samples, each 1 where there are no weights
    dtype: np.dtype[Any]

    @property
    def weight_mean(self) -> float:
        """The mean weight of the samples."""
        return self.weight / self.n_samples if self.n_samples else 1.0


def count_samples(table: Table) -> SampleCounts:
    """Return the counts of the samples of all parts, of which this process has ``table``."""
    weight = float(len(table) if table.sample_weights is None else table.sample_weights.sum())
    counts, weights, dtypes = zip(*gather((len(table), weight, get_float_dtype(table.X))), strict=True)
    return SampleCounts(sum(counts), sum(weights), np.result_type(*dtypes))


def complete_weights(table: Table) -> Table:
    """Return the samples of this process, each with a weight of 1 if only other parts have weights."""
    if not merge_flags(table.sample_weights is not None) or table.sample_weights is not None:
        return table
    return replace(table, sample_weights=np.ones(len(table)))


def check_form(*form: str) -> None:
    """Raise ValueError if X and y, described by ``form``, do not have the same form in all parts."""
    forms = [", ".join(each) for each in gather(form)]
    for rank, other in enumerate(forms):
        if other != forms[0]:
            raise ValueError(
                f"X and y must have the same columns in all processes of data_parallel, got {forms[0]} in rank 0; and "
                f"{other} in rank {rank}. Pass parts of one table."
            )


def merge_classes(classes: Array) -> Array:
    """Return the classes that the targets of any part have, sorted."""
    found = gather(classes)
    if len({each.dtype.kind in "biuf" for each in found}) > 1:
        raise ValueError(
            f"y must be of one type in all processes of data_parallel, got {[str(each.dtype) for each in found]}. "
            "Pass numbers or strings in all of them."
        )
    return classes if len(found) == 1 else np.unique(np.concatenate(found))


def merge_class_weights(y: Array, sample_weights: Array | None) -> tuple[Array, Array]:
    """Return the classes in a column of targets of all parts, and the whole weight of each, (n_classes,) both."""
    own, codes = np.unique(y, return_inverse=True)
    found, weights = map(np.concatenate, zip(*gather((own, np.bincount(codes, sample_weights))), strict=True))
    classes, codes = np.unique(found, return_inverse=True)
    return classes, np.bincount(codes, weights)


@dataclass(eq=False)
class ColumnSummary:
    """What an encoder learns of raw columns: moments and range of the numbers, and the counts of categories by text."""

    n_samples: int
    sums: Array  # (n_numbers,), as all that follow: of the values that are there, times their weights
    weights: Array
    n_values: Array
    low: Array
    high: Array
    counts: list[Counter[str | None]]  # of each column of categories; None stands for missing values
    are_numbers: list[bool]  # whether all its categories are numbers

    @property
    def means(self) -> Array:
        """The means of the numbers, 0 of columns without values."""
        return np.asarray(self.sums / np.where(self.weights > 0, self.weights, 1.0))

    @property
    def is_incomplete(self) -> Array:
        """Which columns of numbers lack values."""
        return self.n_values < self.n_samples

    def merge(self, other: "ColumnSummary") -> None:
        """Add the samples of another part, in place."""
        self.n_samples += other.n_samples
        self.sums, self.weights = self.sums + other.sums, self.weights + other.weights
        self.n_values = self.n_values + other.n_values
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.are_numbers = [own and more for own, more in zip(self.are_numbers, other.are_numbers, strict=True)]


def merge_columns(
    numbers: Array, counts: list[Counter[str | None]], are_numbers: list[bool], sample_weights: Array | None = None
) -> ColumnSummary:
    """Return the summary of columns of all parts, of whose numbers, (n_samples, n_numbers), NaN are missing."""
    is_there = ~np.isnan(numbers)
    present = np.where(is_there, numbers, 0)
    sums, weights = present.sum(0, dtype=np.float64), is_there.sum(0)
    if sample_weights is not None:
        sums, weights = sample_weights @ present, sample_weights @ is_there
    low = np.where(is_there, numbers, np.inf).min(0, initial=np.inf)
    high = np.where(is_there, numbers, -np.inf).max(0, initial=-np.inf)
    own = ColumnSummary(len(numbers), sums, weights, is_there.sum(0), low, high, counts, are_numbers)
    merged, *others = gather(own)
    for other in others:
        merged.merge(other)
    return merged
