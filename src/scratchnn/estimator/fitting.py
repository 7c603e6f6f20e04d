"""One call of `fit` or `partial_fit`: five steps from rows to fitted attributes."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ..network import init_coeffs
from ..training import ALONE, Data, Ranks, Settings, TrainingRun, failing_together, get_ranks
from ..training.buffers import Buffer, pack
from .agreeing import Totals, check_coeffs, count_rows, join_steps, with_weights
from .arrays import ArrayLibrary, resolve_device
from .bins import count_bins
from .compat import warn_user
from .fitted import (
    Start,
    State,
    are_equal,
    get_state,
    keep_state,
    move_columns,
    read_coeffs,
    read_edges,
    read_scales,
    restore_coeffs,
    resume_state,
    store_coeffs,
    store_history,
)
from .labels import Labels, make_class_weights
from .parameters import (
    calc_alpha_per_row,
    make_settings,
    resolve_alpha,
    resolve_dtype,
    resolve_hidden_layer_sizes,
    resolve_numeric_encoding,
)
from .penalty import calc_penalty, suits_penalty_rule
from .resuming import Session, open_session
from .running import begin_training, train_network
from .scaling import Moments, Scales, find_bin_edges, find_read_columns, find_scales, list_columns, merge_moments
from .scoring import make_calc_score
from .splitting import cut_table, split_validation
from .tables import Table, to_tensor
from .validation import leave_out_rows


@dataclass(frozen=True)
class Call:
    """A call of `fit` or `partial_fit`, beyond its rows."""

    estimator: Any
    labels: Labels
    resume: bool  # whether training starts from the fitted attributes
    incremental: bool = False  # whether this is `partial_fit`
    array_library: ArrayLibrary | None = None  # of the fitted model; None: NumPy
    reported: dict[str, Any] | None = None  # X, y and metadata, for callbacks
    session: Session | None = None  # the checkpoint, if there is one
    ranks: Ranks = field(default_factory=get_ranks)  # the processes that fit together

    @property
    def leaves_out_columns(self) -> bool:
        """Whether columns that do not vary get no weights. The plain method draws weights for all columns."""
        return not self.incremental and (self.resume or self.estimator.init != "scratch")


class Tables(NamedTuple):
    """The rows to train on, and those to validate on, if there are any."""

    training: Table
    validation: Table | None = None


@dataclass(eq=False)
class Fit:
    """A fit that is ready to train, or trained."""

    call: Call
    state: State
    scales: Scales
    run: TrainingRun

    def set_alpha(self, alpha: float) -> None:
        """Set the strength of the penalty, in place."""
        self.run.settings = replace(self.run.settings, alpha=alpha)


def fit_network(call: Call, tables: Tables) -> None:
    """Train a network on a table, and set the estimator's fitted attributes in place."""
    with open_session(call, tables) as session:
        fit = prepare_fit(replace(call, session=session), tables)
        if fit is not None:
            finish_fit(fit)


@failing_together
def prepare_fit(call: Call, tables: Tables) -> Fit | None:
    """Return what is to be trained on a table; None if training is to go on, and there is nothing to learn."""
    state = get_state(call.estimator, call.resume, None if call.session is None else call.session.seed)
    state.seed = call.ranks.broadcast(state.seed)
    tables = prepare_rows(call, tables, state.seed)
    if len(tables.training) == 0 and call.resume:
        return None
    totals = count_rows(tables.training, call.ranks)
    tables = tables._replace(training=with_weights(tables.training, totals))
    start = begin_or_resume(call, tables.training)
    scales, alpha_per_row = scale_columns(call, tables.training, totals, state, start)
    settings = make_settings(call.estimator, totals.n_samples, alpha_per_row, incremental=call.incremental)
    return Fit(call, state, scales, _make_run(call, tables, totals, settings, state, start, scales))


def finish_fit(fit: Fit) -> None:
    """Train, and set the estimator's fitted attributes, in place."""
    reporter, has_ended = begin_training(fit)
    if not has_ended:
        train_network(fit.run, reporter, fit.call.session)
    _warn_of_end(fit.run, incremental=fit.call.incremental)
    best = store_fit(fit)
    if reporter is not None:
        reporter.end(best)


