"""What predictions prepare is kept between calls, and never stale."""

import copy
import pickle

import numpy as np
import pytest
from helpers import ALL_EPOCHS, make_network, make_table

from scratchnn.estimator.predicting import Prepared

X, y = make_table(200, 5)


@pytest.fixture
def classifier():
    model = make_network(**ALL_EPOCHS).fit(X, y)
    model.predict_proba(X)
    return model


def test_the_network_is_prepared_once(classifier, monkeypatch):
    monkeypatch.setattr(Prepared, "__init__", lambda *args: pytest.fail("prepared again"))
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        getattr(classifier, method)(X[:3])


CHANGES = {
    "first weight": lambda model: model.coefs_[0].__imul__(-2),
    "last weight": lambda model: model.coefs_[-1].__imul__(-2),
    "first bias": lambda model: model.intercepts_[0].__iadd__(1),
    "last bias": lambda model: model.intercepts_[-1].__iadd__(1),
    "mean": lambda model: model.mean_.__iadd__(1),
    "scale": lambda model: model.scale_.__imul__(3),
    "edges": lambda model: model.bin_edges_.__iadd__(0.5),
    "new weight": lambda model: model.coefs_.__setitem__(0, -model.coefs_[0]),
    "lists": lambda model: setattr(model, "coefs_", [(-each).tolist() for each in model.coefs_]),
    "float64": lambda model: setattr(model, "coefs_", [-each.astype(float) for each in model.coefs_]),
    "fit": lambda model: model.fit(-X, y),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_of_fitted_attributes_count_in_place_or_not(classifier, change):
    before = classifier.predict_proba(X)
    change(classifier)
    after = classifier.predict_proba(X)
    assert np.abs(after - before).max() > 1e-3
    anew = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(anew.predict_proba(X), after)


def test_copies_and_files_hold_nothing_prepared(classifier):
    size = len(pickle.dumps(classifier))
    classifier.predict_proba(X)
    assert len(pickle.dumps(classifier)) == size
    for twin in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert not twin._cache
        twin.coefs_[0] *= -2
        assert np.abs(twin.predict_proba(X) - classifier.predict_proba(X)).max() > 1e-3


def test_models_of_files_without_the_attribute_predict(classifier):
    expected = classifier.predict_proba(X)
    del classifier._cache
    np.testing.assert_array_equal(classifier.predict_proba(X), expected)
