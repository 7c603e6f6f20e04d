"""From coefficients to fitted attributes and back, and the state from which a later call resumes training."""

import copy
import hashlib
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ..network import Coeffs
from ..training import History, TrainingRun
from ..training.buffers import Buffer, pack
from .arrays import ArrayLibrary
from .bins import count_bins, name_bins
from .encoding import count_columns, name_features
from .labels import Labels
from .parameters import resolve_seed
from .scaling import Moments, Scales
from .tables import Array, has_own_library, to_host, to_tensor


@dataclass(eq=False)
class State:
    """What `fit` with ``warm_start`` and `partial_fit` resume from, besides the fitted attributes."""

    seed: int
    solver: str
    history: History
    solver_state: dict[str, Array] = field(default_factory=dict)
    generator_state: Array | None = None
    flat: Array | None = None  # the last coefficients, if early stopping chose better ones
    best_digest: bytes = b""  # of the better ones: shows whether the user has set others since
    columns: Array | None = None  # that ``solver_state`` and ``flat`` are for, see `Scales`; None: all
    moments: Moments | None = None  # of all rows that `partial_fit` has seen


class Memo:
    """Keeps what predictions have prepared of the fitted attributes. It is empty in copies and files."""

    def __init__(self) -> None:
        self.prepared: Any = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Memo, ()


@dataclass(frozen=True)
class Start:
    """Where training starts: from the fitted attributes, or from new coefficients if there are no weights."""

    device: torch.device
    weights: list[torch.Tensor] = field(default_factory=list)
    biases: list[torch.Tensor] = field(default_factory=list)
    scales: tuple[Array | None, Array | None] = (None, None)  # mean_ and scale_, if columns are scaled
    edges: Array | None = None  # of bins

    def find_trained_columns(self, state: State) -> Array | None:
        """Return which columns have weights or moments of the solver, (n_features,) of bool; None: none."""
        if not self.weights:
            return None
        is_trained: Array = self.weights[0].ne(0).any(1).cpu().numpy()
        if state.solver_state or state.flat is not None:
            is_trained[slice(None) if state.columns is None else state.columns] = True
        return is_trained


def get_state(estimator: Any, resume: bool, seed: int | None = None) -> State:
    """Return a copy of the state that the last call stored. If there is none, make one from the fitted attributes.

    Without ``resume``, the state is new: it gets ``seed``, or if that is None, a seed from ``random_state``. Arrays are
    not copied, and must not be written to.
    """
    if not resume:
        return State(resolve_seed(estimator.random_state) if seed is None else seed, estimator.solver, History())
    state: State | None = getattr(estimator, "_state", None)
    if state is None:
        best_loss = min(getattr(estimator, "loss_curve_", ()), default=np.inf)
        seed = resolve_seed(estimator.random_state) if seed is None else seed
        state = State(seed, estimator.solver, History(best_loss=best_loss))
    history = state.history.copy_without_curves()
    history.n_samples_seen = getattr(estimator, "t_", 0)
    return replace(state, history=history, moments=copy.copy(state.moments))


def keep_state(run: TrainingRun, state: State, columns: Array | None) -> None:
    """Store in ``state``, in place, what a later call needs to resume the run."""
    state.solver_state = {name: buffer.cpu().numpy() for name, buffer in run.solver_state.items()}
    state.generator_state = run.generator.get_state().numpy()
    state.columns = columns
    state.flat = None
    if run.best_flat is not None:
        state.flat, state.best_digest = run.buffer.flat.cpu().numpy(), _digest(run.best_flat)


def resume_state(state: State, solver: str, buffer: Buffer, columns: Array | None) -> torch.Tensor | None:
    """Adapt ``state`` to the network, and set ``buffer`` to the last coefficients if there are any, in place.

    Return the best coefficients, which were in ``buffer`` before; None if the last ones are the best. Drop the solver
    state if it belongs to another network or solver, and the last coefficients if the user has set ``coefs_`` or
    ``intercepts_`` since.
    """
    if state.columns is not None and not are_equal(state.columns, columns):
        read_columns = np.arange(buffer.sizes[0]) if columns is None else columns
        move = partial(move_columns, sizes=buffer.sizes, old=state.columns, new=read_columns)
        state.solver_state = {name: move(array) for name, array in state.solver_state.items()}
        state.flat = None if state.flat is None else move(state.flat)
    fits_network = all(array.shape == buffer.flat.shape for array in state.solver_state.values())
    if state.solver != solver or not fits_network:
        state.solver, state.solver_state = solver, {}
        state.history.n_updates, state.history.rate = 0, None
    if state.flat is None or state.flat.shape != buffer.flat.shape or _digest(buffer.flat) != state.best_digest:
        return None
    best = buffer.flat.clone()
    buffer.flat.copy_(torch.from_numpy(state.flat))
    return best


