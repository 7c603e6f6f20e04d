"""What makes two fits the same: a description of data and parameters, as plain values that JSON has, too."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from scipy import sparse

from ..tables.arrays import Array, to_host
from ..tables.table import Table
from ..tables.targets import Labels

Description = dict[str, Any]
# They change no coefficient: what is printed, what is kept after the fit, and where it is computed.
IGNORED_PARAMETERS = {"verbose", "warm_start", "device"}
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def describe_fit(
    estimator: Any, labels: Labels, training: Table, validation: Table | None, start: list[Any] | None, seed: int
) -> Description:
    """Return the estimator, its parameters, its data, and where training starts, by name.

    ``start`` has the arrays and numbers from which training resumes, if it does. ``seed`` is the one that
    ``random_state`` means. It is part of the description unless the system has drawn it.
    """
    parameters = {
        name: describe_value(value)
        for name, value in estimator.get_params(deep=False).items()
        if name not in IGNORED_PARAMETERS
    }
    return {
        "estimator": type(estimator).__name__,
        **parameters,
        "random_state": None if estimator.random_state is None else seed,
        **_describe_table(training, labels, ""),
        **_describe_table(validation, labels, "_val"),
        "fitted attributes": None if start is None else repr(describe_value(start)),
    }


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


def describe_value(value: Any) -> Any:
    """Return a value as plain values: equal for equal ones, also in another process."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {repr(describe_value(key)): describe_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [describe_value(each) for each in value]
    if isinstance(value, np.ndarray):
        return describe_value(value.tolist()) if value.dtype == object else _describe_arrays(value.shape, [value])
    code = getattr(value, "__code__", None)
    if code is None:
        return ADDRESS.sub("", repr(value))
    body = f"{code.co_code.hex()} {code.co_names} {ADDRESS.sub('', repr(code.co_consts))}"
    return f"{value.__module__}.{value.__qualname__}, code {_calc_digest([body.encode()])}"


def _describe_table(table: Table | None, labels: Labels, suffix: str) -> Description:
    """Return samples, targets and weights of a table, under the names of the arguments of `fit`."""
    names = [f"X{suffix}", f"y{suffix}", f"sample_weight{suffix}"]
    if table is None:
        return dict.fromkeys(names)
    codes = table.y if labels.multilabel else np.searchsorted(labels.classes, table.y)
    classes = np.frombuffer(repr(labels.classes.tolist()).encode(), np.uint8)
    weights = table.sample_weights
    described = [
        _describe_arrays(table.X.shape, _list_arrays(table)),
        _describe_arrays(table.y.shape, [codes, classes]),
        None if weights is None else _describe_arrays(weights.shape, [weights]),
    ]
    return dict(zip(names, described, strict=True))


def _list_arrays(table: Table) -> Iterator[Array]:
    """Yield the values of a table, a block of samples at a time."""
    for _, block in table.split():
        yield from [block.data, block.indices, block.indptr] if sparse.issparse(block) else [to_host(block)]


def _describe_arrays(shape: tuple[int, ...], arrays: Iterable[Array]) -> str:
    """Return shape, type and digest of values, which come in one or more arrays."""
    dtypes: list[str] = []

    def list_bytes() -> Iterator[bytes]:
        for array in arrays:
            dtypes[:] = dtypes or [str(array.dtype)]
            yield array.tobytes()

    digest = _calc_digest(list_bytes())
    return f"{dtypes[0] if dtypes else 'empty'} of shape {tuple(map(int, shape))}, digest {digest}"


def _calc_digest(pieces: Iterable[bytes]) -> str:
    """Return a digest of bytes: 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
