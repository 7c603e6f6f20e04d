"""Where loss curves come from: fitted networks, the folds of a cross-validation, the candidates of a search."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from ..classifier import ScratchNNClassifier

LOSS_NAMES = {"log_loss": "log loss", "mae": "mean absolute error", "brier": "Brier loss"}


class LossCurves(NamedTuple):
    """The curves of one network. Those of validation are None if there was no validation set.

    Parameters
    ----------
    training : ndarray of shape (n_epochs,)
        Loss of each epoch, without the penalty.
    validation : ndarray of shape (n_validated,) or None, default=None
        Loss of the validation set after each epoch, without the penalty.
    scores : ndarray of shape (n_validated,) or None, default=None
        Score of the validation set after each epoch.
    start : int, default=0
        Number of epochs before the first one with a validation loss.
    loss_name : str, default='loss'
        Name of the loss.
    score_name : str, default='score'
        Name of the score.
    unit : str, default='epoch'
        What there is a loss for: an epoch, or an iteration of 'lbfgs'.
    """

    training: Any
    validation: Any = None
    scores: Any = None
    start: int = 0
    loss_name: str = "loss"
    score_name: str = "score"
    unit: str = "epoch"

    @property
    def best_epoch(self) -> int | None:
        """The first epoch, counted from 1, with the highest score; None if there are no scores."""
        if self.scores is None or np.isnan(self.scores).all():
            return None
        return self.start + int(np.nanargmax(self.scores)) + 1

    def list_lines(self, with_scores: bool) -> Iterator[tuple[str, Any, Any]]:
        """Yield the kind, the epochs and the values of each curve."""
        yield "training", np.arange(1, len(self.training) + 1), self.training
        for kind, values in (("validation", self.validation), ("score", self.scores if with_scores else None)):
            if values is not None:
                yield kind, self.start + np.arange(1, len(values) + 1), values


def find_network(estimator: Any) -> ScratchNNClassifier:
    """Return the network in an estimator: the last step of a pipeline, the best candidate of a search.

    Raises
    ------
    NotFittedError
        If a meta-estimator has no fitted estimator.
    TypeError
        If there is no network.
    """
    inner = estimator
    while not isinstance(inner, ScratchNNClassifier):
        if isinstance(inner, Pipeline):
            inner = inner.steps[-1][1]
        elif hasattr(inner, "best_estimator_"):
            inner = inner.best_estimator_
        elif hasattr(inner, "estimator_"):
            inner = inner.estimator_
        elif hasattr(inner, "estimator"):
            raise NotFittedError(
                f"This {type(inner).__name__} has no single fitted network to draw. Fit it (a search needs "
                "refit=True), or pass its fitted networks to from_estimators."
            )
        else:
            raise TypeError(
                "estimator must be a ScratchNNClassifier, or a pipeline or search with one as its last step, got "
                f"{type(inner).__name__}. Pass the fitted network itself."
            )
    return inner


def read_curves(estimator: Any) -> LossCurves:
    """Return the curves of the network in an estimator, see `find_network`.

    Raises
    ------
    NotFittedError
        If it is not fitted.
    ValueError
        If it has no curve.
    """
    network: Any = find_network(estimator)
    check_is_fitted(network)
    training = np.asarray(getattr(network, "training_loss_curve_", ()), np.float64)
    if not len(training):
        raise ValueError(
            f"{type(network).__name__} must have been trained for at least one epoch to have a curve, got none. Fit it "
            "on rows of positive weight, without an interruption in the first epoch."
        )
    is_iterative = network.solver == "lbfgs"
    curves = LossCurves(training, loss_name=_name_loss(network.loss), unit="iteration" if is_iterative else "epoch")
    validation = np.asarray(network.validation_loss_curve_ or (), np.float64)
    if not len(validation):
        return curves
    # The last call counts from its first epoch on, whose validation was not skipped. One that diverged or that Ctrl-C
    # ended has none for its last epoch.
    start = len(training) - max(len(validation), network.n_iter_)
    scores = np.asarray(network.validation_scores_, np.float64)
    return curves._replace(validation=validation, scores=scores, start=start, score_name=_name_score(network.scoring))


def _name_loss(loss: Any) -> str:
    return LOSS_NAMES[loss] if isinstance(loss, str) else getattr(loss, "__name__", "loss")


def _name_score(scoring: Any) -> str:
    if not isinstance(scoring, str):
        return getattr(scoring, "__name__", "score")
    return "minus the validation loss" if scoring == "loss" else scoring


def find_cv_estimators(cv_results: Any, X: Any, y: Any, n_candidates: int) -> dict[str, Any]:
    """Return the fitted estimators of the folds of a cross-validation, or of the candidates of a search, by name.

    Raises
    ------
    ValueError
        If there are no estimators, or a search comes without the rows to train its candidates on.
    """
    if hasattr(cv_results, "cv_results_"):
        return _train_candidates(cv_results, X, y, n_candidates)
    if isinstance(cv_results, Mapping) and "estimator" in cv_results:
        return {f"fold {number}": each for number, each in enumerate(cv_results["estimator"])}
    found = f"the keys {list(cv_results)}" if isinstance(cv_results, Mapping) else repr(cv_results)
    raise ValueError(
        "cv_results must be what cross_validate returns with return_estimator=True, or a fitted search, got "
        f"{found}. Pass return_estimator=True, or the search itself in the place of its cv_results_."
    )


def _train_candidates(search: Any, X: Any, y: Any, n_candidates: int) -> dict[str, Any]:
    """Return the best candidates of a search, by what sets them apart, trained on all rows."""
    if X is None or y is None:
        raise ValueError(
            "X and y must be given to draw the candidates of a search, which keeps no network but the best one, got "
            "None. Pass the rows to train the candidates on, or draw the best one with from_estimator(search)."
        )
    candidates = _rank_candidates(search)
    names = _name_candidates(candidates)
    chosen = dict(zip(names, candidates, strict=True))  # of equal candidates, as in successive halving, one
    fits = (
        delayed(_fit)(clone(search.estimator).set_params(**clone(parameters, safe=False)), X, y)
        for parameters in list(chosen.values())[:n_candidates]
    )
    return dict(zip(chosen, Parallel(n_jobs=search.n_jobs)(fits), strict=False))


def _rank_candidates(search: Any) -> list[dict[str, Any]]:
    """Return the parameters of the candidates, the best first."""
    results = search.cv_results_
    metric = search.refit if isinstance(search.refit, str) and search.multimetric_ else "score"
    ranks = results.get(f"rank_test_{metric}", np.zeros(len(results["params"])))
    return [results["params"][number] for number in np.argsort(ranks, kind="stable")]


def _name_candidates(candidates: list[dict[str, Any]]) -> list[str]:
    """Return the parameters in which candidates differ, as text, without the names of pipeline steps."""
    names = list(dict.fromkeys(name for parameters in candidates for name in parameters))
    varying = [name for name in names if len({str(parameters.get(name)) for parameters in candidates}) > 1]
    texts = [
        [f"{name.rpartition('__')[2]}={parameters[name]}" for name in varying or names if name in parameters]
        for parameters in candidates
    ]
    return [", ".join(text) or "as it is" for text in texts]


def _fit(estimator: Any, X: Any, y: Any) -> Any:
    return estimator.fit(X, y)
