"""What the processes of `data_parallel` agree on before they train: parameters, columns, classes, and counts of rows.

A process that fits alone agrees with itself: all functions then return what they got.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse

from ..training import JointSteps, Ranks, TrainingRun, get_ranks, make_mean_score, trainer
from .describing import describe_value
from .tables import Array, Table

OWN = {"device", "verbose"}  # parameters that may differ between processes


def check_parameters(estimator: Any, ranks: Ranks, resume: bool) -> None:
    """Raise ValueError if all processes do not fit the same estimator, or if it cannot be fitted by several."""
    if ranks.size == 1:
        return
    if trainer.get() is not None:
        raise ValueError("fused_fits must not be used inside data_parallel, got a fit inside both. Leave one out.")
    if estimator.solver == "lbfgs":
        raise ValueError("solver must be 'adam' or 'sgd' inside data_parallel, got 'lbfgs'. Choose one of them.")
    own = {"warm_start with a fitted model": str(resume)}
    for name, value in estimator.get_params(deep=False).items():
        if name not in OWN:
            own[name] = repr(describe_value(value))
    for rank, other in enumerate(ranks.gather(own)):
        for name in own:
            if other.get(name) != own[name]:
                raise ValueError(
                    f"{name} must be the same in all processes of data_parallel, got {own[name]} in rank {ranks.rank} "
                    f"and {other.get(name)} in rank {rank}. Set it to one value."
                )


def check_alone(name: str) -> None:
    """Raise ValueError if several processes would have to fit together what ``name`` stands for."""
    if get_ranks().size > 1:
        raise ValueError(f"{name} must not be used inside data_parallel, which supports ScratchNNClassifier.fit only.")


def check_checkpoints(every: int | None, ranks: Ranks) -> None:
    """Raise ValueError if all processes do not have a checkpoint with the same ``every``, or none, which is None."""
    found = ranks.gather(every)
    if len(set(found)) > 1:
        texts = ("no Checkpoint" if each is None else f"every={each}" for each in found)
        listed = ", ".join(f"{text} in rank {rank}" for rank, text in enumerate(texts))
        raise ValueError(
            f"Checkpoint must have the same every in all processes of data_parallel, got {listed}. Set the same "
            "Checkpoint in all of them."
        )


def check_columns(estimator: Any, X: Any, y: Array, ranks: Ranks) -> None:
    """Raise ValueError if the rows of all processes do not have the same columns, or their targets another form."""
    if ranks.size == 1:
        return
    names = getattr(estimator, "feature_names_in_", None)
    form = (
        f"{X.shape[1]} columns",
        "without names" if names is None else f"named {list(names)}",
        "sparse" if sparse.issparse(X) else "dense",
        "and targets of one column" if y.ndim == 1 else f"and targets of {y.shape[1]} columns",
    )
    forms = [", ".join(each) for each in ranks.gather(form)]
    for rank, other in enumerate(forms):
        if other != forms[ranks.rank]:
            raise ValueError(
                "X and y must have the same columns in all processes of data_parallel, got "
                f"{forms[ranks.rank]} in rank {ranks.rank}; and {other} in rank {rank}. Pass parts of one table."
            )


def merge_classes(classes: Array, ranks: Ranks) -> Array:
    """Return the classes that targets have in any process, sorted."""
    if ranks.size == 1:
        return classes
    found = ranks.gather(classes)
    kinds = {"number" if each.dtype.kind in "biuf" else "other" for each in found}
    if len(kinds) > 1:
        raise ValueError(
            f"y must be of one type in all processes of data_parallel, got {[str(each.dtype) for each in found]}. "
            "Pass numbers or strings in all of them."
        )
    return np.unique(np.concatenate(found))


def merge_counts(y: Array, weights: Array | None, ranks: Ranks) -> tuple[Array, Array | None]:
    """Return a column of targets with its weights: of several processes, each class once, with its whole weight."""
    if ranks.size == 1:
        return y, weights
    classes, codes = np.unique(y, return_inverse=True)
    found = ranks.gather((classes, np.bincount(codes, weights)))
    merged = np.unique(np.concatenate([each for each, _ in found]))
    totals = np.zeros(len(merged))
    for each, counts in found:
        totals[np.searchsorted(merged, each)] += counts
    return merged, totals


def merge_numbers(values: Array, ranks: Ranks) -> Array:
    """Return columns of numbers, or for several processes two rows from which an imputer learns the same.

    The rows have the means of the columns of all processes, and NaN where a column lacks values.
    """
    if ranks.size == 1:
        return values
    is_there = ~np.isnan(values)
    sums = np.where(is_there, values, 0).sum(0, dtype=np.float64)
    found = ranks.gather((sums, is_there.sum(0), is_there.all(0)))
    totals, counts = (np.sum([each[place] for each in found], axis=0) for place in range(2))
    is_complete = np.all([each[2] for each in found], axis=0)
    means = np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
    return np.stack([means, np.where(is_complete, means, np.nan)])


def merge_categories(values: Array, ranks: Ranks) -> Array:
    """Return columns of categories, as many rows as all processes have together. Only counts are exchanged."""
    if ranks.size == 1:
        return values
    found = ranks.gather([Counter(column) for column in values.T])
    merged = np.empty((sum(sum(counts[0].values()) for counts in found), values.shape[1]), object)
    for column in range(values.shape[1]):
        total = sum((counts[column] for counts in found), Counter())
        merged[:, column] = np.repeat(np.array(list(total), object), list(total.values()))
    return merged


@dataclass(frozen=True)
class Totals:
    """What all processes train on, together."""

    n_samples: int
    weight: float  # of all samples, each 1 where there are no weights
    has_weights: bool
    dtype: np.dtype[Any]  # that holds the values of X

    @property
    def weight_mean(self) -> float:
        """The mean weight of the samples."""
        return self.weight / self.n_samples if self.n_samples else 1.0


def count_rows(table: Table, ranks: Ranks) -> Totals:
    """Return the number and the weight of the rows of all processes."""
    weight = float(len(table) if table.weights is None else table.weights.sum())
    dtype = np.dtype(str(table.X.dtype).removeprefix("torch."))
    found = ranks.gather((len(table), weight, table.weights is not None, dtype))
    numbers, weights, have_weights, dtypes = zip(*found, strict=True)
    return Totals(sum(numbers), sum(weights), any(have_weights), np.result_type(*dtypes))


def with_weights(table: Table, totals: Totals) -> Table:
    """Return the table, with weights of 1 if only other processes have weights."""
    return replace(table, weights=np.ones(len(table))) if totals.has_weights and table.weights is None else table


def check_coeffs(flat: torch.Tensor, ranks: Ranks) -> None:
    """Raise ValueError if all processes do not start from the same coefficients."""
    if ranks.size == 1:
        return
    own = flat.cpu().numpy().tobytes()
    if ranks.any(own != ranks.broadcast(own)):
        raise ValueError(
            "coefs_ and intercepts_ must be the same in all processes of data_parallel to train on from them, got "
            "different ones. Fit with warm_start=False, or load one model in all processes."
        )


def join_steps(run: TrainingRun, ranks: Ranks) -> None:
    """Let a run take its steps together with those of the other processes, in place."""
    if ranks.size == 1:
        return
    n_validation = 0 if run.validation is None else len(run.validation.deps)
    if run.validation is not None and run.calc_score is not None:
        weights = run.validation.weights
        weight = n_validation if weights is None else float(weights.sum())
        run.calc_score = make_mean_score(run.calc_score, ranks, weight)
    run.joint = JointSteps(ranks, len(run.data.deps), n_validation, run.settings.batch_size)
    is_verbose = run.settings.verbose and ranks.rank == 0
    run.settings = replace(run.settings, batch_size=run.joint.batch_size, verbose=is_verbose)
