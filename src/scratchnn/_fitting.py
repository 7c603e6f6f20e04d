"""One call of `fit` or `partial_fit`: from an estimator and rows to a `TrainingRun`, and to the fitted attributes."""

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from ._callbacks import Reporter, has_callbacks
from ._convert import Labels, Rows, arrays_to_coeffs, coeffs_to_arrays, resolve_device, resolve_dtype
from ._parameters import CONSTRAINTS, make_settings
from ._sklearn import ArrayPlace, check_same_namespace, fetch, find_place
from ._tables import Array, Features, Moments, Table, to_host, to_tensor
from ._validation import (
    check_hidden_layer_sizes,
    check_known,
    check_targets,
    check_weights,
    make_canonical,
    split_validation,
    weigh_classes,
)
from .network import Coeffs, init_coeffs
from .solvers import SCHEDULES
from .training import Data, History, TrainingRun, train_run

Scales = tuple[Array | None, Array | None]  # mean and scale of the columns, (n_features,) each, or None


@dataclass(eq=False)
class State:
    """What `fit` with ``warm_start`` and `partial_fit` go on from, beyond the fitted attributes."""

    seed: int
    solver: str
    history: History
    solver_state: dict[str, Array] = field(default_factory=dict)
    generator_state: Array | None = None
    flat: Array | None = None  # the last coefficients, where early stopping went back to better ones
    moments: Moments | None = None  # of all rows that `partial_fit` has seen


def validate_table(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, reset: bool, suffix: str = ""
) -> tuple[Table, bool]:
    """Return the rows that have a positive weight, and whether the targets are multilabel.

    Rows of another array library than NumPy stay where they are, as a tensor; targets and weights go to the host.
    """
    place = find_place(X)
    y, sample_weight = fetch(y), fetch(sample_weight)
    X, y = validate_data(
        estimator, X, y, accept_sparse="csr", dtype=get_float_dtypes(place), multi_output=True, reset=reset
    )
    X = X if place is None else to_tensor(X)
    y, multilabel = check_targets(y)
    table = Table(make_canonical(X), y, check_weights(sample_weight, len(y), f"sample_weight{suffix}"))
    weights = table.weights
    return table if weights is None or weights.all() else table.take(weights > 0), multilabel


def get_float_dtypes(place: ArrayPlace | None) -> tuple[Any, Any]:
    """Return the dtypes that X may keep, of NumPy or of the library that it is of."""
    namespace: Any = np if place is None else place.namespace
    return namespace.float64, namespace.float32


def validate_features(estimator: Any, X: Any, method: str) -> Features:
    """Return the rows to predict with ``method``, as scikit-learn checks them.

    That takes longer than the prediction of a few rows, and there is nothing to find about an array of floats of the
    right shape, but whether they are finite. So are they, if their sum is.
    """
    if (
        type(X) is np.ndarray
        and X.dtype in (np.float64, np.float32)
        and X.ndim == 2
        and X.shape[0] > 0
        and X.shape[1] == estimator.n_features_in_
        and not hasattr(estimator, "feature_names_in_")
        and type(estimator.coefs_[0]) is np.ndarray
        and math.isfinite(to_tensor(X).sum())
    ):
        return X
    check_same_namespace(X, estimator, attribute="_first_coef", method=method)
    place = find_place(X)
    X = validate_data(estimator, X, accept_sparse="csr", dtype=get_float_dtypes(place), reset=False)
    return make_canonical(X) if place is None else to_tensor(X)


def validate_validation_table(estimator: Any, X_val: Any, y_val: Any, sample_weight_val: Any, labels: Labels) -> Table:
    """Return the validation rows, whose errors say that it is they."""
    if X_val is None or y_val is None:
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(f"X_val and y_val must be given together, got None for {missing}. Pass both.")
    try:
        table, multilabel = validate_table(estimator, X_val, y_val, sample_weight_val, reset=False, suffix="_val")
    except ValueError as error:
        raise ValueError(f"The validation data, X_val and y_val, are not as they must be: {error}") from error
    check_known(table.y, multilabel, labels, "y_val")
    return table


