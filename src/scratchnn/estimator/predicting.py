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
from .arrays import resolve_device
from .fitted import read_coeffs, read_scales
from .tables import Array, Features, ScaledRows, Table, count_block_rows, get_device
from .validation import validate_features

LARGEST_INPUT = 1e100  # of a scaled column: products with coefficients and sums of them stay finite in float64
LEAST_FROM_ONE = float(np.finfo(np.float64).epsneg)  # from 1 to the next smaller number


def predict_logits(estimator: Any, X: Any, method: str) -> Tensor:
    """Return the logits of the rows that a user passes to ``method``, (n_samples, n_outputs)."""
    features, coeffs = _read_network(estimator, X, method)
    logits = _send_rows(_calc_logits, torch.isfinite, coeffs, features, *read_scales(estimator))
    return logits[:, -estimator.n_outputs_ :]


def predict_probabilities(estimator: Any, X: Any, method: str) -> Tensor:
    """Return the probabilities of the rows that a user passes to ``method``, (n_samples, n_classes or n_outputs).

    They are rounded into the open interval from 0 to 1, where sigmoid and softmax have all their values.
    """
    features, coeffs = _read_network(estimator, X, method)
    preds = _send_rows(_calc_preds, _is_positive, coeffs, features, *read_scales(estimator))
    return preds.clamp_(torch.finfo(preds.dtype).tiny, 1 - LEAST_FROM_ONE)


def predict_log_probabilities(estimator: Any, X: Any, method: str) -> Tensor:
    """Return the logarithms of the probabilities, from logits: exact where probabilities would round to 0 or 1."""
    logits = predict_logits(estimator, X, method)
    if estimator.out_activation_ == "softmax":
        return torch.log_softmax(logits, -1)
    return F.logsigmoid(torch.cat([-logits, logits], -1) if estimator.n_outputs_ == 1 else logits)


def _read_network(estimator: Any, X: Any, method: str) -> tuple[Features, Coeffs]:
    """Return the rows, and the network with an output for each class or label."""
    check_is_fitted(estimator)
    features = validate_features(estimator, X, method)
    weights, biases = read_coeffs(estimator, resolve_device(estimator.device, features))
    coeffs = Coeffs(weights, list(biases), estimator.activation, estimator.out_activation_)
    return features, _add_first_class(coeffs) if estimator.n_outputs_ == 1 else coeffs


def _add_first_class(coeffs: Coeffs) -> Coeffs:
    """Return a network with an output for each of two classes, the first of which is always 0.

    The softmax of 0 and a logit is the logit's sigmoid. It finds each probability by itself, so that neither is rounded
    to 0 early.
    """
    weight, bias = coeffs.weights[-1], coeffs.biases[-1]
    weights = [*coeffs.weights[:-1], F.pad(weight, (1, 0))]
    biases = [*coeffs.biases[:-1], None if bias is None else F.pad(bias, (1, 0))]
    return replace(coeffs, weights=weights, biases=biases, output="softmax")


def _calc_logits(coeffs: Coeffs, indeps: Tensor) -> Tensor:
    return run_forward(coeffs, indeps).logits


def _calc_preds(coeffs: Coeffs, indeps: Tensor) -> Tensor:
    return calc_preds(coeffs, indeps, torch.float64)


def _is_positive(preds: Tensor) -> Tensor:
    return preds > 0  # NaN is not


def _send_rows(
    calc: Callable[[Coeffs, Tensor], Tensor],
    is_sound: Callable[[Tensor], Tensor],
    coeffs: Coeffs,
    X: Features,
    mean: Array | None,
    scale: Array | None,
) -> Tensor:
    """Send the rows of X through the network, block by block. Return what ``calc`` makes of them, in float64.

    Where values of a row are not sound, float32 may be too narrow for it, which may be far from all rows of training.
    Its values are then found in float64.

    Raises
    ------
    ValueError
        If logits are not finite in float64 either, because coefficients are not finite or too large.
    """
    weight = coeffs.weights[-1]
    outputs = torch.empty((X.shape[0], weight.shape[-1]), dtype=torch.float64, device=get_device(X))
    table = Table(X, np.empty(len(outputs), bool))
    rows = ScaledRows(table, mean, scale, weight.dtype, weight.device)
    # The first weight has a row for each column, of which only dense rows use all.
    n_centred = len(rows.centred)
    size = count_block_rows(X, max([n_centred, *map(len, coeffs.weights[1 if rows.is_sparse else 0 :])]))
    with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
        for start in range(0, len(outputs), size):
            samples = slice(start, start + size)
            values = calc(coeffs, rows.take(samples))
            outputs[samples] = values
            sound = is_sound(values)
            if not sound.all():
                unsound = start + (~sound.all(-1)).nonzero()[:, 0]
                wide_rows = ScaledRows(table, mean, scale, torch.float64, weight.device)
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
