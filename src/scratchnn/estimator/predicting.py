"""From rows to logits and probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..network import Coeffs, calc_preds, run_forward
from ..training.precision import use_precision
from .prepared import prepare
from .tables import ScaledRows, Table, count_block_rows, get_device
from .validation import validate_features

LARGEST_INPUT = 1e100  # of a scaled column: products with coefficients and sums of them stay finite in float64
LEAST_FROM_ONE = float(np.finfo(np.float64).epsneg)  # from 1 to the next smaller number


def predict_logits(estimator: Any, X: Any, method: str) -> Tensor:
    """Return the logits of the rows that a user passes to ``method``, (n_samples, n_outputs)."""
    return _predict(_calc_logits, torch.isfinite, estimator, X, method)[:, -estimator.n_outputs_ :]


def predict_probabilities(estimator: Any, X: Any, method: str) -> Tensor:
    """Return the probabilities of the rows that a user passes to ``method``, (n_samples, n_classes or n_outputs).

    They are rounded into the open interval from 0 to 1, where sigmoid and softmax have all their values.
    """
    preds = _predict(_calc_preds, _is_positive, estimator, X, method)
    return preds.clamp_(torch.finfo(preds.dtype).tiny, 1 - LEAST_FROM_ONE)


def predict_log_probabilities(estimator: Any, X: Any, method: str) -> Tensor:
    """Return the logarithms of the probabilities, from logits: exact where probabilities would round to 0 or 1."""
    logits = predict_logits(estimator, X, method)
    if estimator.out_activation_ == "softmax":
        return torch.log_softmax(logits, -1)
    return F.logsigmoid(torch.cat([-logits, logits], -1) if estimator.n_outputs_ == 1 else logits)


def _calc_logits(coeffs: Coeffs, indeps: Tensor) -> Tensor:
    return run_forward(coeffs, indeps).logits


def _calc_preds(coeffs: Coeffs, indeps: Tensor) -> Tensor:
    return calc_preds(coeffs, indeps, torch.float64)


def _is_positive(preds: Tensor) -> Tensor:
    return preds > 0  # NaN is not


def _predict(
    calc: Callable[[Coeffs, Tensor], Tensor],
    is_sound: Callable[[Tensor], Tensor],
    estimator: Any,
    X: Any,
    method: str,
) -> Tensor:
    """Send the rows of X through the network, block by block. Return what ``calc`` makes of them, in float64.

    Where values of a row are not sound, float32 may be too narrow for it, which may be far from all rows of training.
    Its values are then found in float64.

    Raises
    ------
    ValueError
        If logits are not finite in float64 either, because coefficients are not finite or too large.
    """
    if not hasattr(estimator, "coefs_"):  # asked first, as scikit-learn's check takes longer than a small product
        check_is_fitted(estimator)
    features = validate_features(estimator, X, method)
    prepared = prepare(estimator, features)
    coeffs, scaling = prepared.coeffs, prepared.scaling
    weight = coeffs.weights[-1]
    outputs = torch.empty((features.shape[0], weight.shape[-1]), dtype=torch.float64, device=get_device(features))
    table = Table(features, np.empty(len(outputs), bool))
    rows = ScaledRows(table, scaling, weight.dtype, weight.device)
    # The first weight has a row for each column, of which only dense rows use all.
    widths = [each.shape[-2] for each in coeffs.weights[1 if rows.is_sparse else 0 :]]
    size = count_block_rows(features, max([rows.n_centred, *widths]))
    with torch.inference_mode(), use_precision("float32", weight.device):
        for start in range(0, len(outputs), size):
            samples = slice(start, start + size)
            values = calc(coeffs, rows.take(samples))
            outputs[samples] = values
            sound = is_sound(values)
            if not sound.all():
                unsound = start + (~sound.all(-1)).nonzero()[:, 0]
                wide_rows = ScaledRows(table, scaling, torch.float64, weight.device)
                wide_values = _send_in_double(calc, coeffs, wide_rows.take(unsound))
                outputs[unsound.to(outputs.device)] = wide_values.to(outputs)
    return outputs


def _send_in_double(calc: Callable[[Coeffs, Tensor], Tensor], coeffs: Coeffs, inputs: Tensor) -> Tensor:
    """Return what ``calc`` makes of the inputs in float64. They are clipped where sums of products would overflow."""
    if inputs.is_sparse:
        values = _clip(inputs.values())
        inputs = torch.sparse_coo_tensor(
            inputs.indices(), values, inputs.shape, device=values.device, is_coalesced=True, check_invariants=False
        )
    else:
        inputs = _clip(inputs)
    wide = replace(coeffs, weights=_to_double(coeffs.weights), biases=_to_double(coeffs.biases))
    if not torch.isfinite(run_forward(wide, inputs).logits).all():
        raise ValueError(
            "coefs_, intercepts_, mean_ and scale_ must be finite and not so large that predictions overflow, got "
            "logits that are not finite. Set them to finite numbers, or fit again."
        )
    return calc(wide, inputs)


def _clip(values: Tensor) -> Tensor:
    return values.clamp(-LARGEST_INPUT, LARGEST_INPUT)


def _to_double(tensors: Sequence[Tensor | None]) -> list[Any]:
    return [None if each is None else each.double() for each in tensors]
