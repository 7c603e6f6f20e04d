"""Data that several test modules share."""

import os

os.environ["SCIPY_ARRAY_API"] = (
    "1"  # before scipy is there: array API dispatch, and scikit-learn's checks of it, need it
)

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, make_multilabel_classification
from threadpoolctl import threadpool_limits

from scratchnn.training import threads

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores, and threads that wait for one another are slow.
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")

pytest.register_assert_rewrite("helpers")

# HYPOTHESIS_PROFILE=long, or pytest --hypothesis-profile long, looks for faults for about half an hour.
COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("ci", max_examples=100, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=10_000, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(threads, "cpu_count", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def never_dense(monkeypatch):
    """Refuse to make a sparse table of more than 100,000 places dense."""

    owners = [sparse.csr_matrix, sparse.csr_array, sparse.coo_matrix, sparse.coo_array, torch.Tensor]
    originals = {owner: getattr(owner, "to_dense" if owner is torch.Tensor else "toarray") for owner in owners}

    def refuse(array, *args, **kwargs):
        assert np.prod(array.shape) <= 100_000, "made dense"
        return originals[type(array)](array, *args, **kwargs)

    for owner in owners:
        monkeypatch.setattr(owner, "to_dense" if owner is torch.Tensor else "toarray", refuse)


@pytest.fixture(scope="session")
def cancer():
    return load_breast_cancer(return_X_y=True)


@pytest.fixture(scope="session")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="session")
def problems():
    """X and y of a binary, a multiclass and a multilabel problem, with scaled columns."""
    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    digits, digit = load_digits(return_X_y=True)
    labelled, labels = make_multilabel_classification(n_samples=150, n_features=6, n_classes=4, random_state=0)
    return {
        "binary": (X, np.array(["no", "yes"], dtype=object)[(y > 0).astype(int)]),
        "multiclass": (digits[:400] / 16, digit[:400]),
        "multilabel": (labelled / 10, labels),
    }
