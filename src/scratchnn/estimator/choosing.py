"""The choice of alpha by cross-validation: all candidates of all folds are trained as stacks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..losses import get_loss
from ..training import History, TrainingRun, make_stacks, train_in_memory
from ..training.batches import stack_whole
from ..training.buffers import Buffer
from ..training.objective import calc_validation_losses
from ..training.precision import use_precision
from .fitting import Call, Fit, Tables, get_best, make_data, prepare_fit, prepare_rows
from .scoring import make_calc_score
from .tables import Array, Table

MULTIPLES = (1 / 3, 1.0, 3.0)  # of alpha="auto", to choose from
AUTOMATIC = 1  # the number of alpha="auto" itself


def check_alphas(alphas: Any) -> Array | None:
    """Return the candidates, (n_alphas,), or None where they are multiples of alpha="auto".

    Raises
    ------
    ValueError
        If they are not numbers from 0 up.
    """
    if isinstance(alphas, str):
        return None
    checked = np.asarray(alphas)
    is_number = checked.ndim == 1 and len(checked) and checked.dtype.kind in "biuf"
    if not is_number or not (np.isfinite(checked) & (checked >= 0)).all():
        raise ValueError(
            f"alphas must be a list of finite numbers from 0 up, or 'auto', got {alphas!r}. Use for example "
            "alphas=[0.1, 1, 10]."
        )
    return checked.astype(float)


def list_alphas(alphas: Array | None, automatic: float) -> Array:
    """Return the strengths of the penalty to choose from, where ``automatic`` is what alpha="auto" means."""
    return np.multiply(MULTIPLES, automatic) if alphas is None else alphas


def choose_alpha(scores: Array, alphas: Array | None) -> int:
    """Return the number of the candidate whose mean score is the highest.

    Where candidates are multiples of alpha="auto", only those may win that are better than it in each fold: it is a
    good guess, and a difference that some folds deny is mostly noise.
    """
    means = scores.mean(0)
    if alphas is None:
        own = scores[:, [AUTOMATIC]]
        means = np.where((scores > own).all(0), means, -np.inf)
        means[AUTOMATIC] = own.mean()
    return int(np.nanargmax(means))


def score_alphas(call: Call, table: Table, folds: Sequence[tuple[Array, Array]], alphas: Array | None) -> Array:
    """Return the score of each candidate on the rows that each fold leaves out, (n_folds, n_alphas).

    It is NaN where training diverged, and where a multiple of alpha="auto" was given up: see `choose_alpha`.

    Raises
    ------
    DivergenceError
        If training diverged with each candidate in some fold.
    ValueError
        If the score of each candidate is NaN in some fold.
    """
    prepared = [
        _prepare_fold(call, _take(table, train_rows), _take(table, test_rows)) for train_rows, test_rows in folds
    ]
    everyone = np.arange(len(MULTIPLES) if alphas is None else len(alphas))
    if alphas is not None:
        return _score_folds(prepared, alphas, everyone)
    first = _score_folds(prepared[:1], alphas, everyone)
    is_going = first[0] > first[0, AUTOMATIC]
    is_going[AUTOMATIC] = True
    others = np.full((len(folds) - 1, len(everyone)), np.nan)
    if len(others):
        others[:, is_going] = _score_folds(prepared[1:], alphas, everyone[is_going])
    return np.concatenate([first, others])


def _score_folds(folds: Sequence[tuple[Fit, Table]], alphas: Array | None, chosen: Array) -> Array:
    """Return the scores of the ``chosen`` candidates, (n_folds, n_chosen)."""
    runs = [
        [_vary(fit.run, alpha) for alpha in list_alphas(alphas, fit.run.settings.alpha)[chosen]] for fit, _ in folds
    ]
    flat_runs = [run for of_fold in runs for run in of_fold]
    for stack in make_stacks(flat_runs):
        train_in_memory(stack)
        if any(run.interrupted for run in stack):
            raise KeyboardInterrupt
    scores = np.array([_score(fit, held_out, of_fold) for (fit, held_out), of_fold in zip(folds, runs, strict=True)])
    if np.isnan(scores).any(0).all():
        raise next((run.error for run in flat_runs if run.error is not None), _make_score_error(folds[0][0]))
    return scores


def _make_score_error(fit: Fit) -> ValueError:
    return ValueError(
        "scoring must be a number for the rows that each fold leaves out, got "
        f"{fit.call.estimator.scoring!r}, which is NaN. Choose another scoring, or fewer folds with cv."
    )


def _take(table: Table, rows: Array) -> Table:
    return Table(table.X, table.y[rows], None if table.weights is None else table.weights[rows], np.asarray(rows))


def _prepare_fold(call: Call, training: Table, held_out: Table) -> tuple[Fit, Table]:
    """Return a fit of a fold with alpha="auto", and the rows to score it on. Early stopping watches these, too."""
    tables = Tables(training, held_out)
    fit = prepare_fit(call, tables if call.estimator.early_stopping else Tables(training))
    assert fit is not None  # it starts anew
    validation = prepare_rows(call, tables, fit.state.seed).validation
    assert validation is not None
    return fit, validation


def _vary(run: TrainingRun, alpha: float) -> TrainingRun:
    """Return a run on the same data, and with the same draws, but with another penalty."""
    return TrainingRun(
        data=run.data,
        settings=replace(run.settings, alpha=float(alpha), verbose=False),
        buffer=run.copy_buffer(run.buffer.flat),
        generator=torch.Generator("cpu").set_state(run.generator.get_state()),
        validation=run.validation,
        calc_score=run.calc_score,
        history=History(rate=run.history.rate),
    )


def _score(fit: Fit, held_out: Table, runs: Sequence[TrainingRun]) -> list[float]:
    """Return the scores of a fold's runs on the rows held out: by ``scoring``, or minus their mean loss."""
    calc_score = make_calc_score(fit.call.estimator, held_out, fit.call.labels, fit.scales)
    calc_score = calc_score or _make_calc_loss_score(fit, held_out)
    return [float("nan") if run.error is not None else calc_score(get_best(run)) for run in runs]


def _make_calc_loss_score(fit: Fit, held_out: Table) -> Callable[[Buffer], float]:
    """Return a function that returns minus the mean loss of a network on the rows."""
    data = make_data(held_out, fit.call.labels, fit.scales, fit.run.buffer)
    batch, loss = stack_whole([data]), get_loss(fit.run.settings.loss)

    def calc_score(buffer: Buffer) -> float:
        with torch.inference_mode(), use_precision("float32", buffer.flat.device):
            return -float(calc_validation_losses(buffer, data, batch, loss))

    return calc_score
