"""The score of the validation samples, which early stopping monitors."""

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse
from sklearn import config_context, get_config
from sklearn.metrics import check_scoring

from .._compat import get_class_arguments
from ..tables.arrays import to_host
from ..tables.statistics import ColumnStatistics
from ..tables.table import Table
from ..tables.targets import Labels
from ..training.buffers import Buffer
from .attributes import store_coeffs


def make_calc_score(
    estimator: Any, validation: Table | None, labels: Labels, statistics: ColumnStatistics
) -> Callable[[Buffer], float] | None:
    """Return a function that scores coefficients on the validation samples; None if their loss is the score."""
    scorer = None if estimator.scoring == "loss" else check_scoring(estimator, scoring=estimator.scoring)
    if validation is None or scorer is None:
        return None
    judged = copy.copy(estimator)  # with the attributes that `fit` of a subclass has set
    features = validation.get_features()
    judged.n_features_in_, judged.encoder_ = features.shape[1], None  # the samples are encoded, so they have no names
    vars(judged).pop("feature_names_in_", None)
    features = features if sparse.issparse(features) else to_host(features)
    arguments = {} if labels.multilabel else get_class_arguments(scorer, labels.classes)
    # Scorers accept other arguments than weights only with metadata routing.
    # Training may run in another thread, but with the configuration of this one.
    config = {**get_config(), "array_api_dispatch": False} | ({"enable_metadata_routing": True} if arguments else {})
    if validation.sample_weights is not None:
        arguments["sample_weight"] = validation.sample_weights
    gap = describe_gap(validation, labels)

    def calc_score(buffer: Buffer) -> float:
        store_coeffs(judged, buffer, labels, statistics)
        score = partial(scorer, judged, features, validation.y, **arguments)
        try:
            with config_context(**config):
                return float(score()) if gap is None else _score_despite(gap, estimator.scoring, score)
        except TypeError as error:
            raise ValueError(
                "scoring must be a name, or a callable that takes an estimator, X and y (and sample_weight if samples "
                f"have weights) and returns a number, got {estimator.scoring!r}, which raised TypeError: {error}. Wrap "
                "a metric of labels in sklearn.metrics.make_scorer."
            ) from error
        except ValueError as error:
            if not isinstance(estimator.scoring, str) or "scoring" in str(error):
                raise
            raise ValueError(
                f"scoring must suit the labels and the validation samples, got {estimator.scoring!r}, which raised "
                f"ValueError: {str(error).rstrip('.')}. {_advise(estimator.scoring, str(error), labels)}"
            ) from error

    return calc_score


def _advise(scoring: str, error: str, labels: Labels) -> str:
    """Return the remedy for a score that does not suit the labels."""
    if "pos_label" in error:
        return f"Name the positive class: sklearn.metrics.make_scorer(..., pos_label={labels.classes.tolist()[-1]!r})."
    if "multi_class" in error or "average='binary'" in error:
        return f"Use {scoring + ('_ovr' if 'multi_class' in error else '_macro')!r}."
    return "Choose another, such as 'loss' or 'accuracy'."


def _score_despite(gap: str, scoring: Any, score: Callable[[], float]) -> float:
    """Return the score of samples with a gap, see `describe_gap`. Raise ValueError if it is not defined."""
    try:
        with warnings.catch_warnings():  # scikit-learn would warn of the gap at each epoch
            warnings.filterwarnings("ignore", module=r"(sklearn|numpy)\.")
            value = float(score())
        if not math.isfinite(value):
            raise ValueError(f"the score is {value}")
    except (ValueError, ArithmeticError) as error:
        raise ValueError(
            f"scoring must be defined for the validation samples, which {gap}, got {scoring!r}, which is not: "
            f"{str(error).rstrip('.')}. Pass X_val and y_val with all of them, or scoring='loss', which "
            "is always defined."
        ) from error
    return value


def describe_gap(table: Table, labels: Labels) -> str | None:
    """Return which classes or labels the samples of positive weight lack, as a verb phrase, or None."""
    y = table.y if table.sample_weights is None else table.y[table.sample_weights > 0]
    if labels.multilabel:
        constant = np.flatnonzero((y == y[:1]).all(0))
        return f"have only one value of the labels {constant}" if len(constant) else None
    missing = np.setdiff1d(labels.classes, y)
    return f"lack the classes {missing}" if len(missing) else None