def are_equal(first: Array | None, second: Array | None) -> bool:
    """Return whether two arrays have equal values, or both are None."""
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def _digest(flat: torch.Tensor) -> bytes:
    return hashlib.blake2b(flat.cpu().numpy().data, digest_size=16).digest()


def store_coeffs(
    estimator: Any, buffer: Buffer, labels: Labels, scales: Scales, array_library: ArrayLibrary | None = None
) -> None:
    """Set the attributes that predictions need. Arrays except the classes are of ``array_library`` (None: NumPy)."""
    estimator.classes_ = labels.classes
    estimator.out_activation_ = labels.output
    estimator.n_outputs_ = labels.n_outputs
    estimator.n_layers_ = len(buffer.sizes)
    estimator.mean_, estimator.scale_, estimator.bin_edges_ = scales.mean, scales.scale, scales.edges
    estimator.coefs_, estimator.intercepts_ = buffer_to_arrays(buffer, scales.columns, scales.n_features)
    estimator._memo = Memo()
    if array_library is not None:
        for name in ("mean_", "scale_", "bin_edges_"):
            value = getattr(estimator, name)
            setattr(estimator, name, None if value is None else array_library.convert(value))
        estimator.coefs_, estimator.intercepts_ = (
            [array_library.convert(array) for array in arrays] for arrays in (estimator.coefs_, estimator.intercepts_)
        )


def store_history(estimator: Any, run: TrainingRun, *, resume: bool) -> None:
    """Set the attributes that tell how training went; on ``resume``, append to the curves of earlier calls."""
    history = run.history
    watched = run.validation is not None
    curves = {
        "loss_curve_": history.losses,
        "training_loss_curve_": history.training_losses,
        "validation_loss_curve_": history.validation_losses if watched else None,
        "validation_scores_": history.validation_scores if watched else None,
    }
    for name, values in curves.items():
        earlier = getattr(estimator, name, None) if resume else None
        if earlier is None or values is None:
            setattr(estimator, name, values)
        else:
            earlier += values  # in place: a copy would cost more with each call
    estimator.alpha_ = run.settings.alpha
    estimator.n_iter_ = run.n_epochs
    estimator.t_ = history.n_samples_seen
    estimator.loss_ = history.losses[-1] if history.losses else np.nan
    estimator.best_loss_ = None if run.settings.early_stopping else history.best_loss
    estimator.best_validation_score_ = history.best_score if watched else None


def buffer_to_arrays(
    buffer: Buffer, columns: Array | None = None, n_features: int = 0
) -> tuple[list[Array], list[Array]]:
    """Return ``coefs_`` and ``intercepts_`` as MLPClassifier has them; zeros where there is no bias.

    They are views of ``buffer``, if that is on the CPU. If the network reads only some ``columns``, the others of the
    ``n_features`` have zeros.
    """
    coeffs = buffer.view()
    coefs = [weight.detach().cpu().numpy() for weight in coeffs.weights]
    intercepts = [
        np.zeros(weight.shape[1], weight.dtype) if bias is None else bias.detach().cpu().numpy()[0]
        for weight, bias in zip(coefs, coeffs.biases, strict=True)
    ]
    if columns is not None:
        first = coefs[0]
        coefs[0] = np.zeros((n_features, first.shape[1]), first.dtype)
        coefs[0][columns] = first
    return coefs, intercepts


