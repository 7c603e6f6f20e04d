"""From rows to logits and probabilities."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ..activations import OUTPUTS
from ..network import Coeffs, run_forward
from .arrays import resolve_device
from .fitted import read_coeffs, read_edges, read_scales
from .tables import Array, Features, ScaledRows, Table, count_block_rows, get_device
from .validation import validate_features

LARGEST_INPUT = 1e100  # of a scaled column: products with coefficients and sums of them stay finite in float64
LEAST_FROM_ONE = float(np.finfo(np.float64).epsneg)  # from 1 to the next smaller number


def predict_logits(estimator: Any, X: Any, method: str) -> torch.Tensor:
    """Return the logits of the rows that a user passes to ``method``, (n_samples, n_outputs)."""
    check_is_fitted(estimator)
    features = validate_features(estimator, X, method)
    weights, biases = read_coeffs(estimator, resolve_device(estimator.device, features))
    coeffs = Coeffs(weights, list(biases), estimator.activation, estimator.out_activation_)
    return calc_logits(coeffs, features, *read_scales(estimator), read_edges(estimator))


def calc_logits(
    coeffs: Coeffs, X: Features, mean: Array | None, scale: Array | None, edges: Array | None = None
) -> torch.Tensor:
    """Return the logits of the rows of X, (n_samples, n_outputs), in float64 and where X is, block by block.

    Where float32 is too narrow for a row, which may be far from all rows of training, its logits are found in float64.

    Raises
    ------
    ValueError
        If they are not finite even so, because coefficients are not, or are too large.
    """
    weight = coeffs.weights[-1]
    logits = torch.empty((X.shape[0], weight.shape[-1]), dtype=torch.float64, device=get_device(X))
    table = Table(X, np.empty(len(logits), bool))
    rows = ScaledRows(table, mean, scale, weight.dtype, weight.device, edges=edges)
    # The first weight has a row for each column, which counts where rows are dense.
    n_centred = len(rows.centred)
    size = count_block_rows(X, max([n_centred, *map(len, coeffs.weights[1 if rows.is_sparse else 0 :])]))
    with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
        for start in range(0, len(logits), size):
            samples = slice(start, start + size)
            block = run_forward(coeffs, rows.take(samples)).logits
            logits[samples] = block
            if not math.isfinite(block.sum()) and not torch.isfinite(block).all():  # all may be, and their sum not
                overflown = start + (~torch.isfinite(block).all(-1)).nonzero()[:, 0]
                wide_rows = ScaledRows(table, mean, scale, torch.float64, weight.device, edges=edges)
                logits[overflown.to(logits.device)] = _calc_logits_in_double(coeffs, wide_rows, overflown).to(logits)
    return logits


def _calc_logits_in_double(coeffs: Coeffs, rows: ScaledRows, samples: torch.Tensor) -> torch.Tensor:
    """Return the logits of samples, in float64, with inputs cut off where sums of their products would overflow."""
    inputs = rows.take(samples)
    if inputs.is_sparse:
        values = _cut_off(inputs.values())
        inputs = torch.sparse_coo_tensor(
            inputs.indices(), values, inputs.shape, device=values.device, is_coalesced=True, check_invariants=False
        )
    else:
        inputs = _cut_off(inputs)
    wide = replace(coeffs, weights=_to_double(coeffs.weights), biases=_to_double(coeffs.biases))
    logits = run_forward(wide, inputs).logits
    if not torch.isfinite(logits).all():
        raise ValueError(
            "coefs_, intercepts_, mean_ and scale_ must be finite and not so large that predictions overflow, got "
            "logits that are not finite. Set them to finite numbers, or fit again."
        )
    return logits


def _cut_off(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-LARGEST_INPUT, LARGEST_INPUT)


def _to_double(tensors: Sequence[torch.Tensor | None]) -> list[Any]:
    return [None if each is None else each.double() for each in tensors]


def calc_probabilities(logits: torch.Tensor, output: str, log: bool = False) -> torch.Tensor:
    """Return probabilities, or their logarithms, (n_samples, n_classes or n_outputs).

    A single logistic output becomes two columns, each from its own logit, so that neither is rounded to 0 early.
    Probabilities are rounded into the open interval from 0 to 1, where sigmoid and softmax have all their values.
    """
    if output == "logistic" and logits.shape[-1] == 1:
        logits = torch.cat([-logits, logits], dim=-1)
    if log:
        calc_logs = torch.nn.functional.logsigmoid if output == "logistic" else partial(torch.log_softmax, dim=-1)
        return calc_logs(logits)
    return OUTPUTS[output].forward(logits).clamp_(torch.finfo(logits.dtype).tiny, 1 - LEAST_FROM_ONE)
