"""From an estimator and its data to a `TrainingRun`, and from the trained run to the estimator's attributes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state

from ._convert import (
    Array,
    Labels,
    arrays_to_coeffs,
    convert_features,
    fit_scaler,
    resolve_device,
    resolve_dtype,
    to_tensor,
)
from ._parameters import make_settings
from ._validation import check_hidden_layer_sizes
from .network import Coeffs, init_coeffs
from .training import Data, History, TrainingRun


@dataclass(eq=False)
class Table:
    """Valid rows: ``X`` (n_samples, n_features), ``y`` for `Labels.encode`, ``weights`` (n_samples,) or None."""

    X: Array
    y: Array
    weights: Array | None

    def take(self, mask: Array) -> "Table":
        """Return the rows of a mask, (n_samples,)."""
        return Table(self.X[mask], self.y[mask], None if self.weights is None else self.weights[mask])


@dataclass(eq=False)
class State:
    """What `fit` with ``warm_start`` and `partial_fit` go on from, beyond the fitted attributes."""

    seed: int
    solver: str
    history: History
    solver_state: dict[str, Array] = field(default_factory=dict)
    generator_state: Array | None = None
    flat: Array | None = None  # the last coefficients, where early stopping went back to better ones
    scaler: StandardScaler | None = None


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return the seed that the parameter means. None draws one from the operating system, not from NumPy's global."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))


def find_scale(table: Table, state: State, known: tuple[Any, Any] | None, incremental: bool) -> tuple[Array, Array]:
    """Return the mean and scale of the columns, each (n_features,), keeping statistics in ``state`` in place.

    ``known`` are those of the call before. A call of `fit` keeps them; `partial_fit` goes on averaging, unless a plain
    `fit`, which saw all the data, came first.
    """
    if known is not None and (state.scaler is None or not incremental):
        return known
    scaler = StandardScaler() if state.scaler is None else state.scaler
    fit_scaler(scaler, table.X, table.weights)
    state.scaler = scaler if incremental else None
    return np.array(scaler.mean_), np.array(scaler.scale_)


def make_run(
    params: dict[str, Any],
    table: Table,
    validation: Table | None,
    labels: Labels,
    state: State,
    *,
    scales: tuple[Array | None, Array | None],
    arrays: tuple[list[Array], list[Array]] | None,
    calc_score: Callable[[Coeffs], float] | None,
    max_iter: int,
    early_stopping: bool,
) -> TrainingRun:
    """Return the run that trains a network on a table.

    ``params`` are the estimator's, ``scales`` the mean and scale of the columns, or None for each, and ``arrays`` the
    ``coefs_`` and ``intercepts_`` to start from, if not from newly drawn ones.
    """
    device = resolve_device(params["device"])
    generator = torch.Generator("cpu").manual_seed(state.seed)
    if state.generator_state is not None:
        generator.set_state(torch.from_numpy(state.generator_state.copy()))
    sizes = (table.X.shape[1], *check_hidden_layer_sizes(params["hidden_layer_sizes"]), labels.n_outputs)
    if arrays is None:
        dtype = resolve_dtype(params["dtype"], table.X, params["solver"])
        coeffs = _draw_coeffs(params, sizes, labels.output, generator, dtype, device)
    else:
        dtype = arrays[0][0].dtype
        coeffs = _restore_coeffs(params, sizes, labels.output, arrays, device)
    best_flat = None
    if state.flat is not None:
        best_flat = coeffs.flat.clone() if early_stopping else None
        coeffs.flat.copy_(torch.from_numpy(state.flat))
    settings = make_settings(params, len(table.X), max_iter, early_stopping)
    if state.solver != params["solver"]:  # another solver's state is of no use
        state.solver, state.solver_state = params["solver"], {}
        state.history.n_updates, state.history.rate = 0, None
    if state.history.rate is None:
        state.history.rate = settings.learning_rate_init
    return TrainingRun(
        data=_make_data(table, labels, scales, dtype, device),
        settings=settings,
        coeffs=coeffs,
        generator=generator,
        validation=None if validation is None else _make_data(validation, labels, scales, dtype, device),
        calc_score=calc_score,
        solver_state={name: torch.from_numpy(array).to(device) for name, array in state.solver_state.items()},
        history=state.history,
        best_flat=best_flat,
    )


def keep_state(run: TrainingRun, state: State) -> None:
    """Keep, in place, what a later call needs to go on from the run."""
    state.solver_state = {name: buffer.cpu().numpy() for name, buffer in run.solver_state.items()}
    state.generator_state = run.generator.get_state().numpy()
    state.flat = None if run.best_flat is None else run.coeffs.flat.cpu().numpy()


def _make_data(
    table: Table,
    labels: Labels,
    scales: tuple[Array | None, Array | None],
    dtype: np.dtype[Any],
    device: torch.device,
) -> Data:
    indeps = to_tensor(convert_features(table.X, *scales, dtype), device)
    deps = to_tensor(labels.encode(table.y, dtype), device)
    if table.weights is None:
        return Data(indeps, deps)
    weight_mean = float(table.weights.mean())
    return Data(indeps, deps, to_tensor((table.weights / weight_mean).astype(dtype), device), weight_mean)


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
