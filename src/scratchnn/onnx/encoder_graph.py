"""Raw columns to numbers, in an ONNX graph: what `estimator.encoding` does."""

from typing import Any

import numpy as np
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.preprocessing import OneHotEncoder

from ..tables.dataframe import to_text
from ..tables.encoder import TableEncoder, find_fill
from .graph import Columns, Graph

MISSING_TEXTS = ("None", "nan", "NaN", "<NA>", "NaT")  # what onnxruntime makes of Python's missing values


def encode(graph: Graph, columns: Columns, network: Any) -> str:
    """Return what `encoding.encode` makes of X, in doubles: no categories, no missing values."""
    encoder: TableEncoder | None = network.encoder_
    if encoder is None:
        numbers = columns.read_numbers(range(network.n_features_in_))
        return graph.fill(numbers, graph.add("IsNaN", numbers), find_fill(network))
    parts = []
    imputer, one_hot = encoder.imputer_, encoder.one_hot_
    if imputer is not None:
        numbers = columns.read_numbers(np.flatnonzero(~encoder.is_categorical).tolist())
        is_missing = graph.add("IsNaN", numbers)
        parts.append(graph.fill(numbers, is_missing, imputer.statistics_))
        if len(imputer.indicator_.features_):
            marked = graph.add_constant(imputer.indicator_.features_, np.int64)
            parts.append(graph.cast(graph.add("Gather", is_missing, marked, axis=1), np.float64))
    for place, column in enumerate(np.flatnonzero(encoder.is_categorical).tolist()):
        parts.append(_encode_category(columns, column, _list_codes(one_hot, place)))
    return graph.concat(parts)


def _list_codes(one_hot: OneHotEncoder, place: int) -> dict[str | None, int]:
    """Return the column of each category of a raw column, by its text, or None for missing values."""
    infrequent = one_hot.infrequent_categories_[place]
    rare = set() if infrequent is None else set(infrequent.tolist())
    categories = one_hot.categories_[place].tolist()
    frequent = [category for category in categories if category not in rare]
    return {category: code for code, category in enumerate(frequent)} | {category: len(frequent) for category in rare}


def _encode_category(columns: Columns, column: int, codes: dict[str | None, int]) -> str:
    """Return a column of zeros and ones for each code, (n_rows, n_codes), in doubles: zeros for unknown categories."""
    graph = columns.graph
    values, kind = columns.take([column])
    n_codes = max(codes.values()) + 1
    if isinstance(kind, StringTensorType):
        texts = _list_texts(str(columns.names[column]), codes)
        found = graph.add(
            "LabelEncoder",
            values,
            domain="ai.onnx.ml",
            op_version=2,
            keys_strings=list(texts),
            values_int64s=list(texts.values()),
            default_int64=-1,
        )
        return graph.cast(graph.add("Equal", found, graph.add_constant(np.arange(n_codes)[np.newaxis])), np.float64)
    numbers = {float(text): code for text, code in codes.items() if text is not None and _is_number(text)}
    if not numbers:
        raise TypeError(
            f"Column {columns.names[column]!r} of X must be an ONNX input of text, as its categories are, got numbers. "
            "Convert its values with astype(str), or pass initial_types with an input for each column: "
            f"({str(columns.names[column])!r}, StringTensorType([None, 1]))."
        )
    dtype = np.float32 if isinstance(kind, FloatTensorType) else np.float64
    values = graph.cast(values, dtype)
    is_equal = graph.add("Equal", values, graph.add_constant([list(numbers)], dtype))
    matches = graph.cast(graph.concat([is_equal, graph.add("IsNaN", values)]), np.float64)
    indicator = np.zeros((len(numbers) + 1, n_codes))  # which code each number has, and a missing one
    indicator[np.arange(len(numbers)), list(numbers.values())] = 1
    if None in codes:
        indicator[-1, codes[None]] = 1
    return graph.add("MatMul", matches, graph.add_constant(indicator))


def _list_texts(name: str, codes: dict[str | None, int]) -> dict[str, int]:
    """Return the code of each text in a tensor of strings, which knows no missing values: some texts stand for them.

    Raises
    ------
    ValueError
        If such a text is a category, too.
    """
    texts = {text: code for text, code in codes.items() if text is not None}
    if None not in codes:
        return texts
    ambiguous = sorted(set(MISSING_TEXTS) & set(texts))
    if ambiguous:
        raise ValueError(
            f"Column {name!r} of X must not have both missing values and the category {ambiguous[0]!r}, as a missing "
            "value is the same text in ONNX. Rename the category, or fill the missing values, and fit again."
        )
    return dict.fromkeys(("", *MISSING_TEXTS), codes[None]) | texts


def _is_number(text: str) -> bool:
    """Return whether `to_text` makes this text of a number."""
    try:
        return np.isfinite(float(text)) and to_text(float(text)) == text
    except ValueError:
        return False
