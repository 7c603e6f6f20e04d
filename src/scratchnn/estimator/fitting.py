"""The steps from the samples of a call to the fitted attributes, which `fit_network` takes in turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from .._compat import warn_user
from ..checkpoints import Session, describe_fit, find_checkpoint, open_session
from ..network import init_coeffs
from ..tables.arrays import resolve_device, to_tensor
from ..tables.bins import count_bins
from ..tables.encoder import find_fill
from ..tables.split import cut_table, split_validation
from ..tables.statistics import ColumnStatistics, list_columns
from ..tables.summary import SampleCounts, complete_weights, count_samples
from ..tables.table import Table
from ..tables.targets import Labels, make_class_weights
from ..training import Data, EpochResult, Hyperparameters, TrainingRun, train_run
from ..training.buffers import Buffer, pack
from . import parameters, warm_start
from .attributes import read_coeffs, read_edges, read_scales, store_coeffs, store_history
from .call import Call, Tables
from .callbacks import Reporter, make_reporter
from .columns import describe_columns
from .scoring import make_calc_score
from .validation import leave_out_rows, warn_of_weights
from .warm_start import InitialState, WarmStartState


@dataclass(frozen=True)
class Plan:
    """The inputs of a training run."""

    call: Call
    tables: Tables
    counts: SampleCounts
    state: WarmStartState
    start: InitialState
    statistics: ColumnStatistics
    hyperparameters: Hyperparameters


def fit_network(call: Call, tables: Tables) -> None:
    """Train a network on a table, and set the estimator's fitted attributes in place."""
    with _open_checkpoint(call, tables) as session:
        plan = make_plan(call, tables, None if session is None else session.seed)
        if plan is None:
            return
        run = make_run(plan)
        has_ended = session is not None and session.restore(run)
        reporter = make_reporter(call, run, plan.statistics, has_ended)
        if not has_ended:
            train_network(run, reporter, session)
        _warn_of_end(run, incremental=call.incremental)
        best = store_fit(plan, run)
        if reporter is not None:
            reporter.end(best)


@contextmanager
def _open_checkpoint(call: Call, tables: Tables) -> Iterator[Session | None]:
    """Open the checkpoint of a call; None if it has none."""
    checkpoint = None if call.incremental else find_checkpoint(call.estimator)
    if checkpoint is None:
        yield None
        return
    state = getattr(call.estimator, "_state", None) if call.resume else None
    seed = parameters.resolve_seed(call.estimator.random_state) if state is None else int(state.seed)
    start = warm_start.list_start(call.estimator) if call.resume else None
    description = describe_fit(call.estimator, call.labels, tables.training, tables.validation, start, seed)
    with open_session(checkpoint, description, seed) as session:
        yield session


def make_plan(call: Call, tables: Tables, seed: int | None = None) -> Plan | None:
    """Return the plan of a run; None if training resumes without samples of positive weight.

    A ``seed`` comes from a checkpoint. Without one, ``random_state`` gives the seed.
    """
    if call.resume:
        warm_start.check_fixed_params(call.estimator)
    state = warm_start.get_state(call.estimator, call.resume, seed)
    tables = prepare_rows(call, tables, state.seed)
    if call.resume and len(tables.training) == 0:
        return None
    counts = count_samples(tables.training)
    start = begin_or_resume(call, tables.training)
    statistics, alpha_per_row = describe_columns(call, tables.training, counts, state, start)
    hyperparameters = parameters.make_hyperparameters(
        call.estimator, counts.n_samples, alpha_per_row, incremental=call.incremental
    )
    return Plan(call, tables, counts, state, start, statistics, hyperparameters)


def train_network(run: TrainingRun, reporter: Reporter | None, session: Session | None) -> None:
    """Train the run, in place, or raise its error. Report its epochs to ``reporter`` and ``session``."""

    def on_epoch(result: EpochResult) -> bool:
        stop = reporter is not None and reporter.end_epoch(result)
        if session is not None and not stop:
            session.end_epoch(run, result)
        return stop

    if reporter is not None or session is not None:
        run.on_epoch = on_epoch
    if len(run.data):
        train_run(run)
    if run.error is not None:
        raise run.error
    if session is not None and not run.interrupted:
        session.end(run)


def prepare_rows(call: Call, tables: Tables, seed: int) -> Tables:
    """Return the training and validation samples of positive weight, with class weights applied."""
    estimator, labels, incremental = call.estimator, call.labels, call.incremental
    table, validation = tables
    table = leave_out_rows(table, "sample_weight", may_be_all=incremental)
    warn_of_weights(table.sample_weights)
    validation = None if validation is None else leave_out_rows(validation, "sample_weight_val")
    weigh = make_class_weights(estimator.class_weight, labels, table)
    if estimator.early_stopping and not incremental and validation is None:
        # Before class weights: a weight of 2 must not make two copies of a sample, of which one could be held out.
        held_out = split_validation(replace(table, y=labels.find_codes(table.y)), estimator.validation_fraction, seed)
        table, validation = cut_table(table, 1 - held_out), cut_table(table, held_out)
    table = complete_weights(leave_out_rows(weigh(table), "class_weight", may_be_all=incremental))
    if validation is not None:
        validation = complete_weights(leave_out_rows(weigh(validation), "class_weight"))
    return Tables(table, validation)


