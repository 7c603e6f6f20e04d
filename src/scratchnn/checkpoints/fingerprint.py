"""The fingerprint of a fit: a description of its data and parameters, as plain values of the types of JSON."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse

from ..tables.arrays import Features, to_host
from ..tables.table import Table
from ..tables.targets import Labels

Description = dict[str, Any]
# Parameters that change no coefficients, but the output, the state kept after the fit, and the device.
IGNORED_PARAMETERS = {"verbose", "warm_start", "device"}
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def describe_fit(
    estimator: Any, labels: Labels, training: Table, validation: Table | None, start: list[Any] | None, seed: int
) -> Description:
    """Return the estimator, its parameters, its data, and where training starts, by name.

    ``start`` has the arrays and numbers from which training resumes, if it does. ``seed`` is the seed from
    ``random_state``. It is part of the description unless the system has drawn it.
    """
    parameters = estimator.get_params(deep=False)
    return {
        "estimator": type(estimator).__name__,
        **{name: describe_value(parameters[name]) for name in parameters if name not in IGNORED_PARAMETERS},
        "random_state": None if estimator.random_state is None else seed,
        **describe_table(training, labels),
        **describe_table(validation, labels, "_val"),
        "fitted attributes": None if start is None else _calc_digest(repr(describe_value(start))),
    }


def find_differences(here: Description, there: Description) -> list[str]:
    """Return the differences between two descriptions, with both values, as clauses of a sentence."""
    return [
        f"{name} is {here.get(name)!r} in this fit and {there.get(name)!r} in the checkpoint"
        for name in here | there
        if here.get(name) != there.get(name)
    ]


def calc_name(description: Description) -> str:
    """Return a name for files that belong to the fit described."""
    return _calc_digest(json.dumps(description, sort_keys=True))


def describe_value(value: Any) -> Any:
    """Return a value as plain values, which are the same for equal values, also in another process."""
    value = value.item() if isinstance(value, np.generic) else value
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
    return f"{value.__module__}.{value.__qualname__}, code {_calc_digest(body)}"


def describe_table(table: Table | None, labels: Labels, suffix: str = "") -> Description:
    """Return samples, targets and weights of a table, under the names of the arguments of `fit`."""
    if table is None:
        return {}
    classes = np.frombuffer(repr(labels.classes.tolist()).encode(), np.uint8)
    return {
        f"X{suffix}": _describe_arrays(table.X.shape, (block for _, block in table.split())),
        f"y{suffix}": _describe_arrays(table.y.shape, [labels.find_codes(table.y), classes]),
        f"sample_weight{suffix}": describe_value(table.sample_weights),
    }


def _describe_arrays(shape: tuple[int, ...], arrays: Iterable[Features]) -> str:
    """Return shape, type and digest of values, which come in one or more arrays."""
    digest, dtype = hashlib.blake2b(digest_size=8), ""
    for array in arrays:
        for part in [array.data, array.indices, array.indptr] if sparse.issparse(array) else [to_host(array)]:
            digest.update(part.tobytes())
            dtype = dtype or str(part.dtype)
    return f"{dtype or 'empty'} of shape {tuple(map(int, shape))}, digest {digest.hexdigest()}"


def _calc_digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
