"""Fits on equal tables, as of a search, describe the columns once; a difference in anything describes them anew."""

from functools import partial

import numpy as np
import pytest
from helpers import make_network
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from scratchnn import fused_fits
from scratchnn.estimator import columns

X, y = load_iris(return_X_y=True)
network = partial(make_network, hidden_layer_sizes=(8,), max_iter=2, alpha="auto")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def described(monkeypatch):
    """Return the list of the tables whose columns have been described."""
    tables, describe = [], columns._describe
    monkeypatch.setattr(columns, "_descriptions", {})
    monkeypatch.setattr(
        columns, "_describe", lambda call, table, *rest: tables.append(table) or describe(call, table, *rest)
    )
    return tables


def test_a_search_describes_the_table_of_each_fold_once(described):
    grid = {"learning_rate_init": [0.001, 0.01], "hidden_layer_sizes": [(4,), (8,)]}
    GridSearchCV(network(), grid, cv=4, refit=False).fit(X, y)
    assert len(described) == 4
    with fused_fits():
        GridSearchCV(network(), grid, cv=4, refit=False).fit(X.copy(), y.copy())
    assert len(described) == 4


def test_a_difference_in_anything_that_counts_describes_the_table_anew(described):
    other_X, other_y, weights = X.copy(), y.copy(), np.ones(len(X))
    other_X[3, 1] += 1e-9
    other_y[3], weights[3] = 2, 1.5
    fits = [
        lambda: network().fit(X, y),
        lambda: network().fit(other_X, y),
        lambda: network().fit(X, other_y),
        lambda: network().fit(X, y, weights),
        lambda: network().fit(X.astype(np.float32), y),
        lambda: network(standardize=False).fit(X, y),
        lambda: network(numeric_encoding=None).fit(X, y),
        lambda: network(alpha=0.1).fit(X, y),
        lambda: network(hidden_layer_sizes=(8, 8)).fit(X, y),
        lambda: network(init="scratch").fit(X, y),
    ]
    fresh = []
    for fit in fits:
        columns._descriptions.clear()
        fresh.append(fit().predict_proba(X))
    columns._descriptions.clear()
    for fit, expected in zip(fits, fresh, strict=True):
        np.testing.assert_array_equal(fit().predict_proba(X), expected)
    assert len(described) == 2 * len(fits)


def test_what_is_kept_is_not_the_models(described):
    """Users may write to fitted attributes, and only the last descriptions are kept."""
    first = network().fit(X, y)
    mean = first.mean_.copy()
    first.mean_[:] = first.scale_[:] = first.bin_edges_[:] = 7
    second = network().fit(X, y)
    np.testing.assert_array_equal(second.mean_, mean)
    assert len(described) == 1
    for k in range(columns.MAX_DESCRIPTIONS):
        network(max_iter=1).fit(X + k + 1, y)
        network().fit(X + 1, y)
    assert len(columns._descriptions) == columns.MAX_DESCRIPTIONS
    network().fit(X, y)
    assert len(described) == 2 + columns.MAX_DESCRIPTIONS
