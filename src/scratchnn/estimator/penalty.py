"""The strength of the penalty that ``alpha="auto"`` means, from a linear model of the table.

The noisier a table is, the stronger the penalty should be. A linear model tells how noisy it is, in closed form: ridge
regression of the targets, zeros and ones, with the strength ``lam`` that maximizes the evidence, which is the
probability of the targets if the weights are drawn at random (MacKay, 1992: Bayesian Interpolation; scikit-learn's
BayesianRidge does the same by iteration).

Ridge regression charges ``lam / 2 * w**2`` for a slope ``w``. A network with one hidden layer of ReLU and a penalty on
both layers charges ``alpha * w``, as the layers share the slope (Neyshabur, Tomioka & Srebro, 2015: In Search of the
Real Inductive Bias). Both penalties pull equally at the slope if ``alpha`` is proportional to ``lam * w``.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tables.arrays import Array, to_tensor
from ..tables.statistics import ColumnStatistics, draw_rows
from ..tables.summary import join_samples, locate
from ..tables.table import Table
from ..tables.targets import Labels
from .parameters import resolve_hidden_layer_sizes

ALPHA_FACTOR = 0.5  # of lam * w: chosen on 25 tables
ALPHA_RANGE = (0.05, 8.0)  # of the result, in root mean square lengths of the rows
STRENGTHS = np.geomspace(0.03, 30_000, 61)  # of ridge regression, to choose from
MAX_ROWS = 2000  # drawn from longer tables
MAX_ROWS_IF_WIDE = 1000  # of more columns than this: the time grows with the third power of the smaller number


def suits_penalty_rule(estimator: Any) -> bool:
    """Return whether the rule holds: for scaled columns, one hidden layer and the log loss."""
    has_one_layer = len(resolve_hidden_layer_sizes(estimator.hidden_layer_sizes)) == 1
    return bool(has_one_layer and estimator.standardize and estimator.loss == "log_loss")


def calc_penalty(table: Table, labels: Labels, statistics: ColumnStatistics, row_length: float) -> float:
    """Return the strength of the penalty for a batch of all samples: ``row_length`` if they are sparse, or one sample.

    All processes draw the same samples, and each contributes those that it has.
    """
    rows = statistics.make_rows(table, torch.empty(0, dtype=torch.float64, device="cpu"))
    if rows.is_sparse or locate(len(table))[1] < 2:
        return row_length
    lowest, highest = (bound * row_length for bound in ALPHA_RANGE)
    drawn = draw_rows(len(table), MAX_ROWS if rows.shape[1] <= MAX_ROWS_IF_WIDE else MAX_ROWS_IF_WIDE)
    targets = join_samples(to_tensor(labels.encode(table.y[drawn])).double())
    weights = (np.ones(len(table)) if table.sample_weights is None else table.sample_weights)[drawn]
    weights = join_samples(torch.from_numpy(weights)).numpy()
    n_free = targets.shape[1] - (labels.output == "softmax")  # the probabilities of all classes sum up to one
    strength, slope = fit_evidence_ridge(
        join_samples(rows.take(drawn if isinstance(drawn, slice) else torch.from_numpy(drawn))),
        targets,
        weights,
        n_free,
    )
    # Rounded, so that sums in another order, such as those of repeated rows or other threads, give the same number.
    penalty = float(f"{ALPHA_FACTOR * strength * slope:.4g}")
    return min(max(penalty, lowest), highest) if math.isfinite(penalty) else row_length


def fit_evidence_ridge(rows: Tensor, targets: Tensor, weights: Array, n_free: int) -> tuple[float, float]:
    """Return the strength of ridge regression with most evidence, and the length of its longest vector of slopes.

    ``rows`` are (n_samples, n_columns) and ``targets`` (n_samples, n_outputs), of float64. All outputs share the
    strength and the variance of the noise, and ``n_free`` of them are free. A row of weight 2 counts as two rows.
    ``weights``, (n_samples,), below 1 on average are parts of a whole, of mean 1.
    """
    counts = torch.from_numpy(weights / min(1.0, weights.mean())).unsqueeze(1)
    n_samples = float(counts.sum())
    roots = counts.sqrt()
    rows = (rows - (counts * rows).sum(0) / n_samples) * roots
    targets = (targets - (counts * targets).sum(0) / n_samples) * roots
    is_wide = rows.shape[1] > len(rows)
    squares, vectors = torch.linalg.eigh(rows @ rows.T if is_wide else rows.T @ rows)
    is_there = squares > squares[-1:] * 1e-9
    squares, vectors = squares[is_there], vectors[:, is_there]
    # The targets along the singular vectors of the rows, (n_there, n_outputs).
    along = vectors.T @ targets if is_wide else (vectors.T @ (rows.T @ targets)) / squares.sqrt().unsqueeze(1)
    powers = along.square().sum(1)
    rest = float(targets.square().sum() - powers.sum())
    strengths = torch.from_numpy(STRENGTHS).unsqueeze(1)
    shrinkage = 1 + squares / strengths  # (n_strengths, n_there)
    noise = (powers / shrinkage).sum(1) + max(rest, 0.0)
    minus_evidence = n_free * (shrinkage.log().sum(1) + (n_samples - 1) * noise.log())
    best = int(minus_evidence.argmin())
    strength = float(STRENGTHS[best])
    slopes = (squares.sqrt() / (squares + strength)).unsqueeze(1) * along
    return strength, float(slopes.square().sum(0).max().sqrt())