def begin_or_resume(call: Call, table: Table) -> InitialState:
    """Return the initial state of training: the fitted attributes if the call resumes."""
    estimator = call.estimator
    device = resolve_device(estimator.device, table.X)
    if not call.resume:
        return InitialState(device)
    weights, biases = read_coeffs(estimator, device)
    scales = read_scales(estimator) if estimator.standardize else (None, None)
    return InitialState(device, weights, biases, scales, read_edges(estimator))


def make_run(plan: Plan) -> TrainingRun:
    """Return the run that trains a network on the tables."""
    call, state, hyperparameters = plan.call, plan.state, plan.hyperparameters
    training, validation = plan.tables
    generator = torch.Generator("cpu").manual_seed(state.seed)
    if state.generator_state is not None:
        generator.set_state(torch.from_numpy(state.generator_state.copy()))
    buffer, best_flat = _make_coeffs(plan, generator)
    warm_start.begin_schedule(state, hyperparameters)
    return TrainingRun(
        data=make_data(training, plan.counts, call.labels, plan.statistics, buffer),
        hyperparameters=hyperparameters,
        buffer=buffer,
        generator=generator,
        validation=None
        if validation is None
        else make_data(validation, count_samples(validation), call.labels, plan.statistics, buffer),
        calc_score=make_calc_score(call.estimator, validation, call.labels, plan.statistics),
        solver_state={name: to_tensor(array).to(buffer.flat, copy=True) for name, array in state.solver_state.items()},
        history=state.history,
        best_flat=best_flat if hyperparameters.early_stopping else None,
    )


def _make_coeffs(plan: Plan, generator: torch.Generator) -> tuple[Buffer, torch.Tensor | None]:
    """Return the initial coefficients, and the best ones of early stopping if they differ."""
    call, start, statistics = plan.call, plan.start, plan.statistics
    estimator, output = call.estimator, call.labels.output
    n_inputs = plan.tables.training.X.shape[1] + count_bins(statistics.edges)
    dtype = getattr(torch, parameters.resolve_dtype(estimator.dtype, plan.counts, estimator.solver).name)
    sizes = (n_inputs, *parameters.resolve_hidden_layer_sizes(estimator.hidden_layer_sizes), call.labels.n_outputs)
    if start.weights:
        buffer = warm_start.restore_coeffs(estimator, start, sizes, output, statistics.columns)
        best = warm_start.resume_state(plan.state, estimator.solver, buffer, statistics.columns)
        dtype = buffer.flat.dtype if estimator.dtype == "auto" else dtype
        return replace(buffer, flat=buffer.flat.to(dtype)), None if best is None else best.to(dtype)
    buffer = _draw_coeffs(estimator, sizes, output, generator, statistics)
    return replace(buffer, flat=buffer.flat.to(start.device, dtype)), None


def _draw_coeffs(
    estimator: Any, sizes: tuple[int, ...], output: str, generator: torch.Generator, statistics: ColumnStatistics
) -> Buffer:
    """Draw the coefficients of a network. Weights of columns that it does not read are zero."""
    is_read = statistics.is_read
    columns = np.arange(sizes[0]) if is_read is None else list_columns(is_read)
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
    if is_read is not None and not is_read.any():
        coeffs.weights[0].zero_()
    buffer = pack(coeffs)
    if is_read is None or statistics.columns is not None:
        return buffer
    flat = warm_start.move_columns(buffer.flat.numpy(), sizes, columns, np.arange(sizes[0]))
    return replace(buffer, flat=torch.from_numpy(flat), sizes=sizes)


def make_data(table: Table, counts: SampleCounts, labels: Labels, statistics: ColumnStatistics, buffer: Buffer) -> Data:
    """Return the samples of a table as ``buffer`` trains on them: scaled, of its dtype and on its device."""
    flat = buffer.flat
    is_first_biased = buffer.n_biases == len(buffer.sizes) - 1
    inputs = statistics.make_rows(table, flat).convert(bias_column=is_first_biased)
    targets = to_tensor(labels.encode_compact(table.y))
    targets = targets.to(flat if targets.is_floating_point() else flat.device)
    if table.sample_weights is None or not len(table):
        return Data(inputs, targets)
    weights = to_tensor(table.sample_weights / counts.weight_mean).to(flat)
    return Data(inputs, targets, weights, counts.weight_mean)


def _warn_of_end(run: TrainingRun, *, incremental: bool) -> None:
    """Warn if the run ended early."""
    if run.interrupted:
        warn_user("Training interrupted by user. The model so far is kept.")
    elif run.warning is not None and not incremental:
        warn_user(run.warning, ConvergenceWarning)


def store_fit(plan: Plan, run: TrainingRun) -> Buffer:
    """Set the fitted attributes, and the state to resume from, in place. Return the best or last coefficients."""
    call, state, statistics = plan.call, plan.state, plan.statistics
    estimator = call.estimator
    best = run.buffer if run.best_flat is None else replace(run.buffer, flat=run.best_flat)
    store_coeffs(estimator, best, call.labels, statistics, call.array_library)
    if estimator.encoder_ is not None:
        estimator.encoder_ = estimator.encoder_.with_means(find_fill(estimator))
    store_history(estimator, run, resume=call.resume)
    estimator._fixed_params = warm_start.list_fixed_params(estimator)
    estimator._state = None
    if estimator.warm_start or call.incremental:
        warm_start.keep_state(run, state, statistics.columns)
        estimator._state = state
    return best