def fit_network(
    estimator: Any,
    table: Table,
    validation: Table | None,
    labels: Labels,
    *,
    goes_on: bool,
    incremental: bool = False,
    place: ArrayPlace | None = None,
    reported: dict[str, Any] | None = None,
) -> None:
    """Train a network on a table, and set the estimator's fitted attributes in place.

    ``goes_on`` says whether to start from the attributes as they are, ``incremental`` whether this is `partial_fit`.
    ``place`` is where the arrays of the fitted model belong, if they are not to be NumPy's, and ``reported`` are the X,
    y and metadata that callbacks get to see.
    """
    early_stopping = estimator.early_stopping and not incremental
    state = _get_state(estimator, goes_on)
    table, validation = weigh_classes(estimator.class_weight, labels, table, validation)
    if early_stopping and validation is None:
        codes = table.y if labels.multilabel else np.searchsorted(labels.classes, table.y)
        held_out = split_validation(replace(table, y=codes), estimator.validation_fraction, state.seed)
        table, validation = table.take(~held_out), table.take(held_out)
    params = {name: getattr(estimator, name) for name in CONSTRAINTS}
    if incremental:
        params["max_iter"] = 1
        if params["learning_rate"] in SCHEDULES:  # nobody knows how many calls will come
            params["learning_rate"] = "constant"
    moments, keeps_scales = _find_moments(params, table, state, goes_on=goes_on, incremental=incremental)
    scales: Scales = (None, None)
    if params["standardize"]:
        scales = _find_scales(estimator, table, moments, goes_on=goes_on, keeps=keeps_scales)
    if params["alpha"] == "auto":
        n_seen = len(table) + (state.history.n_samples_seen if incremental else 0)
        # Weights below 1 on average are shares (AdaBoost's sum up to 1), and not so many rows fewer.
        weight_mean = 1.0 if table.weights is None else min(1.0, float(table.weights.mean()))
        params["alpha_per_row"] = moments.calc_row_length(scales[1]) * weight_mean / n_seen
    run = _make_run(
        params,
        table,
        validation,
        labels,
        state,
        scales=scales,
        arrays=([*map(to_host, estimator.coefs_)], [*map(to_host, estimator.intercepts_)]) if goes_on else None,
        calc_score=_make_calc_score(estimator, validation, labels, scales),
        early_stopping=early_stopping,
    )
    reporter = None
    if reported is not None and has_callbacks(estimator):

        def describe(coeffs: Coeffs) -> dict[str, Any]:
            described = SimpleNamespace()
            _store_coeffs(described, coeffs, labels, scales, place)
            return vars(described)

        reporter = Reporter(estimator, run.settings.max_iter, reported, describe)
        run.on_epoch = reporter.end_epoch
    train_run(run)
    if run.error is not None:
        raise run.error
    if run.interrupted:
        warnings.warn("Training interrupted by user. The model so far is kept.", stacklevel=4)
    elif run.warning is not None and not incremental:
        warnings.warn(run.warning, ConvergenceWarning, stacklevel=4)
    best = run.coeffs if run.best_flat is None else replace(run.coeffs, flat=run.best_flat)
    _store_coeffs(estimator, best, labels, scales, place)
    _store_history(estimator, run)
    if reporter is not None:
        reporter.end(best)
    estimator._state = None
    if estimator.warm_start or incremental:
        _keep_state(run, state)
        estimator._state = state


def _get_state(estimator: Any, goes_on: bool) -> State:
    """Return a copy of what the last call left, or what the attributes tell of it, or a new state."""
    state: State | None = getattr(estimator, "_state", None) if goes_on else None
    if state is not None:
        return copy.deepcopy(state)
    history = History()
    if goes_on:
        history.losses = list(getattr(estimator, "loss_curve_", ()))
        history.training_losses = list(getattr(estimator, "training_loss_curve_", ()))
        history.best_loss = min(history.losses, default=np.inf)
        history.n_samples_seen = getattr(estimator, "t_", 0)
    return State(_draw_seed(estimator.random_state), estimator.solver, history)


