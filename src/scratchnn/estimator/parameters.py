"""The constructor's parameters: their valid values, named configurations, and their conversion to hyperparameters."""

from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.metrics import get_scorer_names
from sklearn.utils import check_random_state

from .._compat import Interval, Options, StrOptions, warn_user
from ..activations import ACTIVATIONS, INITS
from ..losses import LOSSES
from ..tables.encoder import has_categories
from ..tables.summary import SampleCounts
from ..tables.table import Table
from ..training import Hyperparameters
from ..training.solvers import SCHEDULES

N_SMALL_ROWS = 100  # up to this many samples, dtype="auto" trains in the precision of X
N_SCHEDULED = 50  # epochs of a schedule: the maximum for "auto", the default for the others
MIN_FIRST_SAMPLES = 80  # of the first call of partial_fit, which fixes categories and bins
FAST_PRODUCTS = {"tf32", "bfloat16"}  # values of dtype: float32 with rounded products
CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions(set(ACTIVATIONS))],
    "solver": [StrOptions({"adam", "sgd", "lbfgs"})],
    "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
    "C": [Interval(Real, 0, None, closed="neither"), Options(Real, {np.inf}), None],
    "batch_size": [StrOptions({"auto", "full"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({"auto", "constant", "invscaling", "adaptive", *SCHEDULES})],
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
    "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
    "numeric_encoding": [StrOptions({"auto", "piecewise"}), None],
    "standardize": ["boolean"],
    "init": [StrOptions(set(INITS))],
    "hidden_bias": ["boolean"],
    "device": [str, torch.device],
    "dtype": [StrOptions({"auto", "float32", "float64", *FAST_PRODUCTS})],
    "scoring": [StrOptions({"loss", *get_scorer_names()}), callable],
}
# Hints for values that other libraries or parameters take: by parameter, the types of such values, and the remedy.
HINTS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "learning_rate": (Real, "learning_rate is the schedule. Set learning_rate_init={value}, which is the rate."),
    "learning_rate_init": (str, "learning_rate_init is the rate, a number, and learning_rate the schedule."),
    "batch_size": (Real, "batch_size counts samples. Set for example batch_size=32, or 'full' for all samples."),
    "alpha": ((str, type(None)), "Set alpha=0 for no penalty."),
    "hidden_layer_sizes": (type(None), "Set hidden_layer_sizes=() for no hidden layer."),
    "activation": ((str, type(None)), "The sigmoid is 'logistic', and no activation 'identity'."),
    "early_stopping": (Real, "Set early_stopping=True, and n_iter_no_change={value} for the epochs to wait."),
    "validation_fraction": (
        Real,
        "validation_fraction is a fraction of the samples. Pass X_val and y_val for samples of your own.",
    ),
    "n_iter_no_change": (type(None), "Set n_iter_no_change=np.inf for as many epochs as max_iter."),
    "tol": (type(None), "Set tol=0 to count any improvement."),
    "C": (str, "Set C=None, the default, to leave the penalty to alpha."),
    "loss": (str, "Cross-entropy, binary or not, is 'log_loss'."),
    "dropout": (object, "dropout is one fraction for all hidden layers. Set for example dropout=0.2, or 0 for none."),
    "dtype": (object, "Pass the name, for example dtype='float32'."),
    "device": (Integral, "Pass the name, for example device='cuda:{value}'."),
    "scoring": (object, "Pass one name or one scorer, or 'loss' for the validation loss."),
}
RECIPES: dict[str, dict[str, Any]] = {
    # The method of `network`.
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
        "numeric_encoding": None,
        "standardize": False,
        "dtype": "float32",
    },
    # LogisticRegression's model, in double precision.
    "logistic_regression": {
        "hidden_layer_sizes": (),
        "solver": "lbfgs",
        "C": 1.0,
        "tol": 1e-9,
        "max_iter": 10_000,
        "numeric_encoding": None,
        "standardize": False,
        "dtype": "float64",
    },
}


