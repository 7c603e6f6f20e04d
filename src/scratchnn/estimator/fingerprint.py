"""What makes two fits the same: a description of data and parameters, as plain values that JSON has, too."""

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from .describing import calc_digest, describe_arrays, describe_value
from .fitted import State
from .labels import Labels
from .tables import Array, Table, to_host

if TYPE_CHECKING:
    from .fitting import Call, Tables

Description = dict[str, Any]
# They change no coefficient: what is printed, what is kept after the fit, and where it is computed.
IGNORED_PARAMETERS = {"verbose", "warm_start", "device"}


def describe_fit(call: "Call", tables: "Tables", seed: int) -> Description:
    """Return the estimator, its parameters, the data of all processes, and where training starts, by name.

    ``seed`` is the one that ``random_state`` means. It is part of the description unless the system has drawn it.
    """
    estimator = call.estimator
    parameters = {
        name: describe_value(value)
        for name, value in estimator.get_params(deep=False).items()
        if name not in IGNORED_PARAMETERS
    }
    own = {
        **_describe_table(tables.training, call.labels, ""),
        **_describe_table(tables.validation, call.labels, "_val"),
        "fitted attributes": _describe_start(estimator) if call.resume else None,
    }
    description = {
        "estimator": type(estimator).__name__,
        **parameters,
        "random_state": None if estimator.random_state is None else seed,
        "number of processes": call.ranks.size,
    }
    for rank, described in enumerate(call.ranks.gather(own)):
        description |= {f"{name} in rank {rank}" if rank else name: value for name, value in described.items()}
    return description


def find_differences(here: Description, there: Description) -> list[str]:
    """Return what differs between two descriptions, with both values, as clauses of a sentence."""
    return [
        f"{name} is {here.get(name)!r} in this fit and {there.get(name)!r} in the checkpoint"
        for name in here | there
        if here.get(name) != there.get(name)
    ]


def calc_name(description: Description) -> str:
    """Return a name for files that belong to the fit described."""
    return hashlib.blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=16).hexdigest()


def _describe_table(table: Table | None, labels: Labels, suffix: str) -> Description:
    """Return rows, targets and weights of a table, under the names of the arguments of `fit`."""
    names = [f"X{suffix}", f"y{suffix}", f"sample_weight{suffix}"]
    if table is None:
        return dict.fromkeys(names)
    codes = table.y if labels.multilabel else np.searchsorted(labels.classes, table.y)
    classes = np.frombuffer(repr(labels.classes.tolist()).encode(), np.uint8)
    weights = None if table.weights is None else describe_arrays(table.weights.shape, [table.weights])
    described = [
        describe_arrays(table.X.shape, _list_arrays(table)),
        describe_arrays(table.y.shape, [codes, classes]),
        weights,
    ]
    return dict(zip(names, described, strict=True))


def _list_arrays(table: Table) -> Iterator[Array]:
    """Yield the values of a table, a block of rows at a time."""
    for _, block in table.split():
        yield from [block.data, block.indices, block.indptr] if sparse.issparse(block) else [to_host(block)]


def _describe_start(estimator: Any) -> str:
    """Return a digest of the fitted attributes and of the state from which a call resumes."""
    arrays = [*estimator.coefs_, *estimator.intercepts_, estimator.mean_, estimator.scale_, estimator.bin_edges_]
    numbers: list[Any] = [getattr(estimator, "t_", None), getattr(estimator, "loss_curve_", None)]
    state: State | None = getattr(estimator, "_state", None)
    if state is not None:
        history = state.history
        arrays += [*state.solver_state.values(), state.generator_state, state.flat]
        numbers += [state.seed, state.solver, history.best_loss, history.best_score, history.n_no_change]
        numbers += [history.n_updates, history.rate]
    values = [to_host(array) for array in arrays if array is not None]
    return calc_digest([*(value.tobytes() for value in values), repr(numbers).encode()])