def read_coeffs(estimator: Any, device: torch.device) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return ``coefs_`` and ``intercepts_`` as tensors of one float type, whatever arrays or lists they were set to.

    Raises
    ------
    ValueError
        If they are not the weights and biases of one network.
    """
    weights = [_to_float_tensor(values, "coefs_").to(device) for values in estimator.coefs_]
    biases = [_to_float_tensor(values, "intercepts_").to(device) for values in estimator.intercepts_]
    dtype = reduce(torch.promote_types, (values.dtype for values in (*weights, *biases)))
    if any(values.dtype != dtype for values in (*weights, *biases)):
        weights, biases = ([values.to(dtype) for values in each] for each in (weights, biases))
    shapes = [tuple(weight.shape) for weight in weights]
    n_columns = count_columns(estimator) + count_bins(read_edges(estimator))
    is_network = (
        all(len(shape) == 2 for shape in shapes)
        and all(first[1] == second[0] for first, second in pairwise(shapes))
        and [tuple(bias.shape) for bias in biases] == [shape[1:] for shape in shapes]
        and shapes[0][0] == n_columns
        and shapes[-1][1] == estimator.n_outputs_
    )
    if not is_network:
        raise ValueError(
            "coefs_ and intercepts_ must be the weights (fan_in, fan_out) and the biases (fan_out,) of layers that "
            f"lead from {n_columns} columns to {estimator.n_outputs_} outputs, got shapes {shapes} and "
            f"{[tuple(bias.shape) for bias in biases]}. Set all of them, or fit again."
        )
    return weights, biases


def read_edges(estimator: Any) -> Array | None:
    """Return ``bin_edges_`` as an array of NumPy, or None."""
    return None if estimator.bin_edges_ is None else to_host(estimator.bin_edges_)


def name_encoded_columns(estimator: Any) -> Array:
    """Return the names of what the rows of ``coefs_[0]`` stand for, (n_rows,): encoded columns, then bins."""
    check_is_fitted(estimator)
    names = name_features(getattr(estimator, "feature_names_in_", None), estimator.n_features_in_)
    if estimator.encoder_ is not None:
        names = estimator.encoder_.get_feature_names_out(names)
    return np.concatenate([names, name_bins(names, read_edges(estimator))]).astype(object)


def get_linear_weights(estimator: Any, name: str) -> Array:
    """Return the weights of a network without hidden layer and bins, for its attribute of this ``name``."""
    if len(getattr(estimator, "coefs_", ())) != 1 or estimator.bin_edges_ is not None:
        raise AttributeError(
            f"{name} is there only after fit, and without hidden layer (hidden_layer_sizes=()) and bins "
            "(numeric_encoding=None)."
        )
    weights: Array = estimator.coefs_[0]
    return weights


def read_scales(estimator: Any) -> tuple[Array | None, Array | None]:
    """Return ``mean_`` and ``scale_``, (n_columns,) each or None, as float64, whatever they were set to."""
    n_columns = count_columns(estimator)
    columns: list[Array | None] = []
    for name in ("mean_", "scale_"):
        values = getattr(estimator, name)
        if values is not None:
            values = np.asarray(to_host(values), np.float64)
            if values.shape != (n_columns,):
                raise ValueError(
                    f"{name} must have shape ({n_columns},), one number a column, got {values.shape}. "
                    "Set it so, or fit again."
                )
        columns.append(values)
    return columns[0], columns[1]


def _to_float_tensor(values: Any, name: str) -> torch.Tensor:
    """Return an array of any library, or lists, as a tensor of float32 or float64."""
    if not has_own_library(values):
        values = np.asarray(values)
        if values.dtype not in (np.float32, np.float64):
            try:
                values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{name} must hold arrays of real numbers, got one of dtype {values.dtype}. Set it to a list with "
                    "an array for each layer."
                ) from error
    tensor = to_tensor(values)
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.float64)


def move_columns(flat: Array, sizes: tuple[int, ...], old: Array, new: Array) -> Array:
    """Return the buffer of a network that reads the columns ``old`` as one that reads ``new``: zeros for the others.

    ``sizes`` are the neurons per layer. Both arrays of column numbers are sorted.
    """
    start, width = sum(fan_in * fan_out for fan_in, fan_out in pairwise(sizes[1:])), sizes[1]
    stop = start + len(old) * width
    first = np.zeros((len(new), width), flat.dtype)
    first[np.searchsorted(new, old)] = flat[start:stop].reshape(-1, width)
    return np.concatenate([flat[:start], first.ravel(), flat[stop:]])


def restore_coeffs(estimator: Any, start: Start, sizes: tuple[int, ...], output: str, columns: Array | None) -> Buffer:
    """Return a copy of the weights and biases of ``start``, for a network that reads ``columns`` (None: all)."""
    weights = start.weights
    shapes = [tuple(weight.shape) for weight in weights]
    if shapes != list(pairwise(sizes)):
        raise ValueError(
            "hidden_layer_sizes must not change while training goes on (warm_start=True, or partial_fit), got "
            f"{sizes[1:-1]} where coefs_ has shapes {shapes}. Set it back, or fit with warm_start=False."
        )
    if columns is not None:
        weights = [weights[0][torch.from_numpy(columns).to(weights[0].device)], *weights[1:]]
    is_biased = [estimator.hidden_bias] * (len(weights) - 1) + [True]
    biases = [bias if has_bias else None for bias, has_bias in zip(start.biases, is_biased, strict=True)]
    buffer = pack(Coeffs(weights, biases, estimator.activation, output))
    if not torch.isfinite(buffer.flat).all():
        raise ValueError(
            "coefs_ and intercepts_ must be finite to go on from them, got NaN or infinity. Set them to finite "
            "numbers, or fit anew."
        )
    return buffer


def read_labels(estimator: Any) -> Labels:
    """Return the classes that a fitted estimator tells apart."""
    return Labels(estimator.classes_, bool(estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1))
