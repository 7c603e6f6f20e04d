"""Searches of dask-ml, which do not use joblib: as they are, and with the executor of the guide."""

import warnings

import numpy as np
import pytest
from fusion_helpers import alphas, folds, network, search
from helpers import ROOT, find_code_blocks, within
from small_problems import X, y

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    model_selection = pytest.importorskip("dask_ml.model_selection")

pytestmark = pytest.mark.filterwarnings("ignore")
PAGE = (ROOT / "docs" / "guide" / "clusters.rst").read_text(encoding="utf-8")


@pytest.fixture
def expected():
    return search(scoring="neg_log_loss").fit(X, y)


def assert_same_search(found, expected):
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(found.cv_results_[name], expected.cv_results_[name], rtol=1e-6)
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), rtol=1e-6)


@within(60)
def test_the_executor_of_the_guide_fuses_a_search_of_dask_ml(expected):
    (code,) = [code for caption, code in find_code_blocks(PAGE) if caption == "searches of dask-ml in one process"]
    names = {"pipeline": network(), "grid": alphas, "folds": folds, "X": X, "y": y}
    exec(code.replace("cv=5", "cv=folds, scoring='neg_log_loss'"), names)
    assert_same_search(names["search"], expected)
    report = names["executor"].report
    assert report.n_fits == 13  # with the final one
    assert max(stack.n_models for stack in report.stacks) > 1
