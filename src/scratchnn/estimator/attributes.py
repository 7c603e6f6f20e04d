"""Conversion of coefficients to fitted attributes, and back."""

from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ..tables.arrays import Array, ArrayLibrary, has_own_library, to_host, to_tensor
from ..tables.bins import count_bins, name_bins
from ..tables.encoder import count_columns, has_categories, name_columns, name_features
from ..tables.statistics import ColumnStatistics
from ..tables.targets import Labels
from ..training import TrainingRun
from ..training.buffers import Buffer


def store_coeffs(
    estimator: Any,
    buffer: Buffer,
    labels: Labels,
    statistics: ColumnStatistics,
    array_library: ArrayLibrary | None = None,
) -> None:
    """Set the attributes for predictions. Arrays except ``classes_`` are of ``array_library`` (None: NumPy)."""
    estimator.classes_ = labels.classes
    estimator.out_activation_ = labels.output
    estimator.n_outputs_ = labels.n_outputs
    estimator.n_layers_ = len(buffer.sizes)
    estimator.mean_, estimator.scale_, estimator.bin_edges_ = statistics.mean, statistics.scale, statistics.edges
    estimator.coefs_, estimator.intercepts_ = buffer_to_arrays(buffer, statistics.columns, statistics.n_features)
    estimator._activation, estimator._cache = buffer.activation, {}
    if array_library is not None:
        for name in ("mean_", "scale_", "bin_edges_"):
            value = getattr(estimator, name)
            setattr(estimator, name, None if value is None else array_library.convert(value))
        estimator.coefs_, estimator.intercepts_ = (
            [array_library.convert(array) for array in arrays] for arrays in (estimator.coefs_, estimator.intercepts_)
        )


def store_history(estimator: Any, run: TrainingRun, *, resume: bool) -> None:
    """Set the attributes with the training history. With ``resume``, append to the curves of earlier calls."""
    history = run.history
    watched = run.validation is not None
    curves = {
        "loss_curve_": history.losses,
        "training_loss_curve_": history.training_losses,
        "validation_loss_curve_": history.validation_losses if watched else None,
        "validation_scores_": history.validation_scores if watched else None,
    }
    for name, values in curves.items():
        earlier = getattr(estimator, name, None) if resume else None
        setattr(estimator, name, values if earlier is None or values is None else [*earlier, *values])
    estimator.alpha_ = run.hyperparameters.alpha
    estimator.n_iter_ = run.n_epochs
    estimator.t_ = history.n_samples_seen
    estimator.loss_ = history.losses[-1] if history.losses else np.nan
    estimator.best_loss_ = None if run.hyperparameters.early_stopping else history.best_loss
    estimator.best_validation_score_ = history.best_score if watched else None


def buffer_to_arrays(
    buffer: Buffer, columns: Array | None = None, n_features: int = 0
) -> tuple[list[Array], list[Array]]:
    """Return ``coefs_`` and ``intercepts_`` in the format of MLPClassifier, with zeros for layers without a bias.

    They are views of ``buffer`` if it is on the CPU. If the network reads only some ``columns``, the other of the
    ``n_features`` columns have zeros.
    """
    coeffs = buffer.as_coeffs()
    coefs = [weight.detach().cpu().numpy() for weight in coeffs.weights]
    intercepts = [
        np.zeros(weight.shape[1], weight.dtype) if bias is None else bias.detach().cpu().numpy()[0]
        for weight, bias in zip(coefs, coeffs.biases, strict=True)
    ]
    if columns is not None:
        first = coefs[0]
        coefs[0] = np.zeros((n_features, first.shape[1]), first.dtype)
        coefs[0][columns] = first
    return coefs, intercepts


