"""Each recipe of the page works, and its result is right."""

import re

import numpy as np
import pytest
from helpers import ROOT, find_code_blocks, run_block

PAGE = (ROOT / "docs" / "guide" / "recipes.rst").read_text(encoding="utf-8")
_, _, INTRODUCTION, *PARTS = re.split(r"(?m)^(.+)\n[=-]{3,}\n", PAGE)
RECIPES = dict(zip(PARTS[::2], PARTS[1::2], strict=True))
NEEDS = {"Files without pickle": ["skops"]}


def check_dates(names):
    assert "seen_day_of_week" in names["model"].feature_names_encoded_


def check_class_weight(names):
    found = [(names[name].predict(names["X_test"]) == 0).sum() for name in ("equal", "weighted")]
    assert found[1] > found[0]


def check_threshold(names):
    assert 0 < names["tuned"].best_threshold_ < 1
    assert names["tuned"].score(names["X_test"], (names["y_test"] == 0).astype(int)) > 0.8


def check_calibration(names):
    np.testing.assert_allclose(names["calibrated"].predict_proba(names["X_test"]).sum(1), 1)
    assert len(names["calibrated"].calibrated_classifiers_) == 3


def check_tuning(names):
    assert names["search"].cv_results_["mean_test_score"].shape == (12,)


def check_dependence(names):
    assert names["curve"]["average"].shape == (1, 20)
    assert names["curve"]["average"][0, 0] > names["curve"]["average"][0, -1]  # coarse texture is malignant


def check_importances(names):
    assert names["importances"].importances.shape == (10, 5)
    assert names["importances"].importances_mean.max() > 0


def check_selection(names):
    weights = np.abs(names["model"][1].estimator_.coef_[0])
    assert names["model"][1].get_support().sum() == 3
    assert set(np.flatnonzero(names["model"][1].get_support())) == set(np.argsort(weights)[-3:])


def check_skops(names):
    assert all(name.startswith("scratchnn.") for name in names["types"])
    assert names["model"].score(names["X_test"], names["y_test"]) > 0.8


def check_loss(names):
    loaded = names["joblib"].load("model.joblib")
    assert loaded.loss is names["focal_loss"]
    probabilities = names["model"].predict_proba(names["X_test"])
    np.testing.assert_array_equal(loaded.predict_proba(names["X_test"]), probabilities)


def check_forward_pass(names):
    expected = names["model"].predict_proba(names["X_test"])[:, 1]
    np.testing.assert_allclose(names["probabilities"], expected, rtol=1e-5, atol=1e-7)


CHECKS = {
    "Datetime columns": check_dates,
    "Class weights": check_class_weight,
    "Thresholds": check_threshold,
    "Calibrated probabilities": check_calibration,
    "Tuning in one search": check_tuning,
    "Permutation importance": check_importances,
    "Partial dependence": check_dependence,
    "Feature selection": check_selection,
    "Files without pickle": check_skops,
    "Saving a custom loss": check_loss,
    "The forward pass in NumPy": check_forward_pass,
}


@pytest.mark.parametrize("title", RECIPES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_recipe(title, tmp_path, monkeypatch):
    for module in NEEDS.get(title, []):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {}
    ((_, code),) = find_code_blocks(INTRODUCTION)
    exec(code, names)
    for caption, code in find_code_blocks(RECIPES[title]):
        if caption is None:
            run_block(code, title, names)
        else:
            (tmp_path / caption).write_text(code)
    CHECKS[title](names)


def test_each_recipe_is_short():
    for title, text in RECIPES.items():
        for _, code in find_code_blocks(text):
            assert len(re.findall(r"(?m)^(?! *#).*\S.*$", code)) <= 8, title  # without the results
            assert max(map(len, code.splitlines())) <= 79, title


def test_every_recipe_is_checked():
    assert list(CHECKS) == list(RECIPES)
