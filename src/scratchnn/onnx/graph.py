"""The construction of an ONNX graph, and the columns of X among its inputs."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from skl2onnx.common.data_types import StringTensorType

from ..tables.encoder import name_features


class Graph:
    """Adds nodes to an ONNX graph. Nodes read and write tensors by their names."""

    def __init__(self, scope: Any, container: Any) -> None:
        self.scope, self.container = scope, container

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        output: str = self.scope.get_unique_variable_name(operator.lower())
        name = self.scope.get_unique_operator_name(operator)
        self.container.add_node(operator, list(inputs), output, op_domain=domain, name=name, **attributes)
        return output

    def add_constant(self, values: Any, dtype: Any = None) -> str:
        """Add an array as a constant, and return its name."""
        array = np.asarray(values, dtype)
        name: str = self.scope.get_unique_variable_name("constant")
        if array.dtype.kind in "OU":
            content: Sequence[Any] = [text.encode("utf-8") for text in array.ravel()]
            self.container.add_initializer(name, TensorProto.STRING, array.shape, content)
        else:
            self.container.add_initializer(name, _find_type(array.dtype), array.shape, array.ravel())
        return name

    def cast(self, values: str, dtype: Any) -> str:
        """Return a tensor cast to a NumPy dtype."""
        return self.add("Cast", values, to=_find_type(dtype))

    def concat(self, parts: Sequence[str]) -> str:
        """Return the columns of several tensors side by side."""
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=1)

    def fill(self, values: str, is_missing: str, fill: Any) -> str:
        """Return double columns with numbers, one for all or (n_columns,), where values are missing."""
        return self.add("Where", is_missing, self.add_constant(fill, np.float64), values)

    def write(self, values: str, output: Any) -> None:
        """Make a tensor an output of the operator."""
        name = self.scope.get_unique_operator_name("Identity")
        self.container.add_node("Identity", values, output.full_name, name=name)


class Columns:
    """The columns of X among the inputs of an operator: one input holds all columns, or each holds one or more.

    Raises ValueError if the inputs do not have the columns that the network was trained on, in their order.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Any], network: Any) -> None:
        self.graph, self.inputs = graph, inputs
        n_features = network.n_features_in_
        names = getattr(network, "feature_names_in_", None)
        self.names = name_features(names, n_features)
        widths = [each.type.shape[1] for each in inputs]
        if len(inputs) == 1 and not isinstance(widths[0], int):
            widths = [n_features]
        if None in widths or sum(widths) != n_features:
            raise ValueError(
                f"The ONNX inputs must have the {n_features} columns of X, one per column or one for all, got widths "
                f"{widths}. Pass training samples to to_onnx, or initial_types for all columns."
            )
        input_names = [each.raw_name for each in inputs]
        if names is not None and sorted(input_names) == sorted(names) and input_names != list(names):
            raise ValueError(
                f"The ONNX inputs must have the order of the columns in training, {list(names)}, got {input_names}. "
                "Order the columns of X, or initial_types."
            )
        self.widths: list[int] = widths
        # For each column: the index of its input, and its place there.
        self.places = [(index, place) for index, width in enumerate(widths) for place in range(width)]

    def take(self, columns: Iterable[int]) -> tuple[str, Any]:
        """Return columns of one input as a tensor, and its type."""
        numbers, places = zip(*(self.places[column] for column in columns), strict=True)
        variable, width = self.inputs[numbers[0]], self.widths[numbers[0]]
        if len(places) == width:
            return variable.full_name, variable.type
        index = self.graph.add_constant(places, np.int64)
        return self.graph.add("Gather", variable.full_name, index, axis=1), variable.type

    def read_numbers(self, columns: Iterable[int]) -> str:
        """Return columns of numbers as doubles, (n_rows, n_columns).

        Raises TypeError if the input of a column holds text.
        """
        parts = []
        for _, group in groupby(columns, lambda column: self.places[column][0]):
            members = list(group)
            values, kind = self.take(members)
            if isinstance(kind, StringTensorType):
                raise TypeError(
                    f"Column {self.names[members[0]]!r} of X must be an ONNX input of numbers, as in training, got "
                    "text. Convert its values with astype(float), or pass initial_types with an input for each column: "
                    f"({str(self.names[members[0]])!r}, DoubleTensorType([None, 1]))."
                )
            parts.append(self.graph.cast(values, np.float64))
        return self.graph.concat(parts)


def _find_type(dtype: Any) -> int:
    """Return the code of a NumPy dtype in ONNX."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
