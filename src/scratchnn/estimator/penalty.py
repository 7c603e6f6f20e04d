"""The rule of ``alpha="auto"``: the strength of the penalty, estimated by a kernel model of the table.

The noisier a table is, the stronger the penalty should be. Kernel ridge regression of the one-hot targets estimates the
noise in closed form. Its strength ``lam`` is the one with the highest evidence, the probability of the targets if the
function is drawn at random (MacKay, 1992: Bayesian Interpolation). The kernel is that of a network with
one hidden layer of ReLU and random weights (Cho & Saul, 2009: Kernel Methods for Deep Learning), so that what a network
can learn counts as signal.

Ridge regression charges ``lam / 2 * w**2`` for a function of norm ``w``. A network with one hidden layer of ReLU and a
penalty on both layers charges ``alpha * w``, as the layers share the slope (Neyshabur, Tomioka & Srebro, 2015: In
Search of the Real Inductive Bias). Both penalties pull equally if ``alpha`` is proportional to ``lam * w``.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tables.arrays import to_tensor
from ..tables.statistics import ColumnStatistics
from ..tables.summary import draw_rows, join_samples, locate
from ..tables.table import Table
from ..tables.targets import Labels
from .parameters import resolve_hidden_layer_sizes

ALPHA_FACTOR = 0.6  # of lam * w: chosen on 12 tables
ALPHA_RANGE = (0.05, 8.0)  # of the result, in units of the root mean square norm of the samples
STRENGTHS = np.geomspace(0.003, 300_000, 81)  # candidates of ridge regression
MAX_ROWS = 700  # samples drawn from larger tables: the time grows with the third power


def suits_penalty_rule(estimator: Any) -> bool:
    """Return whether the rule applies: to scaled columns, one hidden layer and the log loss."""
    has_one_layer = len(resolve_hidden_layer_sizes(estimator.hidden_layer_sizes)) == 1
    return bool(has_one_layer and estimator.standardize and estimator.loss == "log_loss")


def calc_penalty(table: Table, labels: Labels, statistics: ColumnStatistics, row_length: float) -> float:
    """Return the strength of the penalty for a batch of all samples: ``row_length`` if they are sparse, or one sample.

    All processes draw the same samples. Each process contributes the drawn samples that it holds.
    """
    rows = statistics.make_rows(table, torch.empty(0, dtype=torch.float64, device="cpu"))
    if rows.is_sparse or locate(len(table))[1] < 2:
        return row_length
    drawn = draw_rows(len(table), MAX_ROWS)
    targets = join_samples(to_tensor(labels.encode(table.y[drawn])).double())
    weights = np.ones(len(table)) if table.sample_weights is None else table.sample_weights
    counts = join_samples(torch.from_numpy(weights[drawn]))
    taken = join_samples(rows.take(drawn if isinstance(drawn, slice) else torch.from_numpy(drawn)))
    taken, targets, counts = merge_equal_rows(taken, targets, counts / counts.mean().clamp(max=1))
    n_free = targets.shape[1] - (labels.output == "softmax")  # the probabilities of all classes sum up to one
    strength, norm = fit_evidence_ridge(taken, targets, n_free)
    # Rounded, so that sums in another order (of repeated samples, or by other threads) give the same number.
    penalty = float(f"{ALPHA_FACTOR * strength * norm:.4g}")
    lowest, highest = (bound * row_length for bound in ALPHA_RANGE)
    penalty = min(max(penalty, lowest), highest) if math.isfinite(penalty) else row_length
    # The loss grows with the counts. The information about the function does not, and class weights reduce it.
    shares = targets if labels.output == "softmax" else torch.cat([targets, 1 - targets], 1)
    class_counts = counts @ shares
    mean_count = (class_counts.square() / shares.sum(0).clamp(min=1e-9)).sum() / class_counts.sum()
    return penalty * float(f"{mean_count:.4g}")


def merge_equal_rows(rows: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct rows, the means of their targets, and the sums of their weights, (n_distinct,).

    Equal rows are often copies, so their equal targets do not show that there is little noise.
    """
    rows, places = rows.unique(dim=0, return_inverse=True)
    counts = weights.new_zeros(len(rows)).index_add_(0, places, weights)
    sums = targets.new_zeros(len(rows), targets.shape[1]).index_add_(0, places, targets * weights.unsqueeze(1))
    return rows, sums / counts.unsqueeze(1), counts


def fit_evidence_ridge(rows: Tensor, targets: Tensor, n_free: int) -> tuple[float, float]:
    """Return the strength of kernel ridge regression with the highest evidence, and the norm of its largest function.

    ``rows`` are (n_samples, n_columns) and ``targets`` (n_samples, n_outputs), of float64. All outputs share the
    strength and the variance of the noise, and ``n_free`` of them are free.
    """
    targets = targets - targets.mean(0)
    kernel = calc_kernel(rows - rows.mean(0))
    means = kernel.mean(0)
    squares, vectors = torch.linalg.eigh(kernel - means - means.unsqueeze(1) + means.mean())
    is_nonzero = squares > squares[-1:] * 1e-9
    squares, projections = squares[is_nonzero], vectors[:, is_nonzero].T @ targets  # (n_nonzero,), (.., n_outputs)
    explained = projections.square().sum(1)
    residual = max(float(targets.square().sum() - explained.sum()), 0.0)
    strengths = torch.from_numpy(STRENGTHS).unsqueeze(1)
    shrinkage = 1 + squares / strengths  # (n_strengths, n_nonzero)
    noise = (explained / shrinkage).sum(1) + residual
    minus_evidence = n_free * (shrinkage.log().sum(1) + (len(rows) - 1) * noise.log())
    strength = float(STRENGTHS[int(minus_evidence.argmin())])
    coefs = (squares.sqrt() / (squares + strength)).unsqueeze(1) * projections
    return strength, float(coefs.square().sum(0).max().sqrt())


def calc_kernel(rows: Tensor) -> Tensor:
    """Return the kernel of pairs of rows, (n_rows, n_rows), see above. A bias is a column of ones."""
    products = rows @ rows.T + 1
    lengths = products.diagonal().sqrt()
    lengths = lengths * lengths.unsqueeze(1)
    angles = (products / lengths).clamp(-1, 1).acos()
    return lengths / math.pi * (angles.sin() + (math.pi - angles) * angles.cos())
