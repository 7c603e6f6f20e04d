"""Trains a model with the scratchnn that is installed in the folder given as argument."""

import sys
from importlib.metadata import version
from pathlib import Path

from sklearn.datasets import load_iris

import scratchnn

folder = Path(scratchnn.__file__).parent
assert folder == Path(sys.argv[1]) / "scratchnn", f"scratchnn comes from {folder}, not from {sys.argv[1]}"
assert (folder / "py.typed").exists()
assert version("scratchnn") == scratchnn.__version__
X, y = load_iris(return_X_y=True)
with scratchnn.fused_fits():
    score = scratchnn.ScratchNNClassifier(random_state=0).fit(X, y).score(X, y)
assert score > 0.95, score
sys.stdout.write(f"scratchnn {scratchnn.__version__} from {folder}: accuracy on iris {score:.3f}\n")