def prepare_rows(call: Call, tables: Tables, seed: int) -> Tables:
    """Return the rows to train and to validate on: those of positive weight, after class weights multiplied theirs."""
    estimator, labels, incremental = call.estimator, call.labels, call.incremental
    table, validation = tables
    table = leave_out_rows(table, "sample_weight", may_be_all=incremental)
    validation = None if validation is None else leave_out_rows(validation, "sample_weight_val")
    weigh = make_class_weights(estimator.class_weight, labels, table, call.ranks)
    if estimator.early_stopping and not incremental and validation is None:
        # Before class weights are applied: one of 2 must not make two copies of a row, of which one could be held out.
        codes = table.y if labels.multilabel else np.searchsorted(labels.classes, table.y)
        held_out = split_validation(replace(table, y=codes), estimator.validation_fraction, seed)
        table, validation = cut_table(table, 1 - held_out), cut_table(table, held_out)
    table = leave_out_rows(weigh(table), "class_weight", may_be_all=incremental)
    return Tables(table, None if validation is None else leave_out_rows(weigh(validation), "class_weight"))


def begin_or_resume(call: Call, table: Table) -> Start:
    """Return where training starts: from the fitted attributes if the call is to resume."""
    estimator = call.estimator
    device = resolve_device(estimator.device, table.X)
    if not call.resume:
        return Start(device)
    weights, biases = read_coeffs(estimator, device)
    scales = read_scales(estimator) if estimator.standardize else (None, None)
    return Start(device, weights, biases, scales, read_edges(estimator))


def scale_columns(call: Call, table: Table, totals: Totals, state: State, start: Start) -> tuple[Scales, float]:
    """Return how the network reads the columns, and the strength of alpha="auto" per row of a batch, or 0."""
    estimator = call.estimator
    alpha = resolve_alpha(estimator)
    has_new_bins = not call.resume and resolve_numeric_encoding(estimator, table, totals) is not None
    needs_moments = has_new_bins or alpha == "auto"
    moments, keeps_scales = _find_moments(call, table, state, start, needs_moments)
    scales = Scales(None, None)
    if estimator.standardize:
        scales = find_scales(moments, table.X.shape[1], start.scales if keeps_scales else None)
    if not estimator.standardize and not keeps_scales:
        estimator._fill = np.asarray(moments.mean).tolist()
    scales = replace(scales, edges=find_bin_edges(table, moments, call.ranks) if has_new_bins else start.edges)
    if call.leaves_out_columns:
        scales = find_read_columns(scales, moments, table, start.find_trained_columns(state))
    if alpha != "auto":
        return scales, 0.0
    n_seen = totals.n_samples + (state.history.n_samples_seen if call.incremental else 0)
    penalty = moments.calc_row_length(scales.scale)
    if not call.incremental and suits_penalty_rule(estimator):
        penalty = calc_penalty(table, call.labels, scales, penalty, call.ranks)
    return scales, calc_alpha_per_row(penalty, n_seen, totals.weight_mean)


def _find_moments(call: Call, table: Table, state: State, start: Start, is_needed: bool) -> tuple[Moments, bool]:
    """Return the moments of the columns, empty if nothing needs them, and whether the scales stay what they were.

    `fit` keeps the scales of an earlier call. `partial_fit` keeps those of a `fit`, which saw all the data, and those
    that the user has set. Otherwise it adds the rows to the moments of all calls, in ``state``, in place.
    """
    estimator = call.estimator
    moments = state.moments
    keeps_scales = call.resume and (not call.incremental or moments is None or not _are_scales_of(call, moments, start))
    if keeps_scales or moments is None:
        moments = Moments()
    if len(table) and (estimator.standardize or is_needed or call.leaves_out_columns):
        moments.add(table)
        moments = merge_moments(moments, call.ranks)
    if call.incremental and not keeps_scales:
        state.moments = moments
    return moments, keeps_scales


def _are_scales_of(call: Call, moments: Moments, start: Start) -> bool:
    """Return whether ``mean_`` and ``scale_`` are those of the moments: the user has not set others since."""
    if not call.estimator.standardize or moments.n_samples == 0:
        return True
    mean, scale = start.scales
    return are_equal(mean, moments.calc_mean()) and are_equal(scale, moments.calc_scale())


def _warn_of_end(run: TrainingRun, *, incremental: bool) -> None:
    """Warn of what ended the run before its own rule did."""
    if run.interrupted:
        warn_user("Training interrupted by user. The model so far is kept.")
    elif run.warning is not None and not incremental:
        warn_user(run.warning, ConvergenceWarning)


def get_best(run: TrainingRun) -> Buffer:
    """Return the coefficients of the model: the last ones, or those of the best epoch with early stopping."""
    return run.buffer if run.best_flat is None else replace(run.buffer, flat=run.best_flat)


