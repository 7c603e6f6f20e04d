"""Each recipe of the page works, with a small network, and its result is right."""

import re

import numpy as np
import pytest
from helpers import ROOT, find_code_blocks
from sklearn.utils.validation import check_is_fitted

PAGE = (ROOT / "docs" / "guide" / "recipes.rst").read_text(encoding="utf-8")
_, _, INTRODUCTION, *PARTS = re.split(r"(?m)^(.+)\n[=-]{3,}\n", PAGE)
RECIPES = dict(zip(PARTS[::2], PARTS[1::2], strict=True))
NEEDS = {
    "A monitor and a bar in a search": ["sklearn.callback", "rich"],
    "A bar for a fused search": ["tqdm"],
    "A file for others": ["skops"],
}


def check_columns(names):
    assert list(names["model"].feature_names_encoded_[2:5]) == [
        "missingindicator_mean radius",
        "ward_east",
        "ward_west",
    ]


def check_threshold(names):
    assert 0 < names["tuned"].best_threshold_ < 1
    assert names["tuned"].score(names["X_test"], (names["y_test"] == 0).astype(int)) > 0.8


def check_calibration(names):
    np.testing.assert_allclose(names["calibrated"].predict_proba(names["X_test"]).sum(1), 1)
    assert len(names["calibrated"].calibrated_classifiers_) == 3


def check_chunks(names):
    assert names["model"].t_ == 5 * len(names["X_train"])
    assert names["model"].score(names["X_test"], names["y_test"]) > 0.85


def check_importances(names):
    assert names["importances"].importances.shape == (30, 3)
    assert names["importances"].importances_mean.max() > 0


def check_selection(names):
    weights = np.abs(names["model"][1].estimator_.coef_[0])
    assert names["model"][1].get_support().sum() == 8
    assert set(np.flatnonzero(names["model"][1].get_support())) == set(np.argsort(weights)[-8:])


def check_monitor(names):
    epochs = [row for row in names["monitor"].get_logs().data if row["task_name"] == "epoch"]
    assert len(epochs) == (2 * 5 + 1) * names["net"].max_iter


def check_fused_search(names):
    frame = names["report"].to_frame()
    assert frame["n_models"].sum() == 2 * 5
    check_is_fitted(names["search"])


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
    "Mixed columns": check_columns,
    "Imbalanced classes": check_threshold,
    "Calibrated probabilities": check_calibration,
    "Data in chunks": check_chunks,
    "Permutation importance": check_importances,
    "Feature selection": check_selection,
    "A monitor and a bar in a search": check_monitor,
    "A bar for a fused search": check_fused_search,
    "A file for others": check_skops,
    "A loss of your own that survives a file": check_loss,
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
    names["net"].set_params(hidden_layer_sizes=(5,), max_iter=5, learning_rate_init=0.02)
    for caption, code in find_code_blocks(RECIPES[title]):
        if caption is None:
            exec(compile(code, title, "exec"), names)
        else:
            (tmp_path / caption).write_text(code)
    CHECKS[title](names)


def test_each_recipe_is_short():
    for title, text in RECIPES.items():
        for _, code in find_code_blocks(text):
            assert len(re.findall(r"(?m)^.*\S.*$", code)) <= 6, title
            assert max(map(len, code.splitlines())) <= 79, title


def test_every_recipe_is_checked():
    assert list(CHECKS) == list(RECIPES)
