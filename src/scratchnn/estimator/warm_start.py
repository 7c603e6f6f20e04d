"""The initial state of training: new coefficients, or the state that an earlier call has stored."""

import copy
import hashlib
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..checkpoints import describe_value
from ..network import Coeffs
from ..tables.arrays import Array, to_host, to_tensor
from ..tables.statistics import Moments
from ..training import History, Hyperparameters, TrainingRun
from ..training.buffers import Buffer, pack
from ..training.stopping import calc_rate
from .parameters import resolve_seed

FIXED_PARAMS = ("categorical_features", "hidden_bias", "numeric_encoding", "standardize")


@dataclass(eq=False)
class WarmStartState:
    """The state from which `fit` with ``warm_start`` and `partial_fit` resume, besides the fitted attributes."""

    seed: int
    solver: str
    history: History
    schedule: tuple[str, float] | None = None  # learning_rate and learning_rate_init of the history's rate
    solver_state: dict[str, Array] = field(default_factory=dict)
    generator_state: Array | None = None
    flat: Array | None = None  # the last coefficients, if early stopping chose better ones
    best_digest: bytes = b""  # of the best coefficients: shows whether the user has set new ones
    columns: Array | None = None  # of ``solver_state`` and ``flat``, see `ColumnStatistics`; None: all
    moments: Moments | None = None  # of all samples that `partial_fit` has seen


@dataclass(frozen=True)
class InitialState:
    """The fitted attributes from which training starts. Without weights, it starts from new coefficients."""

    device: torch.device
    weights: list[torch.Tensor] = field(default_factory=list)
    biases: list[torch.Tensor] = field(default_factory=list)
    scales: tuple[Array | None, Array | None] = (None, None)  # mean_ and scale_, if columns are scaled
    edges: Array | None = None  # of bins

    def find_trained_columns(self, state: WarmStartState) -> Array | None:
        """Return which columns have weights or moments of the solver, (n_features,) of bool; None: none."""
        if not self.weights:
            return None
        is_trained: Array = self.weights[0].ne(0).any(1).cpu().numpy()
        if state.solver_state or state.flat is not None:
            is_trained[slice(None) if state.columns is None else state.columns] = True
        return is_trained


def get_state(estimator: Any, resume: bool, seed: int | None = None) -> WarmStartState:
    """Return a copy of the state that the last call stored. If there is none, make one from the fitted attributes.

    Without ``resume``, the state is new: it gets ``seed``, or if that is None, a seed from ``random_state``. Arrays are
    not copied, and must not be written to.
    """
    if not resume:
        return WarmStartState(
            resolve_seed(estimator.random_state) if seed is None else seed, estimator.solver, History()
        )
    state: WarmStartState | None = getattr(estimator, "_state", None)
    if state is None:
        best_loss = min(getattr(estimator, "loss_curve_", ()), default=np.inf)
        seed = resolve_seed(estimator.random_state) if seed is None else seed
        state = WarmStartState(seed, estimator.solver, History(best_loss=best_loss))
    history = state.history.copy_without_curves()
    history.n_samples_seen = getattr(estimator, "t_", 0)
    return replace(state, history=history, moments=copy.copy(state.moments))


def check_fixed_params(estimator: Any) -> None:
    """Raise ValueError if a parameter has changed that determines the meaning of the coefficients."""
    for name, before in getattr(estimator, "_fixed_params", {}).items():
        value = getattr(estimator, name)
        if list_fixed_params(estimator)[name] != before:
            raise ValueError(
                f"{name} must not change when training resumes (warm_start=True, or partial_fit), got {value!r} after "
                f"{before}. Set it back, or fit with warm_start=False."
            )


def list_fixed_params(estimator: Any) -> dict[str, str]:
    """Return the parameters that must not change when training resumes, as text."""
    return {name: repr(describe_value(getattr(estimator, name))) for name in FIXED_PARAMS}


