"""The encoding of raw columns in an ONNX graph, as by `tables.encoder`."""

from typing import Any

import numpy as np
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType
from sklearn.utils.validation import check_is_fitted

from ..tables.categories import to_number, to_text
from ..tables.encoder import ColumnEncoder, find_fill
from .graph import Columns, Graph

MISSING_TEXTS = ("None", "nan", "NaN", "<NA>", "NaT")  # Python's missing values as text in onnxruntime


def encode(graph: Graph, columns: Columns, network: Any) -> str:
    """Return X encoded as by `tables.encoder.encode`, in doubles, without categories and missing values."""
    if network.encoder_ is not None:
        return _encode_table(graph, columns, network.encoder_)
    numbers = columns.read_numbers(range(network.n_features_in_))
    return graph.fill(numbers, graph.add("IsNaN", numbers), find_fill(network))


def convert_encoder(scope: Any, operator: Any, container: Any) -> None:
    """Add a `TableEncoder` to an ONNX graph."""
    graph, encoder = Graph(scope, container), operator.raw_operator
    encoded = _encode_table(graph, Columns(graph, operator.inputs, encoder), encoder.encoder_)
    graph.write(encoded, operator.outputs[0])


def calc_encoder_shapes(operator: Any) -> None:
    """Set the type and shape of the output of a `TableEncoder`."""
    check_is_fitted(operator.raw_operator)
    n_columns = int(operator.raw_operator.encoder_.starts[-1])
    operator.outputs[0].type = DoubleTensorType([operator.inputs[0].get_first_dimension(), n_columns])


def _encode_table(graph: Graph, columns: Columns, encoder: ColumnEncoder) -> str:
    for column, kind in enumerate(encoder.kinds):
        if kind in ("date", "duration"):
            raise TypeError(
                f"Column {columns.names[column]!r} of X must hold numbers or text in ONNX, which has no {kind}s. "
                "Replace it by numbers before the fit, such as its year."
            )
    parts = []
    if encoder.numbers:
        numbers = columns.read_numbers([column for column, _ in encoder.numbers])
        is_missing = graph.add("IsNaN", numbers)
        parts.append(graph.fill(numbers, is_missing, encoder.means))
        if len(encoder.missing):
            marked = graph.add_constant(encoder.missing, np.int64)
            parts.append(graph.cast(graph.add("Gather", is_missing, marked, axis=1), np.float64))
    for place, column in enumerate(encoder.categorical):
        codes = {category: code for code, category in enumerate(encoder.categories[place])}
        parts.append(_encode_category(columns, column, codes, int(np.diff(encoder.starts)[place])))
    return graph.concat(parts)


def _encode_category(columns: Columns, column: int, codes: dict[str | None, int], n_codes: int) -> str:
    """Return the one-hot encoding of a column, (n_rows, n_codes), in doubles. The last is for unknown categories."""
    graph = columns.graph
    other = len(codes) if n_codes > len(codes) else -1
    values, kind = columns.take([column])
    if isinstance(kind, StringTensorType):
        texts = _list_texts(str(columns.names[column]), codes) or {"": other}
        table = {"keys_strings": list(texts), "values_int64s": list(texts.values()), "default_int64": other}
        found = graph.add("LabelEncoder", values, domain="ai.onnx.ml", op_version=2, **table)
        return graph.cast(graph.add("Equal", found, graph.add_constant(np.arange(n_codes)[np.newaxis])), np.float64)
    numbers = {to_number(text): code for text, code in codes.items() if _is_number(text)}
    if not numbers:
        raise TypeError(
            f"Column {columns.names[column]!r} of X must be an ONNX input of text, as its categories are, got numbers. "
            "Convert its values with astype(str), or pass initial_types with an input for each column: "
            f"({str(columns.names[column])!r}, StringTensorType([None, 1]))."
        )
    is_whole = isinstance(kind, Int64TensorType) and all(isinstance(number, int) for number in numbers)
    dtype = np.int64 if is_whole else np.float32 if isinstance(kind, FloatTensorType) else np.float64
    values = graph.cast(values, dtype)
    matches = [graph.add("Equal", values, graph.add_constant([list(numbers)], dtype))]
    rows = list(numbers.values())
    if None in codes and not is_whole:
        matches.append(graph.add("IsNaN", values))
        rows.append(codes[None])
    indicator = np.eye(n_codes)[rows]  # the code of each match; ``rest`` is that of rows without one
    rest = np.arange(n_codes) == other
    found = graph.add("MatMul", graph.cast(graph.concat(matches), np.float64), graph.add_constant(indicator - rest))
    return graph.add("Add", found, graph.add_constant(rest[np.newaxis], np.float64))


def _list_texts(name: str, codes: dict[str | None, int]) -> dict[str, int]:
    """Return the code of each text in a tensor of strings, which represents missing values by some texts.

    Raises ValueError if such a text is also a category.
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


def _is_number(text: str | None) -> bool:
    """Return whether a category is a number, or reads as one."""
    number = to_number(text)
    return number is not None and bool(np.isfinite(number)) and to_text(number) == text
