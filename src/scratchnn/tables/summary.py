"""What training must know of the samples of all processes.

Each process of `data_parallel` has a part of the samples. The processes exchange what they know of their parts, and
merge it: classes, counts of categories, moments, and samples for bins and the penalty. A process that fits alone has
all samples, so each function returns what it got.
"""

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
    """How the processes that train a model together exchange values. `distributed` has one."""

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
    """Return the values of all parts, in the order of the processes."""
    return [value] if _exchange is None else _exchange.gather(value)


def locate(n_samples: int) -> tuple[int, int]:
    """Return how many samples the parts before this one have, and all parts."""
    counts, rank = gather(n_samples), 0 if _exchange is None else _exchange.rank
    return sum(counts[:rank]), sum(counts)


def draw_rows(n_rows: int, max_rows: int) -> slice | Array:
    """Return which of its ``n_rows`` this part contributes to a sample of the rows of all parts, the same each time.

    The sample has at most ``max_rows`` rows. They are drawn at random, as evenly spaced ones may all be of one kind.
    """
    n_before, n_all = locate(n_rows)
    if n_all <= max_rows:
        return slice(None)
    drawn = np.sort(np.random.default_rng(0).choice(n_all, max_rows, replace=False)) - n_before
    return drawn[(drawn >= 0) & (drawn < n_rows)]


def merge_flags(flag: bool) -> bool:
    """Return whether the flag is set in any part."""
    return any(gather(flag))


def join_samples(values: Tensor) -> Tensor:
    """Return the samples of all parts, in the order of the processes, on the device of ``values``."""
    if _exchange is None:
        return values
    return torch.cat([torch.from_numpy(each) for each in gather(values.cpu().numpy())]).to(values.device)


@dataclass(frozen=True)
class SampleCounts:
    """How many samples all parts have, the sum of their weights, and the dtype that holds the values of X."""

    n_samples: int
    weight: float  # each sample counts as 1 if there are no weights
    dtype: np.dtype[Any]

    @property
    def weight_mean(self) -> float:
        """The mean weight of the samples."""
        return self.weight / self.n_samples if self.n_samples else 1.0


def count_samples(table: Table) -> SampleCounts:
    """Return the counts of the samples of all parts, of which this process has ``table``."""
    own = len(table), float(table.weights_or_ones.sum()), get_float_dtype(table.X)
    counts, weights, dtypes = zip(*gather(own), strict=True)
    return SampleCounts(sum(counts), sum(weights), np.result_type(*dtypes))


def complete_weights(table: Table) -> Table:
    """Return the samples of this process, each with a weight of 1 if only other parts have weights."""
    has_weights = merge_flags(table.sample_weights is not None)
    return replace(table, sample_weights=table.weights_or_ones) if has_weights else table


def check_form(*form: str) -> None:
    """Raise ValueError if X and y, described by ``form``, do not have the same form in all parts."""
    forms = [", ".join(each) for each in gather(form)]
    for rank, other in enumerate(forms):
        if other != forms[0]:
            raise ValueError(
                f"X and y must have the same columns in all processes of data_parallel, got {forms[0]} in rank 0; and "
                f"{other} in rank {rank}. Pass parts of one table."
            )
