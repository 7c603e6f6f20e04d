"""One call of `fit` or `partial_fit`: from an estimator and rows to a `TrainingRun`, and to the fitted attributes."""

import copy
import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
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
from ._convert import (
    Labels,
    Rows,
    coeffs_to_arrays,
    move_columns,
    read_coeffs,
    read_scales,
    resolve_device,
    resolve_dtype,
    tensors_to_coeffs,
)
from ._parameters import CONSTRAINTS, make_settings
from ._sklearn import ArrayPlace, check_same_namespace, fetch, find_place, get_class_arguments
from ._tables import Array, Features, Moments, Table, to_host, to_tensor
from ._validation import (
    check_hidden_layer_sizes,
    check_known,
    check_targets,
    check_weights,
    cut_table,
    describe_gap,
    leave_out_rows,
    make_canonical,
    make_class_weights,
    split_validation,
)
from .network import Coeffs, init_coeffs
from .training import Data, History, TrainingRun, train_run
from .training.solvers import SCHEDULES


@dataclass(frozen=True)
class Scales:
    """How the network reads the columns of X. Arrays are (n_features,) each.

    Columns that are zero in all rows of training, as the network reads them, need no weights to train: they have zeros.
    Of a sparse table they are left out, ``columns`` are the others; of a dense one they stay, so that fits on other
    rows of the table have the same shapes, and train in one stack.
    """

    mean: Array | None
    scale: Array | None
    is_read: Array | None = None  # of bool; None: all columns have weights
    columns: Array | None = None  # (n_read,), where the others are left out

    @property
    def n_features(self) -> int:
        """The number of columns of X, where some are not read."""
        return 0 if self.is_read is None else len(self.is_read)

    def make_rows(self, table: Table, like: torch.Tensor) -> Rows:
        """Return the samples of a table as training reads them, as tensors ``like`` this one."""
        scale = self.scale
        if scale is not None and self.is_read is not None:
            scale = np.where(self.is_read, scale, np.inf)  # what varies by rounding is zero, too
        return Rows(table, self.mean, scale, like.dtype, like.device, self.columns)


@dataclass(eq=False)
class State:
    """What `fit` with ``warm_start`` and `partial_fit` go on from, beyond the fitted attributes."""

    seed: int
    solver: str
    history: History
    solver_state: dict[str, Array] = field(default_factory=dict)
    generator_state: Array | None = None
    flat: Array | None = None  # the last coefficients, where early stopping went back to better ones
    best_digest: bytes = b""  # of those, to see whether somebody has set others since
    columns: Array | None = None  # that the buffers are for, see `Scales`; None: all
    moments: Moments | None = None  # of all rows that `partial_fit` has seen


def validate_table(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, reset: bool, suffix: str = ""
) -> tuple[Table, bool]:
    """Return the rows, and whether the targets are multilabel.

    Rows of another array library than NumPy stay where they are, as a tensor; targets and weights go to the host.
    """
    place = find_place(X)
    y, sample_weight = fetch(y), fetch(sample_weight)
    X, y = validate_data(
        estimator, X, y, accept_sparse="csr", dtype=get_float_dtypes(place), multi_output=True, reset=reset
    )
    X = X if place is None else to_tensor(X)
    y, multilabel = check_targets(y)
    return Table(make_canonical(X), y, check_weights(sample_weight, len(y), f"sample_weight{suffix}")), multilabel


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
    table, validation = _choose_rows(estimator, table, validation, labels, state.seed, incremental=incremental)
    if not len(table) and goes_on:
        return  # there is nothing to learn
    params = {name: getattr(estimator, name) for name in CONSTRAINTS}
    if incremental:
        params["max_iter"] = 1
        if params["learning_rate"] in SCHEDULES:  # nobody knows how many calls will come
            params["learning_rate"] = "constant"
    device = resolve_device(params["device"], table.X)
    known = read_coeffs(estimator, device) if goes_on else None
    moments, keeps_scales = _find_moments(estimator, table, state, goes_on=goes_on, incremental=incremental)
    scales = _find_scales(estimator, moments, keeps=keeps_scales)
    if not incremental and (goes_on or params["init"] != "scratch"):  # the plain method draws weights for all columns
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
    if len(table):
        train_run(run)
    if run.error is not None:
        raise run.error
    if run.interrupted:
        warnings.warn("Training interrupted by user. The model so far is kept.", stacklevel=4)
    elif run.warning is not None and not incremental:
        warnings.warn(run.warning, ConvergenceWarning, stacklevel=4)
    best = run.coeffs if run.best_flat is None else replace(run.coeffs, flat=run.best_flat)
    _store_coeffs(estimator, best, labels, scales, place)
    _store_history(estimator, run, goes_on=goes_on)
    if reporter is not None:
        reporter.end(best)
    estimator._state = None
    if estimator.warm_start or incremental:
        _keep_state(run, state, scales.columns)
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


