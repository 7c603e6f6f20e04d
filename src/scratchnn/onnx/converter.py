"""The converter that skl2onnx calls: the outputs, their shapes, and the nodes of a network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from skl2onnx._parse import _parse_sklearn_classifier  # there is no public parser
from skl2onnx.common import data_types as types
from sklearn.utils.validation import check_is_fitted

from ..estimator.attributes import read_coeffs, read_edges, read_labels, read_scales
from ..tables.arrays import Array
from ..tables.bins import LIMIT, WIDE_LIMIT, Bins
from ..tables.transform import ColumnTransform
from .encoder_graph import encode
from .graph import Columns, Graph

CPU = torch.device("cpu")
MAX_INPUT = 1e30  # of a scaled column in float32: the sums of its products with coefficients stay finite
OPTIONS = {
    "zipmap": [True, False, "columns"],
    "nocl": [True, False],
    "output_class_labels": [False, True],
    "raw_scores": [True, False],
}
OPERATORS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}  # activations with an operator of their own


def convert(scope: Any, operator: Any, container: Any) -> None:
    """Add a network to an ONNX graph, with labels and probabilities of the samples as outputs."""
    network = operator.raw_operator
    graph = Graph(scope, container)
    options = scope.get_options(network, {"nocl": False, "raw_scores": False}, fail=False)
    labels = read_labels(network)
    scaling = ColumnTransform(*read_scales(network), read_edges(network), CPU)
    encoded = encode(graph, Columns(graph, operator.inputs, network), network)
    scores = _send_forward(graph, _scale(graph, encoded, scaling), network)
    if labels.n_outputs == 1:
        scores = graph.concat([graph.add("Neg", scores), scores])
    codes = "" if labels.multilabel else graph.add("ArgMax", scores, axis=1, keepdims=0)
    dtype = np.float64 if isinstance(operator.outputs[1].type, types.DoubleTensorType) else np.float32
    scores = graph.cast(scores, dtype)
    if labels.multilabel:
        codes = graph.cast(graph.add("Greater", scores, graph.add_constant([0], dtype)), np.int64)
    elif not options["nocl"]:
        codes = graph.add("Gather", graph.add_constant(_read_classes(network)), codes)
    graph.write(codes, operator.outputs[0])
    if not options["raw_scores"]:  # two probabilities, as one minus the other would lose digits
        scores = graph.add("Softmax", scores, axis=1) if labels.output == "softmax" else graph.add("Sigmoid", scores)
    graph.write(scores, operator.outputs[1])


def parse(scope: Any, model: Any, inputs: Sequence[Any], custom_parsers: Any = None) -> Any:
    """Return the outputs that the options request. A dict for each row has floats, as the operator ZipMap requires."""
    outputs = _parse_sklearn_classifier(scope, model, inputs, custom_parsers=custom_parsers)
    if isinstance(outputs[-1].type, types.SequenceType):
        outputs[-1].set_type(types.SequenceType(types.DictionaryType(outputs[0].type, types.FloatTensorType())))
        zipmap = list(scope.operators.values())[-1]
        zipmap.inputs[1].set_type(types.FloatTensorType())
    return outputs


def calc_shapes(operator: Any) -> None:
    """Set the types and shapes of the labels, and of the probabilities: doubles if the first input has doubles."""
    network = operator.raw_operator
    check_is_fitted(network)
    labels = read_labels(network)
    n_rows, n_classes = operator.inputs[0].get_first_dimension(), len(labels.classes)
    has_codes = labels.multilabel or operator.scope_inst.get_options(network, {"nocl": False}, fail=False)["nocl"]
    is_text = not has_codes and _read_classes(network).dtype.kind == "O"
    label_type = types.StringTensorType if is_text else types.Int64TensorType
    operator.outputs[0].set_type(label_type([n_rows, n_classes] if labels.multilabel else [n_rows]))
    is_double = isinstance(operator.outputs[1].type, types.DoubleTensorType)
    operator.outputs[1].set_type((types.DoubleTensorType if is_double else types.FloatTensorType)([n_rows, n_classes]))


def _read_classes(network: Any) -> Array:
    """Return the classes in the types of ONNX: text as an array of objects, and numbers, which are whole, as int64."""
    classes = np.asarray(network.classes_)
    return classes.astype(object if classes.dtype.kind in "OUT" else np.int64)


def _scale(graph: Graph, values: str, scaling: ColumnTransform) -> str:
    """Return encoded columns transformed as by `ColumnTransform.apply`, in doubles."""
    scaled, bins = values, scaling.bins
    if scaling.factor is not None:
        scaled = graph.add("Mul", values, graph.add_constant(scaling.factor))
        if scaling.shift is not None:
            scaled = graph.add("Add", scaled, graph.add_constant(scaling.shift))
    if scaling.factor is not None:
        scaled = _clip(graph, scaled, bins, len(scaling.factor))
    if bins is None:
        return scaled
    repeated = graph.add("Gather", values, graph.add_constant(bins.of), axis=1)
    risen = graph.add("Sub", repeated, graph.add_constant(bins.low))
    risen = graph.add("Mul", risen, graph.add_constant(bins.slope))
    return graph.concat([scaled, _limit(graph, risen, 0.0, 1.0)])


def _clip(graph: Graph, scaled: str, bins: Bins | None, n_columns: int) -> str:
    """Return scaled columns clipped as by `ColumnTransform.apply`: smoothly with bins, otherwise at wide limits."""
    others = _limit(graph, scaled, -WIDE_LIMIT, WIDE_LIMIT)
    if bins is None:
        return others
    z = _limit(graph, scaled, -1e100, 1e100)
    squares = graph.add("Mul", graph.add("Mul", z, z), graph.add_constant([LIMIT**-2], np.float64))
    lengths = graph.add("Sqrt", graph.add("Add", squares, graph.add_constant([1], np.float64)))
    clipped = graph.add("Div", z, lengths)
    if bins.columns is None:
        return clipped
    is_binned = np.zeros((1, n_columns), bool)
    is_binned[0, bins.columns.numpy()] = True
    return graph.add("Where", graph.add_constant(is_binned), clipped, others)


def _limit(graph: Graph, values: str, low: float, high: float) -> str:
    """Return doubles between two limits."""
    at_least = graph.add("Max", values, graph.add_constant([low], np.float64))
    return graph.add("Min", at_least, graph.add_constant([high], np.float64))


def _send_forward(graph: Graph, inputs: str, network: Any) -> str:
    """Return the logits, (n_rows, n_outputs), in the precision of the coefficients."""
    weights, biases = read_coeffs(network, CPU)
    dtype = weights[0].numpy().dtype
    if dtype == np.float32:
        inputs = _limit(graph, inputs, -MAX_INPUT, MAX_INPUT)
    values = graph.cast(inputs, dtype)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if layer > 0:
            values = _activate(graph, values, network._activation, dtype)
        values = graph.add("Gemm", values, graph.add_constant(weight), graph.add_constant(bias))
    return values


def _activate(graph: Graph, sums: str, activation: str, dtype: Any) -> str:
    """Return the values of a hidden layer for its sums."""
    if activation == "identity":
        return sums
    if activation in OPERATORS:
        return graph.add(OPERATORS[activation], sums)
    if activation == "leaky_relu":  # the operator LeakyRelu takes no doubles
        return graph.add("Max", sums, graph.add("Mul", sums, graph.add_constant([0.01], dtype)))
    if activation == "gaussian":
        return graph.add("Exp", graph.add("Neg", graph.add("Mul", sums, sums)))
    if activation == "silu":
        return graph.add("Mul", sums, graph.add("Sigmoid", sums))
    # "gelu". The operator Erf takes no doubles.
    scaled = graph.add("Mul", sums, graph.add_constant([0.5**0.5], dtype))
    erf = graph.cast(graph.add("Erf", graph.cast(scaled, np.float32)), dtype)
    doubled = graph.add("Mul", sums, graph.add("Add", erf, graph.add_constant([1], dtype)))
    return graph.add("Mul", doubled, graph.add_constant([0.5], dtype))
