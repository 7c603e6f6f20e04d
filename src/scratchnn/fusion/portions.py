"""Which calls of joblib's a worker gets together."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise, zip_longest
from typing import Any

from .scheduler import Scheduler

LEAST_PORTION = 64  # a portion of fewer calls makes smaller stacks, which take longer for each model
MOST_PORTION = Scheduler.MAX_TASKS  # a worker has no more calls under way, so a larger portion would only end later


def cut_portions(calls: Sequence[Any], n_workers: int) -> list[list[int]]:
    """Return the positions of calls, in portions: large ones first.

    Calls with the same arrays, such as the candidates of a fold, make a group. If there are as many portions as groups,
    the groups are cut one after another, so that a portion has the calls of one group or two. Fewer portions are whole
    groups if the numbers allow it. Otherwise they have an equal part of each group, as parts of different sizes would
    not stack.
    """
    sizes = plan_sizes(len(calls), n_workers)
    by_arrays: dict[tuple[int, ...], list[int]] = {}
    for k, call in enumerate(calls):
        by_arrays.setdefault(identify_arrays(call), []).append(k)
    groups: Iterable[Iterable[int | None]] = by_arrays.values()
    if len(by_arrays) > len(sizes) and len(by_arrays) % len(sizes) > 0:
        groups = zip_longest(*by_arrays.values())
    order = [k for k in chain.from_iterable(groups) if k is not None]
    return [order[start:stop] for start, stop in pairwise(accumulate(sizes, initial=0))]


def plan_sizes(n_calls: int, n_workers: int) -> list[int]:
    """Return how many calls each portion has.

    Portions come in rounds, one for each worker, with half of the calls that are left. So the last portions are small,
    and no worker waits long for another that is slower, or that began again after the loss of its portion.
    """
    sizes: list[int] = []
    n_left = n_calls
    while n_left > 0:
        n_each = n_left / n_workers
        if n_each >= 2 * LEAST_PORTION:
            n_each = min(n_each / 2, MOST_PORTION)
        n_round = round(n_each * n_workers)
        bounds = [n_round * k // n_workers for k in range(n_workers + 1)]
        sizes += [stop - start for start, stop in pairwise(bounds) if stop > start]
        n_left -= n_round
    return sizes


def identify_arrays(call: Any) -> tuple[int, ...]:
    """Return which arrays, tables and lists a call of joblib's has among its arguments."""
    return tuple(id(value) for value in list_values(call) if isinstance(value, list) or is_array(value))


def list_values(call: Any) -> list[Any]:
    """Return the arguments of a call of joblib's, and the objects that its methods belong to."""
    return [
        value
        for function, args, kwargs in call.items
        for value in (getattr(function, "__self__", None), *args, *kwargs.values())
        if not isinstance(value, type)
    ]


def is_array(value: Any) -> bool:
    """Return whether a value is an array or a table."""
    return bool(getattr(value, "shape", None))
