"""Dropout, and the learning rates of schedules."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import ALL_EPOCHS, assert_same_fit, make_network
from sklearn.base import clone
from sklearn.datasets import make_classification

from scratchnn.training import stack
from scratchnn.training.solvers import SGD

X, y = make_classification(300, 6, n_informative=4, n_classes=3, weights=[0.7, 0.2, 0.1], random_state=0)
network = partial(make_network, hidden_layer_sizes=8, max_iter=6, learning_rate="constant", **ALL_EPOCHS)

# --- dropout


def test_dropout_trains_on_another_part_of_the_network_at_each_step():
    model = network(hidden_layer_sizes=50, max_iter=100, learning_rate_init=0.01)
    plain, thinned = clone(model).fit(X, y), clone(model).set_params(dropout=0.5).fit(X, y)
    assert thinned.loss_ > plain.loss_
    assert_same_fit(thinned, clone(thinned).fit(X, y))
    assert thinned.score(X, y) > 0.75
    np.testing.assert_array_equal(thinned.predict_proba(X), thinned.predict_proba(X))  # nothing is left out


def test_dropout_keeps_the_mean_of_the_values(monkeypatch):
    drawn = []

    def execute_epoch(coeffs, batches, *arguments, **more):
        kept = list(batches)
        drawn.extend(mask for batch in kept for mask in batch.masks)
        return original(coeffs, kept, *arguments, **more)

    original = stack.execute_epoch
    monkeypatch.setattr(stack, "execute_epoch", execute_epoch)
    network(dropout=0.2, hidden_layer_sizes=(50, 10), batch_size=100, max_iter=3).fit(X, y)
    assert [mask.shape[-2:] for mask in drawn[:4]] == [(100, 50), (100, 10)] * 2
    assert torch.cat([mask.flatten() for mask in drawn]).unique().tolist() == [0, 1.25]
    assert torch.cat([mask.flatten() for mask in drawn]).mean().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(drawn[0], drawn[2])


def test_dropout_goes_on_after_a_warm_start():
    once = network(max_iter=4, dropout=0.3).fit(X, y)
    twice = network(max_iter=2, dropout=0.3, warm_start=True).fit(X, y)
    np.testing.assert_array_equal(twice.fit(X, y).coefs_[0], once.coefs_[0])


# --- schedules


def follow_rates(monkeypatch, fit):
    """Return the learning rates of a fit's steps of SGD."""
    rates = []
    update = SGD.update
    monkeypatch.setattr(SGD, "update", lambda *args: (rates.append(args[3].item()), update(*args)))
    fit(network(solver="sgd", learning_rate_init=0.2, batch_size=100, max_iter=10))
    return np.array(rates)


def test_cosine_falls_to_zero(monkeypatch):
    rates = follow_rates(monkeypatch, lambda model: model.set_params(learning_rate="cosine").fit(X, y))
    np.testing.assert_allclose(rates, 0.1 * (1 + np.cos(np.pi * np.arange(30) / 30)), rtol=1e-6)


def test_one_cycle_is_that_of_pytorch(monkeypatch):
    rates = follow_rates(monkeypatch, lambda model: model.set_params(learning_rate="one_cycle").fit(X, y))
    assert rates[0] == pytest.approx(0.2 / 25)
    assert rates[9] == rates.max() == pytest.approx(0.2)
    assert np.all(np.diff(rates[:10]) > 0)
    assert np.all(np.diff(rates[9:]) < 0)
    assert rates[-1] < 0.2 / 25


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_each_call_of_fit_has_a_schedule_of_its_own_and_partial_fit_none(monkeypatch, schedule):
    def fit(model):
        model.set_params(learning_rate=schedule, warm_start=True)
        model.fit(X, y).fit(X, y).partial_fit(X, y)

    rates = follow_rates(monkeypatch, fit)
    np.testing.assert_array_equal(rates[:30], rates[30:60])
    np.testing.assert_allclose(rates[60:], 0.2)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_schedules_train(schedule, solver):
    model = network(learning_rate=schedule, solver=solver, max_iter=100, learning_rate_init=0.01).fit(X, y)
    assert model.score(X, y) > 0.8
