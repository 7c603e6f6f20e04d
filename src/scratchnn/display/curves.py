"""The loss curves of a fitted network, alone or in a pipeline or a search."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline

from ..classifier import ScratchNNClassifier

NAMES = {"log_loss": "Log loss", "mae": "Mean absolute error", "brier": "Brier loss", "loss": "negative loss"}


class LossCurves(NamedTuple):
    """The loss curves of a network, without the penalty.

    Parameters
    ----------
    training : ndarray of shape (n_epochs,)
        Training loss of each epoch.
    validation, scores : ndarray or None, default=None
        Validation loss and score after each epoch, or neither. NaN for epochs without a validation set.
    loss_name, score_name, unit : str
        Names of the loss, of the score, and of the unit on the x-axis: 'epoch', or 'iteration' for the solver 'lbfgs'.
    """

    training: Any
    validation: Any = None
    scores: Any = None
    loss_name: str = "Loss"
    score_name: str = ""
    unit: str = "epoch"


def read_curves(estimator: Any, parameter: str) -> LossCurves:
    """Return the curves of the network in an estimator. Messages call it ``parameter``."""
    network = _find_network(estimator, parameter)
    training = getattr(network, "training_loss_curve_", ())
    if not training:
        raise NotFittedError(
            f"{parameter} must be fitted for at least one epoch, got a {type(network).__name__} without one. Call fit, "
            "on samples of positive weight."
        )
    losses, scores = network.validation_loss_curve_ or [], network.validation_scores_ or []
    # Before the last call, of n_iter_ epochs, a warm start may have had no validation set. The last epoch may have no
    # validation loss: training diverged or was interrupted.
    start = len(training) - max(len(losses), network.n_iter_)
    loss_name, score_name = (getattr(each, "__name__", str(each)) for each in (network.loss, network.scoring))
    return LossCurves(
        np.array(training),
        np.array([np.nan] * start + losses) if losses else None,
        np.array([np.nan] * start + scores) if scores else None,
        NAMES.get(loss_name, loss_name),
        NAMES.get(score_name, score_name) if scores else "",
        "iteration" if network.solver == "lbfgs" else "epoch",
    )


def _find_network(estimator: Any, parameter: str) -> Any:
    """Return the network in a pipeline, as its last step, or in a search, as its best estimator."""
    while not isinstance(estimator, ScratchNNClassifier):
        inner = getattr(estimator, "best_estimator_", getattr(estimator, "estimator_", None))
        inner = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else inner
        if inner is None:
            error = NotFittedError if hasattr(estimator, "estimator") else TypeError
            raise error(
                f"{parameter} must be a fitted ScratchNNClassifier, or a fitted pipeline or search (with refit=True) "
                f"that ends in one, got {type(estimator).__name__}. Pass several networks as a list or a dict."
            )
        estimator = inner
    return estimator
