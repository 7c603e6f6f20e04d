"""Writes the files of the installed version that ``tests/test_files.py`` keeps loading.

``python tests/files/make.py`` is run once for each release, and what it writes is committed: a model as joblib and
skops store it, and beside it what the model predicts.
"""

import json
import zipfile
from pathlib import Path

import joblib
import skops.io
from sklearn.datasets import load_iris

import scratchnn

FOLDER = Path(__file__).parent


def main() -> None:
    """Train a small model in two parts, so that there is a state to resume from, and write its files."""
    X, y = load_iris(return_X_y=True)
    labels = load_iris().target_names[y]
    model = scratchnn.ScratchNNClassifier((3,), random_state=0)
    for _ in range(2):
        model.partial_fit(X, labels, classes=sorted(set(labels)))
    name = f"scratchnn-{scratchnn.__version__}"
    joblib.dump(model, FOLDER / f"{name}.joblib", compress=3)
    skops.io.dump(model, FOLDER / f"{name}.skops", compression=zipfile.ZIP_DEFLATED, compresslevel=9)
    (FOLDER / f"{name}.json").write_text(json.dumps({"predict_proba": model.predict_proba(X[::15]).tolist()}) + "\n")


if __name__ == "__main__":
    main()
