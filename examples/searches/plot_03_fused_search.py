"""
Tuning with all fits at once
============================

This example tunes the learning rate by a grid search, three times: as usual,
on two processes, and inside `fused_fits`, where all networks train together.
It compares the times and the scores.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import ScratchNNClassifier, fused_fits

# %%
# The search
# ----------
# Ten learning rates of a pipeline, on three folds: 30 fits of a small network.
# In float64, the scores agree to many digits.

X, y = load_breast_cancer(return_X_y=True)
network = ScratchNNClassifier(
    (20,),
    max_iter=30,
    numeric_encoding=None,
    dtype="float64",
    random_state=0,
)
pipeline = make_pipeline(StandardScaler(), network)
rates = np.geomspace(1e-3, 0.3, 10)
grid = {"scratchnnclassifier__learning_rate_init": rates}


def run_search(n_jobs=None):
    """Return the seconds of a search, and the log loss of each candidate."""
    search = GridSearchCV(
        pipeline,
        grid,
        cv=3,
        scoring="neg_log_loss",
        refit=False,
        n_jobs=n_jobs,
    )
    start = time.perf_counter()
    search.fit(X, y)
    seconds = time.perf_counter() - start
    return seconds, -search.cv_results_["mean_test_score"]


one_by_one, losses = run_search()

# %%
# Two processes first have to start and import PyTorch. joblib keeps them for
# later calls, so a small call starts them, and its time does not count.

start = time.perf_counter()
cross_val_score(pipeline, X, y, cv=2, n_jobs=2)
print(f"start of two processes: {time.perf_counter() - start:.1f} s")
two_processes, _ = run_search(n_jobs=2)

# %%
# Inside `fused_fits`, the search is the same. The report says how many
# networks trained as one stack, and how long the training took. The rest of
# the time is scikit-learn's: splitting, scaling, scoring.

with fused_fits() as report:
    fused, fused_losses = run_search()
print(report)

# %%
# Times and scores
# ----------------
# The scores are the same up to rounding. The times are from one run, and vary
# with the load of the machine. The network is small, which favours fusion:
# with the default of 200 neurons, a search gains little.

np.testing.assert_allclose(fused_losses, losses, rtol=0, atol=1e-6)

print(f"best learning rate: {rates[losses.argmin()]:.4f}")
figure, (left, right) = plt.subplots(
    1, 2, figsize=(5.4, 3.4), layout="constrained"
)
names = ["one by one", "2 processes", "fused"]
seconds = [one_by_one, two_processes, fused]
colours = ["#999999", "#E69F00", "#0072B2"]
bars = left.barh(names, seconds, color=colours)
left.bar_label(bars, fmt="%.2f s", padding=3)
left.invert_yaxis()
left.set(title="seconds", xticks=[])
left.margins(x=0.3)
left.spines[["top", "right", "bottom"]].set_visible(False)

right.semilogx(rates, losses, color="#999999", linewidth=4, label=names[0])
right.semilogx(rates, fused_losses, "o", color="#0072B2", label=names[2])
right.legend(frameon=False)
right.set(xlabel="learning_rate_init", title="log loss of the folds")
right.spines[["top", "right"]].set_visible(False)
plt.show()
