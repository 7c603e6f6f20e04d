"""Targets of many classes, for which the numbers of the classes stand: memory does not grow with rows times classes."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import ALL_EPOCHS, assert_same_fit, make_network
from sklearn.datasets import make_multilabel_classification
from sklearn.model_selection import GridSearchCV

from scratchnn import fused_fits
from scratchnn.batch import Batch
from scratchnn.losses import LOSSES
from scratchnn.network import calc_loss, init_coeffs, store_grads
from scratchnn.tables import targets as labels
from scratchnn.training import train, trainer

network = partial(make_network, numeric_encoding=None, **ALL_EPOCHS)


@pytest.fixture
def numbered(monkeypatch):
    """Let the numbers of classes stand for targets of any size. Returns the data of all runs, as they are trained."""
    monkeypatch.setattr(labels, "MAX_TARGETS", 0)
    datas = []

    def train_noting(run):
        datas.append(run.data)
        train([run])

    token = trainer.set(train_noting)
    yield datas
    trainer.reset(token)


def test_targets_of_many_classes_have_one_column():
    classes = np.arange(3000) * 2
    of_many = labels.Labels(classes, multilabel=False)
    y = np.tile(classes, 2)
    targets = of_many.encode_compact(y)
    assert targets.dtype == np.int64
    np.testing.assert_array_equal(targets[:, 0], y // 2)
    few = of_many.encode_compact(y[:1000])
    np.testing.assert_array_equal(few, of_many.encode(y[:1000]))
    assert few.shape == (1000, 3000)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"early_stopping": True, "class_weight": "balanced", "dtype": "float64"},
        {"batch_size": "full", "solver": "sgd", "dropout": 0.2},
        {"loss": "brier"},
        {"loss": lambda logits, deps: torch.nn.functional.cross_entropy(logits, deps, reduction="none")},
        {"solver": "lbfgs"},
    ],
)
def test_models_are_the_same_with_numbers_for_targets(changes, iris, request):
    expected = network(**changes).fit(*iris)
    datas = request.getfixturevalue("numbered")
    classifier = network(**changes).fit(*iris)
    (data,) = datas
    assert data.targets.dtype == torch.int64
    assert data.targets.shape == (len(data.inputs), 1)
    assert_same_fit(classifier, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(classifier.loss_curve_, expected.loss_curve_, rtol=1e-5)


def test_numbers_stand_for_no_other_targets(numbered, iris):
    X, y = iris
    network().fit(X, y > 0)
    network().fit(*make_multilabel_classification(random_state=0))
    assert [data.targets.is_floating_point() for data in numbered] == [True, True]


def test_stacks_take_numbers_for_targets(monkeypatch, iris):
    X, y = iris
    folds = [(np.arange(n), np.arange(n, len(y))) for n in (140, 141, 142)]  # of unequal lengths: padded
    weights = np.linspace(0.5, 1.5, len(y))

    def search():
        grid = GridSearchCV(network(), {"alpha": [0.1, 1.0]}, cv=folds, scoring="neg_log_loss")
        order = np.random.default_rng(0).permutation(len(y))
        with fused_fits() as report:
            grid.fit(X[order], y[order], sample_weight=weights)
        return grid.cv_results_["mean_test_score"], [stack.n_models for stack in report.stacks]

    expected = search()
    monkeypatch.setattr(labels, "MAX_TARGETS", 0)
    scores, sizes = search()
    np.testing.assert_allclose(scores, expected[0], rtol=1e-5)
    assert sizes == expected[1]
    assert max(sizes) > 1


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("models", [(), (3,)])
def test_losses_and_gradients_are_the_same_with_numbers(loss, models):
    generator = torch.Generator().manual_seed(0)
    indeps = torch.randn(*models, 20, 4, generator=generator)
    codes = torch.randint(6, (20, 1), generator=generator)
    results = []
    for deps in (codes, torch.eye(6)[codes[:, 0]]):
        coeffs = init_coeffs(4, 5, 6, generator=torch.Generator().manual_seed(1), output="softmax", init="he_uniform")
        if models:
            coeffs.weights = [weight.expand(*models, -1, -1).clone() for weight in coeffs.weights]
            coeffs.biases = [None if bias is None else bias.expand(*models, -1, -1).clone() for bias in coeffs.biases]
        for value in coeffs:
            value.grad = torch.zeros_like(value)
        store_grads(coeffs, Batch(indeps, deps), loss)
        results.append([calc_loss(coeffs, indeps, deps, loss=loss), *(value.grad for value in coeffs)])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right)
    with pytest.raises(ValueError, match=r"deps must end in \(n_samples, n_outputs\)"):
        loss.loss(torch.zeros(20, 6), codes[:5], "softmax")
    with pytest.raises(ValueError, match=r"deps must end in \(n_samples, n_outputs\)"):
        loss.loss(torch.zeros(20, 6), codes, "logistic")