def read_coeffs(estimator: Any, device: torch.device) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return ``coefs_`` and ``intercepts_`` as tensors of one float type, from arrays or lists.

    Raises ValueError if they are not the weights and biases of one network.
    """
    weights = [_to_float_tensor(values, "coefs_").to(device) for values in estimator.coefs_]
    biases = [_to_float_tensor(values, "intercepts_").to(device) for values in estimator.intercepts_]
    dtype = reduce(torch.promote_types, (values.dtype for values in (*weights, *biases)))
    if any(values.dtype != dtype for values in (*weights, *biases)):
        weights, biases = ([values.to(dtype) for values in each] for each in (weights, biases))
    shapes = [tuple(weight.shape) for weight in weights]
    n_columns = count_columns(estimator) + count_bins(read_edges(estimator))
    is_network = (
        all(len(shape) == 2 for shape in shapes)
        and all(first[1] == second[0] for first, second in pairwise(shapes))
        and [tuple(bias.shape) for bias in biases] == [shape[1:] for shape in shapes]
        and shapes[0][0] == n_columns
        and shapes[-1][1] == estimator.n_outputs_
    )
    if not is_network:
        raise ValueError(
            "coefs_ and intercepts_ must be the weights (fan_in, fan_out) and the biases (fan_out,) of layers that "
            f"lead from {n_columns} columns to {estimator.n_outputs_} outputs, got shapes {shapes} and "
            f"{[tuple(bias.shape) for bias in biases]}. Set all of them, or fit again."
        )
    return weights, biases


def read_edges(estimator: Any) -> Array | None:
    """Return ``bin_edges_`` as an array of NumPy, or None."""
    return None if estimator.bin_edges_ is None else to_host(estimator.bin_edges_)


def name_encoded_columns(estimator: Any) -> Array:
    """Return a name for each row of ``coefs_[0]``, (n_rows,): of the encoded columns, then of the bins."""
    check_is_fitted(estimator)
    names = name_features(name_columns(estimator), estimator.n_features_in_)
    return np.concatenate([names, name_bins(names, read_edges(estimator))]).astype(object)


def get_linear_weights(estimator: Any, name: str) -> Array:
    """Return the weights of a linear network, with missing-value indicators last, for the attribute ``name``."""
    if len(getattr(estimator, "coefs_", ())) != 1 or estimator.bin_edges_ is not None:
        raise AttributeError(
            f"{name} is available only after fit, without a hidden layer (hidden_layer_sizes=()) and without bins "
            "(numeric_encoding=None). SequentialFeatureSelector and permutation_importance do not need it."
        )
    if has_categories(estimator):
        raise AttributeError(
            f"{name} has one value per feature, but each category has a weight of its own. See coefs_[0] and "
            "feature_names_encoded_, or encode the categories before the fit."
        )
    weights: Array = estimator.coefs_[0]
    return weights


def read_scales(estimator: Any) -> tuple[Array | None, Array | None]:
    """Return ``mean_`` and ``scale_``, (n_columns,) each or None, as float64, from arrays or lists."""
    n_columns = count_columns(estimator)
    columns: list[Array | None] = []
    for name in ("mean_", "scale_"):
        values = getattr(estimator, name)
        if values is not None:
            values = np.asarray(to_host(values), np.float64)
            if values.shape != (n_columns,):
                raise ValueError(
                    f"{name} must have shape ({n_columns},), one number per column, got {values.shape}. Fit again."
                )
        columns.append(values)
    return columns[0], columns[1]


def _to_float_tensor(values: Any, name: str) -> torch.Tensor:
    """Return an array of any library, or lists, as a tensor of float32 or float64."""
    if not has_own_library(values):
        values = np.asarray(values)
        if values.dtype not in (np.float32, np.float64):
            try:
                values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{name} must hold arrays of real numbers, got one of dtype {values.dtype}. Set it to a list with "
                    "an array for each layer."
                ) from error
    tensor = to_tensor(values)
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.float64)


def read_labels(estimator: Any) -> Labels:
    """Return the labels of a fitted estimator."""
    return Labels(estimator.classes_, bool(estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1))