def _get_state(estimator: Any, goes_on: bool) -> State:
    """Return a copy of what the last call left, or what the attributes tell of it, or a new state.

    Its arrays are the last call's: they must not be written to.
    """
    if not goes_on:
        return State(_draw_seed(estimator.random_state), estimator.solver, History())
    state: State | None = getattr(estimator, "_state", None)
    if state is None:
        best_loss = min(getattr(estimator, "loss_curve_", ()), default=np.inf)
        state = State(_draw_seed(estimator.random_state), estimator.solver, History(best_loss=best_loss))
    history = state.history.copy_without_curves()
    history.n_samples_seen = getattr(estimator, "t_", 0)
    return replace(state, history=history, moments=copy.copy(state.moments))


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
    arguments = {} if labels.multilabel else get_class_arguments(scorer, labels.classes)
    # Scorers take other arguments than weights only where scikit-learn routes metadata.
    config = {"array_api_dispatch": False} | ({"enable_metadata_routing": True} if arguments else {})
    if validation.weights is not None:
        arguments["sample_weight"] = validation.weights
    gap = describe_gap(validation, labels)

    def calc_score(coeffs: Coeffs) -> float:
        _store_coeffs(judged, coeffs, labels, scales)
        score = partial(scorer, judged, features, validation.y, **arguments)
        try:
            with config_context(**config):
                return float(score()) if gap is None else _score_despite(gap, estimator.scoring, score)
        except TypeError as error:
            raise ValueError(
                "scoring must be a name, or a callable that takes an estimator, X and y (and sample_weight, where rows "
                f"have weights) and returns a number, got {estimator.scoring!r}, which raised TypeError: {error}. Wrap "
                "a metric of labels in sklearn.metrics.make_scorer."
            ) from error

    return calc_score


def _score_despite(gap: str, scoring: Any, score: Callable[[], float]) -> float:
    """Return the score of validation rows that have a gap, or raise ValueError if it leaves them without a score."""
    try:
        with warnings.catch_warnings():  # scikit-learn would tell of the gap at each epoch
            warnings.filterwarnings("ignore", module=r"(sklearn|numpy)\.")
            value = float(score())
        if not math.isfinite(value):
            raise ValueError(f"the score is {value}")
    except (ValueError, ArithmeticError) as error:
        raise ValueError(
            f"scoring must be defined for the validation rows, which {gap}, got {scoring!r}, which is not: "
            f"{str(error).rstrip('.')}. Pass X_val and y_val that have them all, or another scoring: 'loss' is always "
            "defined."
        ) from error
    return value


def _store_coeffs(
    estimator: Any, coeffs: Coeffs, labels: Labels, scales: Scales, place: ArrayPlace | None = None
) -> None:
    """Set the attributes that predictions need, as NumPy's arrays, or, but for the classes, those of a place."""
    estimator.classes_ = labels.classes
    estimator.out_activation_ = labels.output
    estimator.n_outputs_ = labels.n_outputs
    estimator.n_layers_ = len(coeffs.sizes)
    estimator.mean_, estimator.scale_ = scales.mean, scales.scale
    estimator.coefs_, estimator.intercepts_ = coeffs_to_arrays(coeffs, scales.columns, scales.n_features)
    if place is not None:
        for name in ("mean_", "scale_"):
            value = getattr(estimator, name)
            setattr(estimator, name, None if value is None else place.give(value))
        estimator.coefs_, estimator.intercepts_ = (
            [place.give(array) for array in arrays] for arrays in (estimator.coefs_, estimator.intercepts_)
        )


def _store_history(estimator: Any, run: TrainingRun, *, goes_on: bool) -> None:
    history = run.history
    watched = run.validation is not None
    curves = {
        "loss_curve_": history.losses,
        "training_loss_curve_": history.training_losses,
        "validation_loss_curve_": history.validation_losses if watched else None,
        "validation_scores_": history.validation_scores if watched else None,
    }
    for name, values in curves.items():
        known = getattr(estimator, name, None) if goes_on else None
        if known is None or values is None:
            setattr(estimator, name, values)
        else:
            known += values  # in place: a copy would cost more from call to call
    estimator.n_iter_ = run.n_epochs
    estimator.t_ = history.n_samples_seen
    estimator.loss_ = history.losses[-1] if history.losses else np.nan
    estimator.best_loss_ = None if run.settings.early_stopping else history.best_loss
    estimator.best_validation_score_ = history.best_score if watched else None