def _make_calc_score(
    estimator: Any, validation: Table | None, labels: Labels, scales: Scales
) -> Callable[[Coeffs], float] | None:
    """Return what scores coefficients on the validation rows; None where their loss serves."""
    scorer = None if estimator.scoring == "loss" else check_scoring(estimator, scoring=estimator.scoring)
    if validation is None or scorer is None:
        return None
    judged = clone(estimator)
    judged.n_features_in_ = estimator.n_features_in_  # and no feature names: the rows are an array by now
    features = validation.get_features()
    features = features if sparse.issparse(features) else to_host(features)
    weights = {} if validation.weights is None else {"sample_weight": validation.weights}

    def calc_score(coeffs: Coeffs) -> float:
        _store_coeffs(judged, coeffs, labels, scales)
        try:
            with config_context(array_api_dispatch=False):
                return float(scorer(judged, features, validation.y, **weights))
        except TypeError as error:
            raise ValueError(
                "scoring must be a name, or a callable that takes an estimator, X and y (and sample_weight, where rows "
                f"have weights) and returns a number, got {estimator.scoring!r}, which raised TypeError: {error}. Wrap "
                "a metric of labels in sklearn.metrics.make_scorer."
            ) from error

    return calc_score


def _store_coeffs(
    estimator: Any, coeffs: Coeffs, labels: Labels, scales: Scales, place: ArrayPlace | None = None
) -> None:
    """Set the attributes that predictions need, as NumPy's arrays, or, but for the classes, those of a place."""
    estimator.classes_ = labels.classes
    estimator.out_activation_ = labels.output
    estimator.n_outputs_ = labels.n_outputs
    estimator.n_layers_ = len(coeffs.sizes)
    estimator.mean_, estimator.scale_ = scales
    estimator.coefs_, estimator.intercepts_ = coeffs_to_arrays(coeffs)
    if place is not None:
        for name in ("mean_", "scale_"):
            value = getattr(estimator, name)
            setattr(estimator, name, None if value is None else place.give(value))
        estimator.coefs_, estimator.intercepts_ = (
            [place.give(array) for array in arrays] for arrays in (estimator.coefs_, estimator.intercepts_)
        )


def _store_history(estimator: Any, run: TrainingRun) -> None:
    history = run.history
    estimator.n_iter_ = run.n_epochs
    estimator.t_ = history.n_samples_seen
    estimator.loss_curve_ = history.losses
    estimator.training_loss_curve_ = history.training_losses
    estimator.loss_ = history.losses[-1] if history.losses else np.nan
    estimator.best_loss_ = None if run.settings.early_stopping else history.best_loss
    watched = run.validation is not None
    estimator.validation_loss_curve_ = history.validation_losses if watched else None
    estimator.validation_scores_ = history.validation_scores if watched else None
    estimator.best_validation_score_ = history.best_score if watched else None


def _draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return the seed that the parameter means. None draws one from the operating system, not from NumPy's global."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))


def _find_moments(
    params: dict[str, Any], table: Table, state: State, *, goes_on: bool, incremental: bool
) -> tuple[Moments, bool]:
    """Return what is known of the columns, if anybody wants to know it, and whether the scales stay what they were.

    So `fit` keeps those of an earlier call, and `partial_fit` those of a `fit`, which saw all the data. Else it goes on
    from the moments of all calls, which it keeps in ``state``, in place.
    """
    keeps_scales = goes_on and (not incremental or state.moments is None)
    moments = Moments() if keeps_scales or state.moments is None else state.moments
    if params["standardize"] or params["alpha"] == "auto":
        moments.add(table)
    if incremental and not keeps_scales:
        state.moments = moments
    return moments, keeps_scales


def _find_scales(estimator: Any, table: Table, moments: Moments, *, goes_on: bool, keeps: bool) -> Scales:
    """Return the mean and scale of the columns, each (n_features,): those of the call before if it ``keeps`` them.

    Sparse columns are not to be centred, which would make them dense: their mean is None.
    """
    known: Scales | None = None
    if goes_on and estimator.scale_ is not None:
        known = (None if estimator.mean_ is None else to_host(estimator.mean_), to_host(estimator.scale_))
        if keeps:
            return known
    is_centred = not sparse.issparse(table.X) if known is None else known[0] is not None
    return np.asarray(moments.mean) if is_centred else None, moments.calc_scale(is_centred)


