"""Write ``sklearn.inv``: the objects of scikit-learn's documentation to which our pages link.

Pages name them briefly, as in `GridSearchCV`. ``python docs/_inventories/make.py`` writes the file anew after a change
of the lists below. scikit-learn's own inventory has 20,000 objects, and the build has no network to fetch it.
"""

import zlib
from pathlib import Path

TARGET = Path(__file__).parent / "sklearn.inv"
CLASSES = [
    "calibration.CalibratedClassifierCV",
    "callback.ProgressBar",
    "callback.ScoringMonitor",
    "compose.ColumnTransformer",
    "dummy.DummyClassifier",
    "ensemble.BaggingClassifier",
    "ensemble.HistGradientBoostingClassifier",
    "ensemble.StackingClassifier",
    "feature_selection.SelectFromModel",
    "linear_model.LogisticRegression",
    "model_selection.FixedThresholdClassifier",
    "model_selection.GridSearchCV",
    "model_selection.RandomizedSearchCV",
    "model_selection.TunedThresholdClassifierCV",
    "multiclass.OneVsRestClassifier",
    "neural_network.MLPClassifier",
    "neural_network.MLPRegressor",
    "pipeline.Pipeline",
    "preprocessing.MultiLabelBinarizer",
    "preprocessing.OneHotEncoder",
    "preprocessing.StandardScaler",
    "inspection.PartialDependenceDisplay",
]
FUNCTIONS = [
    "inspection.partial_dependence",
    "inspection.permutation_importance",
    "model_selection.cross_val_score",
    "model_selection.cross_validate",
]
LABELS = {"metadata_routing": "metadata_routing.html#metadata-routing"}


def make_inventory() -> bytes:
    """Return the inventory in Sphinx's second format: four lines of text, and a compressed line for each object."""
    lines = [
        f"{written} py:{role} 1 modules/generated/sklearn.{name}.html#sklearn.{name} {written}"
        for role, names in [("class", CLASSES), ("function", FUNCTIONS)]
        for name in names
        for written in (f"sklearn.{name}", name.split(".")[-1])
    ]
    lines += [f"{label} std:label -1 {address} {label}" for label, address in LABELS.items()]
    header = "# Sphinx inventory version 2\n# Project: scikit-learn\n# Version: \n"
    header += "# The remainder of this file is compressed using zlib.\n"
    return header.encode() + zlib.compress("\n".join([*lines, ""]).encode(), 9)


if __name__ == "__main__":
    TARGET.write_bytes(make_inventory())
