"""Fits that end in the middle, and how to see that another one has continued them."""

from contextlib import contextmanager

import pytest
from helpers import assert_same_fit

from scratchnn.checkpoints.session import Session
from scratchnn.training.stack import Stack

CURVES = ["loss_curve_", "training_loss_curve_", "validation_loss_curve_", "validation_scores_"]
RECORDS = [*CURVES, "n_iter_", "t_", "best_loss_", "best_validation_score_", "loss_", "alpha_"]


class Crash(BaseException):
    """Ends a fit as the death of its process would: nothing in the package catches it."""


@contextmanager
def crash_after(n_writes, error=Crash):
    """Have each fit raise an error after it has written its checkpoint so many times."""
    with pytest.MonkeyPatch.context() as patch:
        original = Session.end_epoch

        def end_epoch(self, run, epoch):
            original(self, run, epoch)
            if epoch.number == n_writes * self.every:
                raise error

        patch.setattr(Session, "end_epoch", end_epoch)
        yield


@contextmanager
def count_epochs():
    """Return a list that gets an entry for each epoch of a stack: how many networks it trains."""
    epochs = []
    with pytest.MonkeyPatch.context() as patch:
        original = Stack._begin_epoch
        patch.setattr(Stack, "_begin_epoch", lambda self: epochs.append(len(self.runs)) or original(self))
        yield epochs


def assert_equal_models(first, second):
    assert_same_fit(first, second)
    for name in RECORDS:
        assert getattr(first, name) == getattr(second, name), name
