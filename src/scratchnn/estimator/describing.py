"""Descriptions of values that are equal for equal values, also in another process."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .tables import Array

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def describe_value(value: Any) -> Any:
    """Return a parameter as plain values: equal for equal parameters, also in another process."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {repr(describe_value(key)): describe_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [describe_value(each) for each in value]
    if isinstance(value, np.ndarray):
        return describe_value(value.tolist()) if value.dtype == object else describe_arrays(value.shape, [value])
    code = getattr(value, "__code__", None)
    if code is None:
        return ADDRESS.sub("", repr(value))
    body = f"{code.co_code.hex()} {code.co_names} {ADDRESS.sub('', repr(code.co_consts))}"
    return f"{value.__module__}.{value.__qualname__}, code {calc_digest([body.encode()])}"


def describe_arrays(shape: tuple[int, ...], arrays: Iterable[Array]) -> str:
    """Return shape, type and digest of values, which come in one or more arrays."""
    dtypes: list[str] = []

    def list_bytes() -> Iterator[bytes]:
        for array in arrays:
            dtypes[:] = dtypes or [str(array.dtype)]
            yield array.tobytes()

    digest = calc_digest(list_bytes())
    return f"{dtypes[0] if dtypes else 'empty'} of shape {tuple(map(int, shape))}, digest {digest}"


def calc_digest(pieces: Iterable[bytes]) -> str:
    """Return a digest of bytes: 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