def _make_run(
    params: dict[str, Any],
    table: Table,
    validation: Table | None,
    labels: Labels,
    state: State,
    *,
    scales: Scales,
    arrays: tuple[list[Array], list[Array]] | None,
    calc_score: Callable[[Coeffs], float] | None,
    early_stopping: bool,
) -> TrainingRun:
    """Return the run that trains a network on a table.

    ``params`` are the estimator's, ``scales`` the mean and scale of the columns, or None for each, and ``arrays`` the
    ``coefs_`` and ``intercepts_`` to start from, if not from newly drawn ones.
    """
    device = resolve_device(params["device"], table.X)
    generator = torch.Generator("cpu").manual_seed(state.seed)
    if state.generator_state is not None:
        generator.set_state(torch.from_numpy(state.generator_state.copy()))
    sizes = (table.X.shape[1], *check_hidden_layer_sizes(params["hidden_layer_sizes"]), labels.n_outputs)
    if arrays is None:
        dtype = resolve_dtype(params["dtype"], table, params["solver"])
        coeffs = _draw_coeffs(params, sizes, labels.output, generator, dtype, device)
    else:
        dtype = arrays[0][0].dtype
        coeffs = _restore_coeffs(params, sizes, labels.output, arrays, device)
    best_flat = None
    if state.flat is not None:
        best_flat = coeffs.flat.clone() if early_stopping else None
        coeffs.flat.copy_(torch.from_numpy(state.flat))
    settings = make_settings(params, len(table), early_stopping)
    if state.solver != params["solver"]:  # another solver's state is of no use
        state.solver, state.solver_state = params["solver"], {}
        state.history.n_updates, state.history.rate = 0, None
    if state.history.rate is None:
        state.history.rate = settings.learning_rate_init
    return TrainingRun(
        data=_make_data(table, labels, scales, coeffs),
        settings=settings,
        coeffs=coeffs,
        generator=generator,
        validation=None if validation is None else _make_data(validation, labels, scales, coeffs),
        calc_score=calc_score,
        solver_state={name: torch.from_numpy(array).to(device) for name, array in state.solver_state.items()},
        history=state.history,
        best_flat=best_flat,
    )


def _keep_state(run: TrainingRun, state: State) -> None:
    """Keep, in place, what a later call needs to go on from the run."""
    state.solver_state = {name: buffer.cpu().numpy() for name, buffer in run.solver_state.items()}
    state.generator_state = run.generator.get_state().numpy()
    state.flat = None if run.best_flat is None else run.coeffs.flat.cpu().numpy()


def _make_data(table: Table, labels: Labels, scales: Scales, coeffs: Coeffs) -> Data:
    """Return the samples as the training of ``coeffs`` takes them, which are of their dtype and on their device."""
    flat = coeffs.flat
    is_first_biased = coeffs.biases[0] is not None
    indeps = Rows(table, *scales, flat.dtype, flat.device).convert(ones=is_first_biased)
    deps = to_tensor(labels.encode(table.y)).to(flat)
    if table.weights is None:
        return Data(indeps, deps)
    weight_mean = float(table.weights.mean())
    return Data(indeps, deps, to_tensor(table.weights / weight_mean).to(flat), weight_mean)


def _draw_coeffs(
    params: dict[str, Any],
    sizes: tuple[int, ...],
    output: str,
    generator: torch.Generator,
    dtype: np.dtype[Any],
    device: torch.device,
) -> Coeffs:
    coeffs = init_coeffs(
        sizes[0],
        sizes[1:-1],
        sizes[-1],
        generator=generator,
        init=params["init"],
        activation=params["activation"],
        output=output,
        hidden_bias=params["hidden_bias"],
    )
    return replace(coeffs, flat=coeffs.flat.to(device, getattr(torch, dtype.name)))


def _restore_coeffs(
    params: dict[str, Any],
    sizes: tuple[int, ...],
    output: str,
    arrays: tuple[list[Array], list[Array]],
    device: torch.device,
) -> Coeffs:
    shapes = [coef.shape for coef in arrays[0]]
    if shapes != list(pairwise(sizes)):
        raise ValueError(
            "hidden_layer_sizes must not change while training goes on (warm_start=True, or partial_fit), got "
            f"{sizes[1:-1]} where coefs_ has shapes {shapes}. Set it back, or fit with warm_start=False."
        )
    return arrays_to_coeffs(
        *arrays, activation=params["activation"], output=output, hidden_bias=params["hidden_bias"], device=device
    )
