"""Predictions: logits and probabilities of samples. The prepared network is kept for the next call."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .._compat import warn_user
from ..exceptions import MissingDeviceError
from ..network import Coeffs, calc_preds, run_forward
from ..tables.arrays import Features, count_block_rows, get_device, resolve_device
from ..tables.table import Table
from ..tables.transform import ColumnTransform, TensorRows
from ..training.precision import use_precision
from ..training.threads import count_cores, run_parts
from .attributes import read_coeffs, read_edges, read_scales
from .validation import validate_features

MAX_INPUT = 1e100  # of a scaled column: the sums of its products with coefficients stay finite in float64
MIN_FROM_ONE = float(np.finfo(np.float64).epsneg)  # from 1 to the next smaller number


def predict_logits(estimator: Any, X: Any, method: str) -> Tensor:
    """Return the logits of the samples X of ``method``, (n_samples, n_outputs)."""
    return _predict(_calc_logits, torch.isfinite, estimator, X, method)


def predict_probabilities(estimator: Any, X: Any, method: str) -> Tensor:
    """Return the probabilities of the samples X of ``method``, (n_samples, n_classes or n_outputs).

    They are rounded into the open interval from 0 to 1, the range of sigmoid and softmax.
    """
    preds = _predict(_calc_probabilities, lambda values: values > 0, estimator, X, method)  # NaN is not above 0
    return preds.clamp_(torch.finfo(preds.dtype).tiny, 1 - MIN_FROM_ONE)


def predict_log_probabilities(estimator: Any, X: Any, method: str) -> Tensor:
    """Return the logarithms of the probabilities, from logits: exact where probabilities would round to 0 or 1."""
    logits = predict_logits(estimator, X, method)
    if estimator.out_activation_ == "softmax":
        return torch.log_softmax(logits, -1)
    return F.logsigmoid(_split_classes(logits))


def _calc_logits(coeffs: Coeffs, indeps: Tensor) -> Tensor:
    return run_forward(coeffs, indeps).logits


def _split_classes(logits: Tensor) -> Tensor:
    """Return the logits of all classes. Each of two gets a sigmoid, as 1 minus the other would round to 0 early."""
    logits = logits.double()
    return torch.cat([-logits, logits], -1) if logits.shape[-1] == 1 else logits


_calc_probabilities = partial(calc_preds, convert=_split_classes)


def _predict(
    calc: Callable[[Coeffs, Tensor], Tensor], is_sound: Callable[[Tensor], Tensor], estimator: Any, X: Any, method: str
) -> Tensor:
    """Return the values of ``calc`` for the samples X, block by block, in float64.

    Samples far from the training data may overflow in float32. If values of a sample are not sound, they are computed
    again in float64.

    Raises ValueError if logits are not finite in float64 either, because coefficients are not finite or too large.
    """
    if not hasattr(estimator, "coefs_"):  # asked first, as scikit-learn's check takes longer than a small product
        check_is_fitted(estimator)
    features = validate_features(estimator, X, method)
    prepared = prepare(estimator, features)
    coeffs, scaling = prepared.coeffs, prepared.scaling
    weight = coeffs.weights[-1]
    n_columns = 2 if calc is _calc_probabilities and estimator.n_outputs_ == 1 else estimator.n_outputs_
    outputs = torch.empty((features.shape[0], n_columns), dtype=torch.float64, device=get_device(features))
    table = Table(features, np.empty(len(outputs), bool))
    rows = TensorRows(table, scaling, weight.dtype, weight.device)
    # Sparse samples use only some rows of the first weight, and dense samples use all.
    widths = [each.shape[-2] for each in coeffs.weights[1 if rows.is_sparse else 0 :]]
    size = count_block_rows(features, max([rows.n_centered, *widths]))

    def calc_block(start: int) -> None:
        samples = slice(start, start + size) if size < len(outputs) else slice(None)
        values = calc(coeffs, rows.take(samples))
        outputs[samples] = values
        sound = is_sound(values)
        if not sound.all():
            unsound = start + (~sound.all(-1)).nonzero()[:, 0]
            wide_rows = TensorRows(table, scaling, torch.float64, weight.device)
            wide_values = _send_in_double(calc, coeffs, wide_rows.take(unsound))
            outputs[unsound.to(outputs.device)] = wide_values.to(outputs)

    with torch.inference_mode(), use_precision("float32", weight.device):
        blocks = [partial(calc_block, start) for start in range(0, len(outputs), size)]
        run_parts(blocks, count_cores() if len(blocks) > 1 else 1)
    return outputs


def _send_in_double(calc: Callable[[Coeffs, Tensor], Tensor], coeffs: Coeffs, inputs: Tensor) -> Tensor:
    """Return the values of ``calc`` for the inputs, in float64, clipped so that sums of products do not overflow."""
    if inputs.is_sparse:
        values = inputs.values().clamp(-MAX_INPUT, MAX_INPUT)
        inputs = torch.sparse_coo_tensor(
            inputs.indices(), values, inputs.shape, device=values.device, is_coalesced=True, check_invariants=False
        )
    else:
        inputs = inputs.clamp(-MAX_INPUT, MAX_INPUT)
    wide = replace(coeffs, weights=_to_double(coeffs.weights), biases=_to_double(coeffs.biases))
    if not torch.isfinite(run_forward(wide, inputs).logits).all():
        raise ValueError(
            "coefs_, intercepts_, mean_ and scale_ must be finite and not so large that predictions overflow, got "
            "logits that are not finite. Set them to finite numbers, or fit again."
        )
    return calc(wide, inputs)


def _to_double(tensors: Sequence[Tensor | None]) -> list[Any]:
    return [None if each is None else each.double() for each in tensors]


class Prepared:
    """The network of a fitted estimator, and the scaling of its columns.

    The tensors of the coefficients share the memory of ``coefs_`` and ``intercepts_`` if possible, so they follow
    changes in place. ``snapshots`` has copies of all other arrays.
    """

    def __init__(self, estimator: Any, device: torch.device, device_of_X: torch.device) -> None:
        weights, biases = read_coeffs(estimator, device)
        self.coeffs = Coeffs(weights, list(biases), estimator._activation, estimator.out_activation_)
        self.scaling = ColumnTransform(*read_scales(estimator), read_edges(estimator), device_of_X)
        self.cache_key = _make_cache_key(estimator, device, device_of_X)
        self.arrays = _list_arrays(estimator)
        shared = {value.data_ptr() for value in self.coeffs if value.device.type == "cpu"}
        self.snapshots = [
            (array, array.copy())
            for array in self.arrays
            if isinstance(array, np.ndarray) and array.ctypes.data not in shared
        ]

    def is_current(self, estimator: Any, features: Features, *devices: torch.device) -> bool:
        """Return whether the estimator still has the prepared arrays, with the same values for these samples.

        If an attribute is a list, return False.
        """
        arrays = _list_arrays(estimator)
        # A few sparse samples need only the scales of their entries, if no column is centered.
        is_short = sparse.issparse(features) and estimator.mean_ is None and features.nnz < features.shape[1]
        return (
            len(arrays) == len(self.arrays)
            and all(new is old for new, old in zip(arrays, self.arrays, strict=True))
            and self.cache_key == _make_cache_key(estimator, *devices)
            and all(array is None or isinstance(array, np.ndarray) for array in arrays)
            and all(
                array[taken].tobytes() == values[taken].tobytes()
                for array, values in self.snapshots
                for taken in [features.indices if is_short and array is estimator.scale_ else ...]
            )
        )


def prepare(estimator: Any, features: Features) -> Prepared:
    """Return the prepared network: that of the last call, if nothing has changed since."""
    devices = _find_device(estimator.device, features), get_device(features)
    cache: dict[str, Prepared] = getattr(estimator, "_cache", {})
    prepared = cache.get("prepared")
    if prepared is None or not prepared.is_current(estimator, features, *devices):
        prepared = cache["prepared"] = Prepared(estimator, *devices)
    return prepared


def _find_device(device: Any, features: Features) -> torch.device:
    """Return the device of the computation. If the estimator's device is missing, return the CPU, with a warning.

    So the file of a model trained on CUDA can be used on any machine.
    """
    try:
        return resolve_device(device, features)
    except MissingDeviceError:
        warn_user(
            f"device={str(device)!r} is missing, so the predictions are computed on the CPU. Call "
            "set_params(device='auto') to avoid this warning."
        )
        return torch.device("cpu")


def _list_arrays(estimator: Any) -> list[Any]:
    return [*estimator.coefs_, *estimator.intercepts_, estimator.mean_, estimator.scale_, estimator.bin_edges_]


def _make_cache_key(estimator: Any, *devices: torch.device) -> tuple[Any, ...]:
    return (estimator._activation, estimator.out_activation_, estimator.n_outputs_, *devices)
