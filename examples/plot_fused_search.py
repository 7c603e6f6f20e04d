"""
All fits of a search at once
============================

This example runs a grid search twice: as usual, and inside ``fused_fits``, where all its networks train together.
"""

# %%
# The search tries ten learning rates of a pipeline on three folds. No line of it has to change to be fused.

import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import ScratchNNClassifier, fused_fits

X, y = load_breast_cancer(return_X_y=True)
network = ScratchNNClassifier((20,), max_iter=60, tol=0, n_iter_no_change=np.inf, dtype="float64", random_state=0)
rates = np.geomspace(1e-4, 1e-1, 10)
grid = {"scratchnnclassifier__learning_rate_init": rates}
search = GridSearchCV(make_pipeline(StandardScaler(), network), grid, cv=3, scoring="neg_log_loss", refit=False)

start = time.perf_counter()
plain = search.fit(X, y).cv_results_["mean_test_score"]
print(f"one by one: {time.perf_counter() - start:.2f} s")

# %%
# Inside ``fused_fits`` the search is the same. The report tells how many networks each stack held.

start = time.perf_counter()
with fused_fits() as report:
    fused = search.fit(X, y).cv_results_["mean_test_score"]
print(f"fused: {time.perf_counter() - start:.2f} s")
print(report)

# %%
# The scores are the same.

np.testing.assert_allclose(fused, plain, rtol=0, atol=1e-6)

figure, axes = plt.subplots()
axes.semilogx(rates, -plain, label="one by one")
axes.semilogx(rates, -fused, "o", label="fused")
axes.set(xlabel="learning_rate_init", ylabel="log loss of the folds")
axes.legend()
path = Path(tempfile.gettempdir()) / "scratchnn_fused_search.png"
figure.savefig(path)
print(f"the scores are in {path}")
