"""
Quickstart
==========

`ScratchNNClassifier` replaces LogisticRegression or MLPClassifier in
pipelines, cross-validation and searches, and is saved in the same way. This
example fits all three to the 569 tumours of scikit-learn's breast cancer
table, runs a search where it pays, saves a model, and shows when early
stopping helps. It runs in under a minute.
"""

import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import (
    load_breast_cancer,
    make_classification,
    make_hastie_10_2,
)
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import ScratchNNClassifier, fused_fits

X, y = load_breast_cancer(return_X_y=True)
parts = train_test_split(X, y, random_state=0, stratify=y)
X_train, X_test, y_train, y_test = parts

# %%
# The swap
# --------
# ScratchNNClassifier scales the features itself; the others need a scaler. The
# log loss measures the probabilities: lower is better.

linear = LogisticRegression()
mlp = MLPClassifier(max_iter=1000, random_state=0)
classifiers = {
    "LogisticRegression": make_pipeline(StandardScaler(), linear),
    "MLPClassifier": make_pipeline(StandardScaler(), mlp),
    "ScratchNNClassifier": ScratchNNClassifier(random_state=0),
}
losses = {}
print(f"On {len(y_test)} test samples after a fit on {len(y_train)}:")
print(f"{'':22s}{'accuracy':>10s}{'log loss':>10s}{'seconds':>10s}")
for name, classifier in classifiers.items():
    start = time.perf_counter()
    classifier.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    accuracy = classifier.score(X_test, y_test)
    losses[name] = log_loss(y_test, classifier.predict_proba(X_test))
    print(f"{name:22s}{accuracy:10.3f}{losses[name]:10.3f}{seconds:10.2f}")

# %%
# A search that trains its networks together
# ------------------------------------------
# Inside `fused_fits`, the networks of all folds and candidates train together.
# The defaults suit noisy tables. A search is worth its time if the labels
# follow an exact rule, as in the table that ``make_hastie_10_2`` generates.

X, y = make_hastie_10_2(2000, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
grid = {
    "hidden_layer_sizes": [(20,), (20, 20)],
    "learning_rate_init": [0.005, 0.02],
    "alpha": ["auto", 0.01, 0.1],
}
network = ScratchNNClassifier(random_state=0)
search = GridSearchCV(network, grid, cv=3, scoring="neg_log_loss")
start = time.perf_counter()
with fused_fits() as report:
    search.fit(X_train, y_train)
seconds = time.perf_counter() - start
print(f"\n{report.n_fits} fits in {seconds:.1f} s:")
print(f"best: {search.best_params_}")
network.fit(X_train, y_train)
for name, model in {"the defaults": network, "the best": search}.items():
    loss = log_loss(y_test, model.predict_proba(X_test))
    print(f"{name}: test log loss {loss:.3f}")

# %%
# Saving and loading
# ------------------

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.joblib"
    joblib.dump(search.best_estimator_, path)
    loaded = joblib.load(path)
    print(f"\nsaved as a file of {path.stat().st_size:,} bytes, and loaded")
expected = search.predict_proba(X_test)
assert (loaded.predict_proba(X_test) == expected).all()

# %%
# When early stopping helps
# -------------------------
# With ``early_stopping``, the fit ends when the validation loss no longer
# falls, and restores its best epoch. The defaults seldom need it: their
# schedule ends after 50 epochs, and ``alpha="auto"`` keeps the weights small.
# It helps where a network can memorize noise, as here: 30 % of the labels are
# drawn at random, the learning rate is constant, and there is no penalty.

X, y = make_classification(1500, n_informative=8, flip_y=0.3, random_state=0)
parts = train_test_split(X, y, random_state=0, stratify=y)
X_known, X_new, y_known, y_new = parts
parts = train_test_split(X_known, y_known, random_state=0, stratify=y_known)
X_fit, X_val, y_fit, y_val = parts
plain = {"alpha": 0, "learning_rate": "constant", "random_state": 0}
endless = {"max_iter": 40, "tol": 0, "n_iter_no_change": np.inf}
models = {
    "no penalty, 40 epochs": ScratchNNClassifier(**plain, **endless),
    "stopped early": ScratchNNClassifier(early_stopping=True, **plain),
    "the defaults": ScratchNNClassifier(random_state=0),
}
print(f"\n{'30 % of labels at random':30s}{'accuracy':>8s}{'log loss':>10s}")
for name, model in models.items():
    model.fit(X_fit, y_fit, X_val=X_val, y_val=y_val)
    accuracy = model.score(X_new, y_new)
    loss = log_loss(y_new, model.predict_proba(X_new))
    print(f"{name:30s}{accuracy:8.3f}{loss:10.3f}")
stopped = models["stopped early"]
best = int(np.argmin(stopped.validation_loss_curve_)) + 1  # counted from 1
print(f"the early stop kept epoch {best}")

# %%
# The figure
# ----------
# Above: the log loss of the three classifiers. Below: the network without a
# penalty. The training loss keeps falling while the network memorizes the
# noise, and the validation loss rises. ``training_loss_curve_`` can be
# compared with ``validation_loss_curve_``, because neither contains the
# penalty, unlike ``loss_curve_``.

try:
    import matplotlib.pyplot as plt
except ImportError:
    print("no figure: install matplotlib to save one")
else:
    figure, axes = plt.subplots(2, height_ratios=(2, 3), figsize=(5.6, 5))
    figure.set_layout_engine("constrained")
    top, bottom = axes
    colours = ["#9ca3af", "#9ca3af", "#0072b2"]
    bars = top.barh(list(losses), list(losses.values()), color=colours)
    top.bar_label(bars, fmt="%.3f", padding=3)
    top.invert_yaxis()
    top.margins(x=0.15)
    top.spines[["top", "right"]].set_visible(False)
    top.set(xlabel="test log loss (lower is better)", title="Breast cancer")

    model = models["no penalty, 40 epochs"]
    epochs = np.arange(1, model.n_iter_ + 1)
    for name, curve, colour in [
        ("training", model.training_loss_curve_, "#0072b2"),
        ("validation", model.validation_loss_curve_, "#d55e00"),
    ]:
        bottom.plot(epochs, curve, color=colour)
        bottom.annotate(
            name,
            (epochs[-1], curve[-1]),
            (4, 0),
            textcoords="offset points",
            color=colour,
            va="center",
        )
    bottom.axvline(best, color="grey", linestyle=":")
    bottom.annotate(
        f"best epoch: {best}",
        (best, 0.02),
        (4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color="grey",
    )
    bottom.spines[["top", "right"]].set_visible(False)
    bottom.set(xlabel="epoch", ylabel="log loss", title="Noisy labels")
    path = Path(tempfile.gettempdir()) / "scratchnn_quickstart.png"
    figure.savefig(path, dpi=150)
    print(f"\nthe figure is in {path}")
