"""The constructor's parameters: which values they may take, named configurations, and what training makes of them."""

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.metrics import get_scorer_names
from sklearn.utils import check_random_state

from ..losses import LOSSES
from ..network import ACTIVATIONS
from ..solvers import SCHEDULES
from ..training import Settings
from .compat import Interval, Options, StrOptions, warn_user
from .tables import Table

N_SMALL_ROWS = 100  # up to so many rows, dtype="auto" trains in the precision of X
CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions(set(ACTIVATIONS))],
    "solver": [StrOptions({"adam", "sgd", "lbfgs"})],
    "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto", "full"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive", *SCHEDULES})],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left"), None],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    "loss": [StrOptions(set(LOSSES)), callable],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "class_weight": [dict, list, StrOptions({"balanced"}), None],
    "standardize": ["boolean"],
    "init": [StrOptions({"glorot_uniform", "he_uniform", "scratch"})],
    "hidden_bias": ["boolean"],
    "device": [str, torch.device],
    "dtype": [StrOptions({"auto", "float32", "float64"})],
    "scoring": [StrOptions({"loss", *get_scorer_names()}), callable],
}
# What to say of values that other libraries or parameters take: the types of such values, and the way out.
HINTS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "learning_rate": (Real, "learning_rate is the schedule. Set learning_rate_init={value}, which is the rate."),
    "learning_rate_init": (str, "learning_rate_init is the rate, a number, and learning_rate the schedule."),
    "batch_size": (Real, "batch_size counts rows. Set for example batch_size=32, or 'full' for all rows."),
    "alpha": ((str, type(None)), "Set alpha=0 for no penalty."),
    "hidden_layer_sizes": (type(None), "Set hidden_layer_sizes=() for no hidden layer."),
    "activation": ((str, type(None)), "The sigmoid is 'logistic', and no activation 'identity'."),
    "early_stopping": (Real, "Set early_stopping=True, and n_iter_no_change={value} for the epochs to wait."),
    "validation_fraction": (
        Real,
        "validation_fraction is a share of the rows. Pass X_val and y_val for rows of yours.",
    ),
    "n_iter_no_change": (type(None), "Set n_iter_no_change=np.inf for as many epochs as max_iter."),
    "tol": (type(None), "Set tol=0 to count any improvement."),
    "loss": (str, "Cross-entropy, binary or not, is 'log_loss'."),
    "dropout": (object, "dropout is one share for all hidden layers. Set for example dropout=0.2, or 0 for none."),
    "dtype": (object, "Pass the name, for example dtype='float32'."),
    "device": (Integral, "Pass the name, for example device='cuda:{value}'."),
    "scoring": (object, "Pass one name or one scorer, or 'loss' for the validation loss."),
}
RECIPES: dict[str, dict[str, Any]] = {
    # The plain method of `network`, to the letter.
    "scratch": {
        "hidden_layer_sizes": (20,),
        "hidden_bias": False,
        "init": "scratch",
        "loss": "mae",
        "solver": "sgd",
        "momentum": 0.0,
        "nesterovs_momentum": False,
        "alpha": 0.0,
        "batch_size": "full",
        "shuffle": False,
        "learning_rate": "constant",
        "learning_rate_init": 0.1,
        "max_iter": 30,
        "tol": 0.0,
        "n_iter_no_change": np.inf,
        "standardize": False,
        "dtype": "float32",
    },
}


def find_hint(params: dict[str, Any], message: str) -> str:
    """Return what helps against scikit-learn's error about one of the parameters, with a space before it, or ''."""
    for name, (types, hint) in HINTS.items():
        if f"The {name!r} parameter" in message and isinstance(params[name], types):
            return f" {hint.format(value=params[name])}"
    return ""


def make_settings(params: dict[str, Any], n_samples: int, early_stopping: bool) -> Settings:
    """Return how to train on ``n_samples`` rows, from the (valid) parameters of the estimator.

    Where ``alpha`` is "auto", they include ``alpha_per_row``.
    """
    batch_size, solver, schedule = params["batch_size"], params["solver"], params["learning_rate"]
    if solver == "lbfgs" and params["dropout"]:
        raise ValueError(
            f"dropout must be 0 with solver='lbfgs', which needs the same loss at every step, got {params['dropout']}. "
            "Use solver='adam', or alpha against overfitting."
        )
    if not isinstance(batch_size, str) and batch_size > n_samples:
        warn_user(
            f"batch_size={batch_size} is larger than the {n_samples} training rows, which make one batch. Lower it, or "
            "set batch_size='full'."
        )
    # L-BFGS stops by its gradient, not by patience, unless it watches a validation set.
    patience = np.inf if solver == "lbfgs" and not early_stopping else params["n_iter_no_change"]
    if solver == "lbfgs" or (solver == "adam" and schedule not in SCHEDULES):
        schedule = "constant"
    # In steps of 8, so that folds which differ by a row have batches of one size, and can train as a stack.
    automatic = min(max(32, n_samples // 80 * 8), 200)
    batch_size = min({"auto": automatic, "full": n_samples}.get(batch_size, batch_size), n_samples)
    alpha, max_iter = params["alpha"], params["max_iter"]
    default_max_iter = 50 if schedule in SCHEDULES else 200
    if alpha == "auto":
        alpha = params["alpha_per_row"] * (n_samples if solver == "lbfgs" else batch_size)
    resolved: dict[str, Any] = {
        "alpha": alpha,
        "batch_size": batch_size,
        "learning_rate": schedule,
        "max_iter": default_max_iter if max_iter is None else max_iter,
        # A schedule that is over before patience could be is one that the user cut short.
        "ends_by_itself": schedule in SCHEDULES and (max_iter is None or max_iter >= min(default_max_iter, patience)),
        "early_stopping": early_stopping,
        "n_iter_no_change": patience,
        "verbose": bool(params["verbose"]),
    }
    same = {name: params[name] for name in Settings.__dataclass_fields__ if name not in resolved}
    return Settings(**same, **resolved)


def check_hidden_layer_sizes(sizes: Any) -> tuple[int, ...]:
    """Return the parameter as a tuple of plain integers, or raise ValueError."""
    sizes = tuple(np.atleast_1d(np.asarray(sizes, dtype=object)).tolist())
    if not all(isinstance(size, int | np.integer) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise ValueError(
            f"hidden_layer_sizes must be > 0, whole numbers, one for each hidden layer, got {sizes}. Use for example "
            "(100,), or () for no hidden layer."
        )
    return tuple(int(size) for size in sizes)


def resolve_dtype(dtype: str, table: Table, solver: str) -> np.dtype[Any]:
    """Return the dtype to train in. "auto": that of X where it is float32, small, or for lbfgs; else float32."""
    if dtype != "auto":
        return np.dtype(dtype)
    own = np.dtype(str(table.X.dtype).removeprefix("torch."))
    return own if len(table) <= N_SMALL_ROWS or solver == "lbfgs" else np.dtype(np.float32)


def resolve_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return the seed that the parameter means. None draws one from the operating system, not from NumPy's global."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))
