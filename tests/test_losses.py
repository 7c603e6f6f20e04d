"""Losses against scikit-learn's metrics, and at the limits of floating point."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ALL_EPOCHS, make_network
from sklearn import metrics
from sklearn.datasets import make_classification

from scratchnn.losses import LOSSES

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(size=(50, 3)) * 3
LABELS = GENERATOR.integers(3, size=50)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(1, keepdims=True)


def mean_loss(name, logits, deps, output):
    losses = LOSSES[name].loss(torch.tensor(logits), torch.tensor(deps, dtype=torch.float64), output)
    assert losses.shape == logits.shape
    return losses.sum(-1).mean().item()


def calc(loss, *arguments):
    return loss.loss(*arguments), loss.gradient(*arguments)


def test_binary_losses_are_those_of_scikit_learn():
    logits, y = LOGITS[:, :1], LABELS > 0
    p = sigmoid(logits[:, 0])
    expected = {
        "log_loss": metrics.log_loss(y, p),
        "mae": metrics.mean_absolute_error(y, p),
        "brier": metrics.brier_score_loss(y, p),
    }
    for name, value in expected.items():
        assert mean_loss(name, logits, y[:, None], "logistic") == pytest.approx(value, rel=1e-12)


def test_multiclass_losses_are_those_of_scikit_learn():
    p, deps = softmax(LOGITS), np.eye(3)[LABELS]
    assert mean_loss("log_loss", LOGITS, deps, "softmax") == pytest.approx(metrics.log_loss(LABELS, p), rel=1e-12)
    # One minus the probability of the class: half the sum of the errors, as the others have what the class lacks.
    expected = np.mean(1 - p[np.arange(50), LABELS])
    assert mean_loss("mae", LOGITS, deps, "softmax") == pytest.approx(expected, rel=1e-12)
    expected = ((p - deps) ** 2).sum(1).mean() / 2
    assert mean_loss("brier", LOGITS, deps, "softmax") == pytest.approx(expected, rel=1e-12)


def test_two_classes_cost_the_same_with_one_output_and_with_a_softmax():
    logits = LOGITS[:, :1]
    y = (LABELS > 0).astype(float)
    for name in LOSSES:
        one = mean_loss(name, logits, y[:, None], "logistic")
        two = mean_loss(name, np.hstack([0 * logits, logits]), np.column_stack([1 - y, y]), "softmax")
        assert one == pytest.approx(two, rel=1e-12), name


def test_labels_add_up():
    deps = (LOGITS > 1).astype(float)
    for name in LOSSES:
        apart = sum(mean_loss(name, LOGITS[:, [k]], deps[:, [k]], "logistic") for k in range(3))
        assert mean_loss(name, LOGITS, deps, "logistic") == pytest.approx(apart, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_gap_between_logits_gives_finite_losses_and_gradients(dtype):
    """At a logit of 1e4, -log(1 - sigmoid) is 1e4 exactly, and -log(sigmoid) 0."""
    logits, deps = torch.tensor([[1e4], [1e4], [-1e4]], dtype=dtype), torch.tensor([[0.0], [1.0], [1.0]], dtype=dtype)
    losses, grads = calc(LOSSES["log_loss"], logits, deps, "logistic")
    assert losses.flatten().tolist() == [1e4, 0.0, 1e4]
    assert grads.flatten().tolist() == [1.0, 0.0, -1.0]
    logits, deps = torch.tensor([[1e4, -1e4, 0.0]] * 2, dtype=dtype), torch.eye(3, dtype=dtype)[:2]
    losses, grads = calc(LOSSES["log_loss"], logits, deps, "softmax")
    assert losses.sum(-1).tolist() == [0.0, 2e4]
    assert grads.tolist() == [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]
    for name in ("mae", "brier"):
        losses, grads = calc(LOSSES[name], logits, deps, "softmax")
        assert losses.sum(-1).tolist() == [0.0, 1.0]
        assert torch.isfinite(grads).all()


def test_a_small_log_loss_keeps_its_digits():
    """-log(sigmoid(40)) = log(1 + exp(-40)): no difference of large numbers."""
    losses = LOSSES["log_loss"].loss(torch.tensor([[40.0]]).double(), torch.tensor([[1.0]]).double(), "logistic")
    assert losses.item() == pytest.approx(np.log1p(np.exp(-40)), rel=1e-12, abs=0)


# --- losses of fits


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_callable_loss_is_as_the_one_by_hand(solver):
    def cross_entropy(logits, deps):
        assert logits.shape == deps.shape
        return F.cross_entropy(logits, deps, reduction="none")

    def cross_entropies(logits, deps):
        return F.binary_cross_entropy_with_logits(logits, deps, reduction="none")

    X, y = make_classification(300, 6, n_informative=4, n_classes=3, random_state=0)
    labels = np.stack([y > 0, X[:, 0] > 1], 1).astype(int)
    settings = {"alpha": 1.0, "solver": solver, "dtype": "float64", **ALL_EPOCHS}
    for function, targets in [(cross_entropy, y), (cross_entropies, y > 0), (cross_entropies, labels)]:
        ours = make_network(loss=function, **settings).fit(X, targets)
        theirs = make_network(**settings).fit(X, targets)
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6)
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-6)


def test_brier_loss_is_the_mean_squared_error_of_the_true_class(cancer):
    X, y = cancer
    settings = {"loss": "brier", "alpha": 0.0, "batch_size": "full", "learning_rate": "constant", **ALL_EPOCHS}
    before, model = (make_network(max_iter=n, **settings).fit(X, y) for n in (29, 30))
    assert model.loss_ == pytest.approx(np.mean((y - before.predict_proba(X)[:, 1]) ** 2), rel=1e-4)
