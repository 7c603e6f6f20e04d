"""One call of `fit` or `partial_fit`: from an estimator and rows to a `TrainingRun`, and to the fitted attributes."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from ..network import Coeffs, init_coeffs
from ..solvers import SCHEDULES
from ..training import Data, TrainingRun, train_run
from .arrays import ArrayLibrary, resolve_device
from .callbacks import Reporter, has_callbacks
from .compat import warn_user
from .fitted import (
    State,
    are_equal,
    get_state,
    keep_state,
    move_columns,
    read_coeffs,
    read_scales,
    restore_coeffs,
    resume_state,
    store_coeffs,
    store_history,
)
from .labels import Labels, make_class_weights
from .parameters import CONSTRAINTS, check_hidden_layer_sizes, make_settings, resolve_dtype
from .scaling import Moments, Scales, list_columns
from .scoring import make_calc_score
from .splitting import cut_table, split_validation
from .tables import Table, to_tensor
from .validation import leave_out_rows


def fit_network(
    estimator: Any,
    table: Table,
    validation: Table | None,
    labels: Labels,
    *,
    resume: bool,
    incremental: bool = False,
    array_library: ArrayLibrary | None = None,
    reported: dict[str, Any] | None = None,
) -> None:
    """Train a network on a table, and set the estimator's fitted attributes in place.

    ``resume`` says whether to start from the attributes as they are, ``incremental`` whether this is `partial_fit`.
    ``array_library`` is the one of the fitted model, if that is not NumPy, and ``reported`` are the X, y and metadata
    that callbacks get to see.
    """
    early_stopping = estimator.early_stopping and not incremental
    state = get_state(estimator, resume)
    table, validation = _choose_rows(estimator, table, validation, labels, state.seed, incremental=incremental)
    if not len(table) and resume:
        return  # there is nothing to learn
    params = {name: getattr(estimator, name) for name in CONSTRAINTS}
    if incremental:
        params["max_iter"] = 1
        if params["learning_rate"] in SCHEDULES:  # nobody knows how many calls will come
            params["learning_rate"] = "constant"
    device = resolve_device(params["device"], table.X)
    known = read_coeffs(estimator, device) if resume else None
    moments, keeps_scales = _find_moments(estimator, table, state, resume=resume, incremental=incremental)
    scales = _find_scales(estimator, moments, keeps=keeps_scales)
    if not incremental and (resume or params["init"] != "scratch"):  # the plain method draws weights for all columns
        scales = _find_read_columns(table, moments, scales, state, known)
    if params["alpha"] == "auto":
        n_seen = max(1, len(table) + (state.history.n_samples_seen if incremental else 0))
        # Weights below 1 on average are shares (AdaBoost's sum up to 1), and not so many rows fewer.
        weight_mean = 1.0 if table.weights is None else min(1.0, float(table.weights.sum()) / max(1, len(table)))
        params["alpha_per_row"] = moments.calc_row_length(scales.scale) * weight_mean / n_seen
    run = _make_run(
        params,
        table,
        validation,
        labels,
        state,
        scales=scales,
        known=known,
        device=device,
        calc_score=make_calc_score(estimator, validation, labels, scales),
        early_stopping=early_stopping,
    )
    reporter = None
    if reported is not None and has_callbacks(estimator):

        def describe(coeffs: Coeffs) -> dict[str, Any]:
            described = SimpleNamespace()
            store_coeffs(described, coeffs, labels, scales, array_library)
            return vars(described)

        reporter = Reporter(estimator, run.settings.max_iter, reported, describe)
        run.on_epoch = reporter.end_epoch
    if len(table):
        train_run(run)
    if run.error is not None:
        raise run.error
    if run.interrupted:
        warn_user("Training interrupted by user. The model so far is kept.")
    elif run.warning is not None and not incremental:
        warn_user(run.warning, ConvergenceWarning)
    best = run.coeffs if run.best_flat is None else replace(run.coeffs, flat=run.best_flat)
    store_coeffs(estimator, best, labels, scales, array_library)
    store_history(estimator, run, resume=resume)
    if reporter is not None:
        reporter.end(best)
    estimator._state = None
    if estimator.warm_start or incremental:
        keep_state(run, state, scales.columns)
        estimator._state = state


def _choose_rows(
    estimator: Any, table: Table, validation: Table | None, labels: Labels, seed: int, *, incremental: bool
) -> tuple[Table, Table | None]:
    """Return the rows of positive weight to train and to validate on, with the weights of their classes in theirs."""
    table = leave_out_rows(table, "sample_weight", may_be_all=incremental)
    validation = None if validation is None else leave_out_rows(validation, "sample_weight_val")
    weigh = make_class_weights(estimator.class_weight, labels, table)
    if estimator.early_stopping and not incremental and validation is None:
        # Before classes are weighed: a class weight of 2 makes no two copies of a row, to be held out one by one.
        codes = table.y if labels.multilabel else np.searchsorted(labels.classes, table.y)
        held_out = split_validation(replace(table, y=codes), estimator.validation_fraction, seed)
        table, validation = cut_table(table, 1 - held_out), cut_table(table, held_out)
    table = leave_out_rows(weigh(table), "class_weight", may_be_all=incremental)
    return table, None if validation is None else leave_out_rows(weigh(validation), "class_weight")


def _find_moments(
    estimator: Any, table: Table, state: State, *, resume: bool, incremental: bool
) -> tuple[Moments, bool]:
    """Return what is known of the columns, if anybody wants to know it, and whether the scales stay what they were.

    So `fit` keeps those of an earlier call, and `partial_fit` those of a `fit`, which saw all the data, and those that
    somebody has set. Else it goes on from the moments of all calls, which it keeps in ``state``, in place.
    """
    keeps_scales = resume and (not incremental or state.moments is None or not _has_scales(estimator, state.moments))
    moments = Moments() if keeps_scales or state.moments is None else state.moments
    if len(table) and (estimator.standardize or estimator.alpha == "auto" or not incremental):
        moments.add(table)
    if incremental and not keeps_scales:
        state.moments = moments
    return moments, keeps_scales


def _has_scales(estimator: Any, moments: Moments) -> bool:
    """Return whether ``mean_`` and ``scale_`` are those of the moments, and not set since."""
    if not estimator.standardize or moments.n_samples == 0:
        return True
    mean, scale = read_scales(estimator)
    return are_equal(mean, moments.calc_mean()) and are_equal(scale, moments.calc_scale())


def _find_scales(estimator: Any, moments: Moments, *, keeps: bool) -> Scales:
    """Return the mean and scale of the columns: those of the call before if it ``keeps`` them."""
    if not estimator.standardize:
        return Scales(None, None)
    if keeps and estimator.scale_ is not None:
        return Scales(*read_scales(estimator))
    if moments.n_samples == 0:
        return Scales(None, np.ones(estimator.n_features_in_))
    return Scales(moments.calc_mean(), moments.calc_scale())


def _find_read_columns(
    table: Table,
    moments: Moments,
    scales: Scales,
    state: State,
    known: tuple[list[torch.Tensor], list[torch.Tensor]] | None,
) -> Scales:
    """Return the scales with the columns that have weights: those that vary, and those that had weights before."""
    is_read = moments.find_varying(scales.scale is not None)
    if known is not None:
        is_read |= known[0][0].ne(0).any(1).cpu().numpy()
        if state.solver_state or state.flat is not None:
            is_read[slice(None) if state.columns is None else state.columns] = True
    if is_read.all():
        return scales
    return replace(scales, is_read=is_read, columns=list_columns(is_read) if sparse.issparse(table.X) else None)


def _make_run(
    params: dict[str, Any],
    table: Table,
    validation: Table | None,
    labels: Labels,
    state: State,
    *,
    scales: Scales,
    known: tuple[list[torch.Tensor], list[torch.Tensor]] | None,
    device: torch.device,
    calc_score: Callable[[Coeffs], float] | None,
    early_stopping: bool,
) -> TrainingRun:
    """Return the run that trains a network on a table.

    ``params`` are the estimator's, ``scales`` the mean and scale of the columns, and ``known`` the ``coefs_`` and
    ``intercepts_`` to start from, if not from newly drawn ones.
    """
    generator = torch.Generator("cpu").manual_seed(state.seed)
    if state.generator_state is not None:
        generator.set_state(torch.from_numpy(state.generator_state.copy()))
    sizes = (table.X.shape[1], *check_hidden_layer_sizes(params["hidden_layer_sizes"]), labels.n_outputs)
    best_flat = None
    if known is None:
        dtype = getattr(torch, resolve_dtype(params["dtype"], table, params["solver"]).name)
        coeffs = _draw_coeffs(params, sizes, labels.output, generator, scales)
        coeffs = replace(coeffs, flat=coeffs.flat.to(device, dtype))
    else:
        coeffs = restore_coeffs(params, sizes, labels.output, known, scales.columns)
        best_flat = resume_state(state, params["solver"], coeffs, scales.columns)
    settings = make_settings(params, len(table), early_stopping)
    if state.history.rate is None:
        state.history.rate = settings.learning_rate_init
    return TrainingRun(
        data=_make_data(table, labels, scales, coeffs),
        settings=settings,
        coeffs=coeffs,
        generator=generator,
        validation=None if validation is None else _make_data(validation, labels, scales, coeffs),
        calc_score=calc_score,
        solver_state={
            name: torch.from_numpy(array).to(coeffs.flat, copy=True) for name, array in state.solver_state.items()
        },
        history=state.history,
        best_flat=best_flat if early_stopping else None,
    )


def _make_data(table: Table, labels: Labels, scales: Scales, coeffs: Coeffs) -> Data:
    """Return the samples as the training of ``coeffs`` takes them, which are of their dtype and on their device."""
    flat = coeffs.flat
    is_first_biased = coeffs.biases[0] is not None
    indeps = scales.make_rows(table, flat).convert(ones=is_first_biased)
    deps = to_tensor(labels.encode(table.y)).to(flat)
    if table.weights is None or not len(table):
        return Data(indeps, deps)
    weight_mean = float(table.weights.mean())
    return Data(indeps, deps, to_tensor(table.weights / weight_mean).to(flat), weight_mean)


def _draw_coeffs(
    params: dict[str, Any], sizes: tuple[int, ...], output: str, generator: torch.Generator, scales: Scales
) -> Coeffs:
    """Draw the coefficients of a network, with weights for the columns that it reads, and zeros for others it has."""
    columns = np.arange(sizes[0]) if scales.is_read is None else list_columns(scales.is_read)
    coeffs = init_coeffs(
        len(columns),
        sizes[1:-1],
        sizes[-1],
        generator=generator,
        init=params["init"],
        activation=params["activation"],
        output=output,
        hidden_bias=params["hidden_bias"],
    )
    if scales.is_read is not None and not scales.is_read.any():
        coeffs.weights[0].zero_()
    if scales.is_read is None or scales.columns is not None:
        return coeffs
    flat = move_columns(coeffs.flat.numpy(), sizes, columns, np.arange(sizes[0]))
    return replace(coeffs, flat=torch.from_numpy(flat), sizes=sizes)