def store_fit(fit: Fit) -> Buffer:
    """Set the fitted attributes, and the state to resume from, in place. Return the coefficients of the model."""
    call, state, scales, run = fit.call, fit.state, fit.scales, fit.run
    estimator, best = call.estimator, get_best(run)
    store_coeffs(estimator, best, call.labels, scales, call.array_library)
    store_history(estimator, run, resume=call.resume)
    estimator._state = None
    if estimator.warm_start or call.incremental:
        keep_state(run, state, scales.columns)
        estimator._state = state
    return best


def _make_run(
    call: Call, tables: Tables, totals: Totals, settings: Settings, state: State, start: Start, scales: Scales
) -> TrainingRun:
    """Return the run that trains a network on the tables."""
    estimator, labels, ranks = call.estimator, call.labels, call.ranks
    generator = torch.Generator("cpu").manual_seed(state.seed)
    if state.generator_state is not None:
        generator.set_state(torch.from_numpy(state.generator_state.copy()))
    buffer, best_flat = _make_coeffs(call, tables.training, totals, state, start, scales, generator)
    check_coeffs(buffer.flat, ranks)
    if ranks.rank and state.generator_state is None:
        generator.manual_seed(state.seed + ranks.rank)  # the rows of different processes get different masks
    if state.history.rate is None:
        state.history.rate = settings.learning_rate_init
    validation = tables.validation
    run = TrainingRun(
        data=make_data(tables.training, labels, scales, buffer, ranks),
        settings=settings,
        buffer=buffer,
        generator=generator,
        validation=None if validation is None else make_data(validation, labels, scales, buffer, ranks),
        calc_score=make_calc_score(estimator, validation, labels, scales),
        solver_state={
            name: torch.from_numpy(array).to(buffer.flat, copy=True) for name, array in state.solver_state.items()
        },
        history=state.history,
        best_flat=best_flat if settings.early_stopping else None,
    )
    join_steps(run, ranks)
    return run


def _make_coeffs(
    call: Call, table: Table, totals: Totals, state: State, start: Start, scales: Scales, generator: torch.Generator
) -> tuple[Buffer, torch.Tensor | None]:
    """Return the coefficients to train from, and the best ones of early stopping if those are others."""
    estimator, output = call.estimator, call.labels.output
    hidden_sizes = resolve_hidden_layer_sizes(estimator.hidden_layer_sizes)
    sizes = (table.X.shape[1] + count_bins(scales.edges), *hidden_sizes, call.labels.n_outputs)
    if start.weights:
        buffer = restore_coeffs(estimator, start, sizes, output, scales.columns)
        return buffer, resume_state(state, estimator.solver, buffer, scales.columns)
    buffer = _draw_coeffs(estimator, sizes, output, generator, scales)
    dtype = getattr(torch, resolve_dtype(estimator.dtype, totals, estimator.solver).name)
    return replace(buffer, flat=buffer.flat.to(start.device, dtype)), None


def _draw_coeffs(
    estimator: Any, sizes: tuple[int, ...], output: str, generator: torch.Generator, scales: Scales
) -> Buffer:
    """Draw the coefficients of a network. Columns that it does not read, but has weights for, get zeros."""
    columns = np.arange(sizes[0]) if scales.is_read is None else list_columns(scales.is_read)
    coeffs = init_coeffs(
        len(columns),
        sizes[1:-1],
        sizes[-1],
        generator=generator,
        init=estimator.init,
        activation=estimator.activation,
        output=output,
        hidden_bias=estimator.hidden_bias,
    )
    if scales.is_read is not None and not scales.is_read.any():
        coeffs.weights[0].zero_()
    buffer = pack(coeffs)
    if scales.is_read is None or scales.columns is not None:
        return buffer
    flat = move_columns(buffer.flat.numpy(), sizes, columns, np.arange(sizes[0]))
    return replace(buffer, flat=torch.from_numpy(flat), sizes=sizes)


def make_data(table: Table, labels: Labels, scales: Scales, buffer: Buffer, ranks: Ranks = ALONE) -> Data:
    """Return the samples of a table as ``buffer`` trains on them: scaled, of its dtype and on its device."""
    flat = buffer.flat
    totals = count_rows(table, ranks)
    table = with_weights(table, totals)
    is_first_biased = buffer.n_biases == len(buffer.sizes) - 1
    indeps = scales.make_rows(table, flat).convert(ones=is_first_biased)
    deps = to_tensor(labels.encode_briefly(table.y))
    deps = deps.to(flat if deps.is_floating_point() else flat.device)
    if table.weights is None or not len(table):
        return Data(indeps, deps)
    weights = to_tensor(table.weights / totals.weight_mean).to(flat)
    return Data(indeps, deps, weights, totals.weight_mean)