def find_hint(params: dict[str, Any], message: str) -> str:
    """Return the hint to append to scikit-learn's error about a parameter, after a space; '' if there is none."""
    for name, (types, hint) in HINTS.items():
        if f"The {name!r} parameter" in message and isinstance(params[name], types):
            return f" {hint.format(value=params[name])}"
    return ""


def forbid_partial_fit(estimator: Any) -> str | None:
    """Return the reason for which the parameters make `partial_fit` unavailable, or None."""
    if estimator.early_stopping:
        return "partial_fit does not support early_stopping=True, as the data come in parts. Use fit, or set it False."
    if estimator.solver == "lbfgs":
        return "partial_fit does not support solver='lbfgs', which needs all data. Use fit, or set solver='adam'."
    return None


def resolve_hidden_layer_sizes(sizes: Any) -> tuple[int, ...]:
    """Return the parameter as a tuple of plain integers, or raise ValueError."""
    sizes = tuple(np.atleast_1d(np.asarray(sizes, dtype=object)).tolist())
    if not all(isinstance(size, int | np.integer) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise ValueError(
            f"hidden_layer_sizes must be > 0, whole numbers, one for each hidden layer, got {sizes}. Use for example "
            "(100,), or () for no hidden layer."
        )
    return tuple(int(size) for size in sizes)


def resolve_dtype(dtype: str, counts: SampleCounts, solver: str) -> np.dtype[Any]:
    """Return the dtype to train in. "auto" is that of X for few samples or the solver lbfgs, else float32."""
    if dtype in FAST_PRODUCTS:
        return np.dtype(np.float32)
    if dtype != "auto":
        return np.dtype(dtype)
    return counts.dtype if counts.n_samples <= N_SMALL_ROWS or solver == "lbfgs" else np.dtype(np.float32)


def resolve_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return the seed from ``random_state``. None draws one from the operating system, not from NumPy's generator."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))


def make_hyperparameters(estimator: Any, n_samples: int, alpha_per_row: float, *, incremental: bool) -> Hyperparameters:
    """Return the hyperparameters for ``n_samples`` samples, from the (valid) parameters of the estimator.

    ``alpha_per_row`` is the strength of ``alpha="auto"`` per sample of a minibatch. ``incremental`` means one epoch.
    """
    solver = estimator.solver
    if solver == "lbfgs":
        _check_for_lbfgs(estimator)
    early_stopping = estimator.early_stopping and not incremental
    # L-BFGS stops by its gradient, not by patience, unless it watches a validation set.
    patience = np.inf if solver == "lbfgs" and not early_stopping else estimator.n_iter_no_change
    schedule = resolve_schedule(estimator.learning_rate, solver, incremental)
    default_max_iter = N_SCHEDULED if schedule in SCHEDULES else 200
    max_iter = 1 if incremental else estimator.max_iter
    is_capped = estimator.learning_rate == "auto" and schedule in SCHEDULES  # more epochs at high rates would do harm
    batch_size = resolve_batch_size(estimator.batch_size, n_samples)
    alpha = resolve_alpha(estimator)
    resolved = {
        "alpha": alpha_per_row * (n_samples if solver == "lbfgs" else batch_size) if alpha == "auto" else alpha,
        "batch_size": batch_size,
        "learning_rate": schedule,
        "max_iter": default_max_iter if max_iter is None or (is_capped and max_iter > N_SCHEDULED) else max_iter,
        # A schedule that ends before patience could run out is one that the user cut short.
        "full_schedule": schedule in SCHEDULES and (max_iter is None or max_iter >= min(default_max_iter, patience)),
        "early_stopping": early_stopping,
        "n_iter_no_change": patience,
        "verbose": bool(estimator.verbose),
        "precision": estimator.dtype if estimator.dtype in FAST_PRODUCTS else "float32",
    }
    values = {
        each.name: resolved.get(each.name, getattr(estimator, each.name, None)) for each in fields(Hyperparameters)
    }
    return Hyperparameters(**values)  # type: ignore[arg-type]


def _check_for_lbfgs(estimator: Any) -> None:
    """Raise ValueError for parameters that the solver lbfgs does not support."""
    if estimator.dropout:
        raise ValueError(
            "dropout must be 0 with solver='lbfgs', which needs the same loss at every step, got "
            f"{estimator.dropout}. Use solver='adam', or alpha against overfitting."
        )
    if estimator.dtype in FAST_PRODUCTS:
        raise ValueError(
            "dtype must be 'auto', 'float32' or 'float64' with solver='lbfgs', whose line search needs exact losses, "
            f"got {estimator.dtype!r}. Leave it 'auto', or use solver='adam'."
        )


def resolve_schedule(learning_rate: str, solver: str, incremental: bool) -> str:
    """Return the schedule of the learning rate: "constant" if the solver, or `partial_fit`, supports no other."""
    if learning_rate == "auto":
        learning_rate = "cosine"
    if learning_rate in SCHEDULES:
        # A schedule needs the number of steps, but the number of calls of `partial_fit` is not known.
        return "constant" if incremental or solver == "lbfgs" else learning_rate
    return learning_rate if solver == "sgd" else "constant"


def resolve_batch_size(batch_size: int | str, n_samples: int) -> int:
    """Return the number of samples per minibatch, at most ``n_samples``. Warn if the parameter is larger."""
    if batch_size == "full":
        return n_samples
    if isinstance(batch_size, str):
        # In steps of 8, so that folds which differ by a sample have equal sizes, and can train as a stack.
        return min(max(32, min(n_samples // 80 * 8, 100), min(n_samples // 800 * 8, 500)), n_samples)
    if batch_size > n_samples:
        warn_user(
            f"batch_size={batch_size} is larger than the {n_samples} training samples, which form one minibatch. Lower "
            "it, or set batch_size='full'."
        )
    return min(batch_size, n_samples)


def resolve_alpha(estimator: Any) -> float | str:
    """Return the strength of the penalty from ``alpha`` or ``C``: a number, or "auto".

    Raises ValueError if both are set.
    """
    alpha: float | str = estimator.alpha
    if estimator.C is None:
        return alpha
    if alpha != "auto":
        raise ValueError(
            f"C and alpha must not both be set, as alpha is 1 / C, got C={estimator.C} and alpha={alpha}. Leave "
            "C=None, or alpha='auto'."
        )
    return float(1 / estimator.C)


def has_bins(estimator: Any, table: Table) -> bool:
    """Return whether a new network encodes the numeric columns of a table by bins.

    Raises ValueError if ``numeric_encoding`` asks for bins of a sparse table.
    """
    is_sparse = sparse.issparse(table.X)
    if estimator.numeric_encoding == "piecewise" and is_sparse:
        raise ValueError(
            "numeric_encoding must be None or 'auto' for a sparse X, as the bins of a zero are not zero, got "
            "'piecewise'. Pass X.toarray() to have bins."
        )
    if estimator.numeric_encoding == "auto":
        return len(resolve_hidden_layer_sizes(estimator.hidden_layer_sizes)) > 0 and not is_sparse
    return estimator.numeric_encoding is not None


def warn_of_few_samples(estimator: Any, counts: SampleCounts) -> None:
    """Warn if the first call of `partial_fit` fixes the categories of columns from too few samples."""
    if counts.n_samples < MIN_FIRST_SAMPLES and has_categories(estimator):
        warn_user(
            f"The first call of partial_fit got {counts.n_samples} samples, and fixes the categories and bins of all "
            f"calls: other categories count as infrequent or unknown. Pass at least {MIN_FIRST_SAMPLES} samples first."
        )


def calc_alpha_per_row(penalty: float, n_seen: int, weight_mean: float) -> float:
    """Return the strength of ``alpha="auto"`` per sample of a minibatch.

    ``penalty`` is its strength for a batch of all samples, ``n_seen`` the number of samples that training has seen, and
    ``weight_mean`` the mean weight of the samples of this call.
    """
    # If weights average below 1, only their ratios count. AdaBoost's weights sum to 1, which does not mean one sample.
    return penalty * min(1.0, weight_mean) / max(1, n_seen)