def _draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return the seed that the parameter means. None draws one from the operating system, not from NumPy's global."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))


def _find_moments(
    estimator: Any, table: Table, state: State, *, goes_on: bool, incremental: bool
) -> tuple[Moments, bool]:
    """Return what is known of the columns, if anybody wants to know it, and whether the scales stay what they were.

    So `fit` keeps those of an earlier call, and `partial_fit` those of a `fit`, which saw all the data, and those that
    somebody has set. Else it goes on from the moments of all calls, which it keeps in ``state``, in place.
    """
    keeps_scales = goes_on and (not incremental or state.moments is None or not _has_scales(estimator, state.moments))
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
    return _are_equal(mean, moments.calc_mean()) and _are_equal(scale, moments.calc_scale())


def _are_equal(first: Array | None, second: Array | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


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
    return replace(scales, is_read=is_read, columns=_list_columns(is_read) if sparse.issparse(table.X) else None)


def _list_columns(is_read: Array) -> Array:
    """Return the numbers of the columns that a network reads: one at least, as a network has an input."""
    return np.flatnonzero(is_read) if is_read.any() else np.array([0])


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
        coeffs = _restore_coeffs(params, sizes, labels.output, known, scales.columns)
        best_flat = _resume(state, params["solver"], coeffs, scales.columns)
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


def _keep_state(run: TrainingRun, state: State, columns: Array | None) -> None:
    """Keep, in place, what a later call needs to go on from the run."""
    state.solver_state = {name: buffer.cpu().numpy() for name, buffer in run.solver_state.items()}
    state.generator_state = run.generator.get_state().numpy()
    state.columns = columns
    state.flat = None
    if run.best_flat is not None:
        state.flat, state.best_digest = run.coeffs.flat.cpu().numpy(), _digest(run.best_flat)


def _resume(state: State, solver: str, coeffs: Coeffs, columns: Array | None) -> torch.Tensor | None:
    """Prepare the state and the coefficients for going on, in place. Return the best coefficients, if others are best.

    What belongs to another network or solver is of no use, and neither are the last coefficients of early stopping if
    somebody has set others since.
    """
    if state.columns is not None and not _are_equal(state.columns, columns):
        everything = np.arange(coeffs.sizes[0]) if columns is None else columns
        move = partial(move_columns, sizes=coeffs.sizes, old=state.columns, new=everything)
        state.solver_state = {name: move(array) for name, array in state.solver_state.items()}
        state.flat = None if state.flat is None else move(state.flat)
    is_of_use = all(array.shape == coeffs.flat.shape for array in state.solver_state.values())
    if state.solver != solver or not is_of_use:
        state.solver, state.solver_state = solver, {}
        state.history.n_updates, state.history.rate = 0, None
    if state.flat is None or state.flat.shape != coeffs.flat.shape or _digest(coeffs.flat) != state.best_digest:
        return None
    best = coeffs.flat.clone()
    coeffs.flat.copy_(torch.from_numpy(state.flat))
    return best


def _digest(flat: torch.Tensor) -> bytes:
    return hashlib.blake2b(flat.cpu().numpy().data, digest_size=16).digest()


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
    columns = np.arange(sizes[0]) if scales.is_read is None else _list_columns(scales.is_read)
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


def _restore_coeffs(
    params: dict[str, Any],
    sizes: tuple[int, ...],
    output: str,
    known: tuple[list[torch.Tensor], list[torch.Tensor]],
    columns: Array | None,
) -> Coeffs:
    """Return a copy of the network of ``coefs_`` and ``intercepts_``, which reads ``columns``, or all."""
    weights, biases = known
    shapes = [tuple(weight.shape) for weight in weights]
    if shapes != list(pairwise(sizes)):
        raise ValueError(
            "hidden_layer_sizes must not change while training goes on (warm_start=True, or partial_fit), got "
            f"{sizes[1:-1]} where coefs_ has shapes {shapes}. Set it back, or fit with warm_start=False."
        )
    if columns is not None:
        weights = [weights[0][torch.from_numpy(columns).to(weights[0].device)], *weights[1:]]
    coeffs = tensors_to_coeffs(
        weights, biases, activation=params["activation"], output=output, hidden_bias=params["hidden_bias"]
    )
    if not torch.isfinite(coeffs.flat).all():
        raise ValueError(
            "coefs_ and intercepts_ must be finite to go on from them, got NaN or infinity. Set them to finite "
            "numbers, or fit anew."
        )
    return coeffs
