"""How little is sent with the calls of a portion: an array that several portions have goes to each worker once.

For workers of this machine, joblib writes a large array to a file once, wherever it is. Dask and Ray would send it with
each portion, as they look at the arguments of `run_portion`, but not into its calls.
"""

import copy
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from joblib.parallel import ParallelBackendBase

from .portions import is_array


class SharedArrays:
    """The arrays that were sent to all workers of a parallel call."""

    def __init__(self) -> None:
        self.sent: dict[int, tuple[Any, Any]] = {}  # by id: an array, which keeps the id, and what stands for it

    def take_out(
        self, portions: Sequence[Sequence[Any]], backend: ParallelBackendBase
    ) -> tuple[Sequence[Sequence[Any]], list[Any]]:
        """Return portions without the arrays that several of them have, and arguments that become these arrays.

        Parameters
        ----------
        portions : sequence of sequences
            Calls of joblib's.
        backend : joblib backend
            That of the workers.
        """
        if getattr(backend, "supports_sharedmem", False):
            return portions, []
        portions, arrays = take_out_arrays(portions)
        new = [array for array in arrays if id(array) not in self.sent]
        self.sent |= {id(array): (array, sent) for array, sent in zip(new, _send(new, backend), strict=True)}
        return portions, [self.sent[id(array)][1] for array in arrays]


class RayArray:
    """Stands for an array in Ray's object store, and is unpickled as the array.

    Who has a backend of Ray has imported ray.
    """

    def __init__(self, array: Any) -> None:
        self.reference = sys.modules["ray"].put(array)

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["ray"].get, (self.reference,)


def _send(arrays: Sequence[Any], backend: ParallelBackendBase) -> Sequence[Any]:
    """Send arrays to all workers, and return what becomes the arrays as arguments of a call there."""
    if type(backend).__module__.startswith("ray."):
        return [RayArray(array) for array in arrays]
    client: Any = getattr(backend, "client", None)
    if arrays and hasattr(client, "scatter"):
        # joblib would send each to one worker, and with this worker it could be lost. Names by content (hash=True)
        # would make the next call for the same data use what this one gives up.
        futures: Sequence[Any] = client.scatter(list(arrays), broadcast=True, hash=False)
        return futures
    return arrays


@dataclass(frozen=True)
class Place:
    """Stands for an array in the arguments of a call."""

    position: int


def take_out_arrays(portions: Sequence[Sequence[Any]]) -> tuple[list[list[Any]], list[Any]]:
    """Return portions of calls with places instead of the arrays that several portions have, and these arrays."""
    found: dict[int, Any] = {}
    counts: Counter[int] = Counter()
    for calls in portions:
        own = {id(array): array for call in calls for array in _find_arrays(call)}
        found |= own
        counts.update(own.keys())
    arrays = [array for key, array in found.items() if counts[key] > 1]
    places = {id(array): Place(position) for position, array in enumerate(arrays)}
    return [_take_out(calls, places) for calls in portions], arrays


def _take_out(calls: Sequence[Any], places: dict[int, Place]) -> list[Any]:
    copies: dict[int, Any] = {}

    def take_out(value: Any) -> Any:
        context = getattr(value, "_callback_fit_ctx", None)
        if _is_idle(value):
            return _copy_without_siblings(value, copies)
        if _is_idle(context):
            if id(value) not in copies:
                copies[id(value)] = copy.copy(value)
                copies[id(value)]._callback_fit_ctx = _copy_without_siblings(context, copies)
            return copies[id(value)]
        return places.get(id(value), value)

    return [_change(call, take_out) for call in calls]


def _is_idle(value: Any) -> bool:
    """Return whether a value is scikit-learn's context of a task that has no callbacks.

    It is a node of the tree of all tasks of a search. Sent as it is, it takes the whole tree along, which nobody reads
    there. The search, an argument of its tasks, has the root. A version of scikit-learn whose contexts look otherwise
    sends them as they are.
    """
    is_context = type(value).__name__ == "CallbackContext" and not getattr(value, "_callbacks", True)
    return is_context and all(hasattr(value, name) for name in ("parent", "task_id", "_children_map"))


def _copy_without_siblings(context: Any, copies: dict[int, Any]) -> Any:
    """Return a copy whose tree has only nodes that were copied."""
    if id(context) not in copies:
        copies[id(context)] = new = copy.copy(context)
        new._children_map = {}
        if context.parent is not None:
            new.parent = _copy_without_siblings(context.parent, copies)
            new.parent._children_map[new.task_id] = new
    return copies[id(context)]


def put_back_arrays(calls: Sequence[Any], arrays: Sequence[Any]) -> Sequence[Any]:
    """Return calls with the arrays in their places."""
    if not arrays:
        return calls
    return [
        _change(call, lambda value: arrays[value.position] if isinstance(value, Place) else value) for call in calls
    ]


def _find_arrays(call: Any) -> list[Any]:
    """Return the arrays and tables of a call, also those in dictionaries, such as the parameters of ``fit``."""
    values = chain.from_iterable([*args, *kwargs.values()] for _, args, kwargs in call.items)
    flat = chain.from_iterable(value.values() if isinstance(value, dict) else [value] for value in values)
    return [value for value in flat if is_array(value)]


def _change(call: Any, change: Callable[[Any], Any]) -> Any:
    """Return a call of joblib's with changed arguments. What ``change`` returns as it is remains the same object."""

    def change_argument(value: Any) -> Any:
        if not isinstance(value, dict):
            return change(value)
        changed = {key: change(inner) for key, inner in value.items()}
        if all(changed[key] is value[key] for key in changed):
            return value
        new = copy.copy(value)
        new.update(changed)
        return new

    new = copy.copy(call)
    new.items = [
        (function, [change_argument(value) for value in args], {k: change_argument(v) for k, v in kwargs.items()})
        for function, args, kwargs in call.items
    ]
    return new
