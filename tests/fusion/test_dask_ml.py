"""Searches of dask-ml, which do not use joblib, with the executor of the guide."""

import warnings

import numpy as np
import pytest
from fusion_helpers import alphas, folds, network, search
from helpers import ROOT, find_code_blocks
from small_problems import X, y

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("dask_ml.model_selection")


@pytest.mark.filterwarnings("ignore")
def test_the_executor_of_the_guide_fuses_a_search_of_dask_ml():
    expected = search(scoring="neg_log_loss").fit(X, y)
    page = (ROOT / "docs" / "guide" / "clusters.rst").read_text(encoding="utf-8")
    (code,) = [code for caption, code in find_code_blocks(page) if caption == "searches of dask-ml in one process"]
    names = {"pipeline": network(), "grid": alphas, "folds": folds, "X": X, "y": y}
    exec(code.replace("cv=5", "cv=folds, scoring='neg_log_loss'"), names)
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(names["search"].cv_results_[name], expected.cv_results_[name], rtol=1e-6)
    np.testing.assert_allclose(names["search"].predict_proba(X), expected.predict_proba(X), rtol=1e-6)
    report = names["executor"].report
    assert report.n_fits == 13  # with the final one
    assert max(stack.n_models for stack in report.stacks) > 1
