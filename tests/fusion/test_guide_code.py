"""The code of the guide: Optuna's trials in batches, and searches of dask-ml, which do not use joblib."""

import numpy as np
import pytest
from fusion_helpers import alphas, assert_equal_results, folds, network, search
from helpers import ROOT, find_code_blocks
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from small_problems import X, y

from scratchnn.fusion.hub import Fusion

pytestmark = pytest.mark.filterwarnings("ignore")


def find_code(page, part):
    text = (ROOT / "docs" / "guide" / page).read_text(encoding="utf-8")
    (code,) = [code for _, code in find_code_blocks(text) if part in code]
    return code


def test_trials_train_as_stacks_and_all_are_told_or_pruned(monkeypatch):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sizes = []
    monkeypatch.setattr(Fusion, "note", lambda fusion, stack: sizes.append(stack.n_models))
    names = ["X_train", "X_val", "y_train", "y_val"]
    space = dict(zip(names, train_test_split(*load_breast_cancer(return_X_y=True), random_state=0), strict=True))
    exec(find_code("fusion.rst", "study.ask()"), space)
    assert sizes[0] == 8
    assert len(sizes) <= 3 * 3  # a stack for each parallel call
    states = [trial.state.name for trial in space["study"].trials]
    assert len(states) == 24
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert space["study"].best_value > -0.15


def test_an_executor_fuses_a_search_of_dask_ml():
    pytest.importorskip("dask_ml.model_selection")
    expected = search(scoring="neg_log_loss").fit(X, y)
    names = {"pipeline": network(), "grid": alphas, "folds": folds, "X": X, "y": y}
    exec(find_code("clusters.rst", "dask_ml").replace("cv=5", "cv=folds, scoring='neg_log_loss'"), names)
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(names["search"].cv_results_[name], expected.cv_results_[name], rtol=1e-6)
    assert_equal_results(names["search"].best_estimator_, expected.best_estimator_)
    report = names["executor"].report
    assert report.n_fits == 13  # with the final one
    assert max(stack.n_models for stack in report.stacks) > 1