def begin_schedule(state: WarmStartState, hyperparameters: Hyperparameters) -> None:
    """Set the learning rate of the history, in place, unless training resumes with the same schedule."""
    schedule = hyperparameters.learning_rate, hyperparameters.learning_rate_init
    if state.history.rate is not None and state.schedule in (None, schedule):
        return
    state.history.rate = calc_rate(hyperparameters, state.history.n_samples_seen)
    if state.schedule is not None and "velocity" in state.solver_state:  # momentum is proportional to the rate
        factor = hyperparameters.learning_rate_init / state.schedule[1]
        state.solver_state = {"velocity": state.solver_state["velocity"] * factor}


def keep_state(run: TrainingRun, state: WarmStartState, columns: Array | None) -> None:
    """Store the state from which a later call resumes the run, in place."""
    state.solver_state = {name: buffer.cpu().numpy() for name, buffer in run.solver_state.items()}
    state.generator_state = run.generator.get_state().numpy()
    state.schedule = run.hyperparameters.learning_rate, run.hyperparameters.learning_rate_init
    state.columns = columns
    state.flat = None
    if run.best_flat is not None:
        state.flat, state.best_digest = run.buffer.flat.cpu().numpy(), _digest(run.best_flat)


def resume_state(state: WarmStartState, solver: str, buffer: Buffer, columns: Array | None) -> torch.Tensor | None:
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
    buffer.flat.copy_(to_tensor(state.flat))
    return best


def are_equal(first: Array | None, second: Array | None) -> bool:
    """Return whether two arrays have equal values, or both are None."""
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def _digest(flat: torch.Tensor) -> bytes:
    return hashlib.blake2b(flat.cpu().numpy().data, digest_size=16).digest()


def move_columns(flat: Array, sizes: tuple[int, ...], old: Array, new: Array) -> Array:
    """Convert the buffer of a network that reads the columns ``old`` to the columns ``new``, with zeros for new ones.

    ``sizes`` are the neurons per layer. Both arrays of column indices are sorted.
    """
    start, width = sum(fan_in * fan_out for fan_in, fan_out in pairwise(sizes[1:])), sizes[1]
    stop = start + len(old) * width
    first = np.zeros((len(new), width), flat.dtype)
    first[np.searchsorted(new, old)] = flat[start:stop].reshape(-1, width)
    return np.concatenate([flat[:start], first.ravel(), flat[stop:]])


def restore_coeffs(
    estimator: Any, start: InitialState, sizes: tuple[int, ...], output: str, columns: Array | None
) -> Buffer:
    """Return a copy of the weights and biases of ``start``, for a network that reads ``columns`` (None: all)."""
    weights = start.weights
    shapes = [tuple(weight.shape) for weight in weights]
    if shapes != list(pairwise(sizes)):
        raise ValueError(
            "hidden_layer_sizes must not change when training resumes (warm_start=True, or partial_fit), got "
            f"{sizes[1:-1]} for coefs_ of shapes {shapes}. Set it back, or fit with warm_start=False."
        )
    if columns is not None:
        weights = [weights[0][torch.from_numpy(columns).to(weights[0].device)], *weights[1:]]
    is_biased = [estimator.hidden_bias] * (len(weights) - 1) + [True]
    biases = [bias if has_bias else None for bias, has_bias in zip(start.biases, is_biased, strict=True)]
    buffer = pack(Coeffs(weights, biases, estimator.activation, output))
    if not torch.isfinite(buffer.flat).all():
        raise ValueError(
            "coefs_ and intercepts_ must be finite when training resumes, got NaN or infinity. Set them to finite "
            "numbers, or fit with warm_start=False."
        )
    return buffer


def list_start(estimator: Any) -> list[Any]:
    """Return the arrays and numbers from which a fitted estimator resumes training."""
    arrays = [*estimator.coefs_, *estimator.intercepts_, estimator.mean_, estimator.scale_, estimator.bin_edges_]
    values: list[Any] = [None if array is None else to_host(array) for array in arrays]
    values += [getattr(estimator, "t_", None), getattr(estimator, "loss_curve_", None)]
    state: WarmStartState | None = getattr(estimator, "_state", None)
    if state is not None:
        history = state.history
        values += [*state.solver_state.values(), state.generator_state, state.flat]
        values += [state.seed, state.solver, history.best_loss, history.best_score, history.n_no_change]
        values += [history.n_updates, history.rate]
    return values
