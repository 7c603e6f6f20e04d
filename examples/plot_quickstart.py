"""
Quickstart
==========

`ScratchNNClassifier` replaces LogisticRegression or MLPClassifier in pipelines, cross-validation and searches, and is
saved to files like them. The data are the 569 tumours of scikit-learn's breast cancer table and, for early stopping, a
table with noisy labels. The example runs in under a minute.
"""

import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import ScratchNNClassifier

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)

# %%
# The swap
# --------
# We fit three classifiers. ScratchNNClassifier scales the columns itself; the others need a scaler.

classifiers = {
    "LogisticRegression": make_pipeline(StandardScaler(), LogisticRegression()),
    "MLPClassifier": make_pipeline(StandardScaler(), MLPClassifier(max_iter=1000, random_state=0)),
    "ScratchNNClassifier": ScratchNNClassifier(random_state=0),
}
print(f"{'':20s}{'accuracy':>10s}{'log loss':>10s}{'seconds':>10s}")
for name, classifier in classifiers.items():
    start = time.perf_counter()
    classifier.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    accuracy, loss = classifier.score(X_test, y_test), log_loss(y_test, classifier.predict_proba(X_test))
    print(f"{name:20s}{accuracy:10.3f}{loss:10.3f}{seconds:10.2f}")

# %%
# Watching validation data
# ------------------------
# With ``early_stopping`` the fit ends when the validation loss no longer falls, and goes back to its best epoch. The
# defaults seldom need it: their schedule ends by itself, and ``alpha="auto"`` holds the weights back. It pays where a
# network can learn noise by heart, as here: 30 % of the labels drawn at random, a constant rate, no penalty.

X_noisy, y_noisy = make_classification(1500, 20, n_informative=8, flip_y=0.3, random_state=0)
X_known, X_new, y_known, y_new = train_test_split(X_noisy, y_noisy, random_state=0, stratify=y_noisy)
X_fit, X_val, y_fit, y_val = train_test_split(X_known, y_known, random_state=0, stratify=y_known)
plain = {"alpha": 0, "learning_rate": "constant", "random_state": 0}
long = ScratchNNClassifier(max_iter=60, tol=0, n_iter_no_change=np.inf, **plain).fit(X_known, y_known)
stopped = ScratchNNClassifier(early_stopping=True, **plain).fit(X_fit, y_fit, X_val=X_val, y_val=y_val)
default = ScratchNNClassifier(random_state=0).fit(X_known, y_known)
best = int(np.argmin(stopped.validation_loss_curve_)) + 1  # epochs count from 1
print(f"the stopped fit ended after {stopped.n_iter_} epochs; its best was epoch {best}")
print(f"{'noisy labels':34s}{'accuracy':>10s}{'log loss':>10s}")
for name, model in {
    "constant rate, no penalty": long,
    "the same, with early stopping": stopped,
    "the defaults": default,
}.items():
    print(f"{name:34s}{model.score(X_new, y_new):10.3f}{log_loss(y_new, model.predict_proba(X_new)):10.3f}")

# %%
# Cross-validation and search
# ---------------------------

network = ScratchNNClassifier(hidden_layer_sizes=(20,), random_state=0)
scores = cross_val_score(network, X, y, cv=5)
print(f"cross-validation: {scores.mean():.3f} +- {scores.std():.3f}")

pipeline = make_pipeline(StandardScaler(), network)
grid = {"scratchnnclassifier__alpha": [0.001, 0.1, 10], "scratchnnclassifier__hidden_layer_sizes": [(), (20,)]}
search = GridSearchCV(pipeline, grid, cv=3, scoring="neg_log_loss").fit(X_train, y_train)
print(f"best of the search: {search.best_params_}, test accuracy {search.best_estimator_.score(X_test, y_test):.3f}")

# %%
# To a file and back
# ------------------

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.joblib"
    joblib.dump(search.best_estimator_, path)
    loaded = joblib.load(path)
    print(f"a file of {path.stat().st_size:,} bytes")
assert (loaded.predict_proba(X_test) == search.predict_proba(X_test)).all()

# %%
# The loss of each epoch
# ----------------------
# ``training_loss_curve_`` compares with ``validation_loss_curve_``: neither holds the penalty, as ``loss_curve_`` does.
# Both fall while the network learns what also holds for other rows. Then it learns the noise: the training loss falls
# further, the validation loss does not.

try:
    import matplotlib.pyplot as plt
except ImportError:
    print("no plot: install matplotlib to save one")
else:
    epochs = np.arange(1, stopped.n_iter_ + 1)
    figure, axes = plt.subplots()
    axes.plot(epochs, stopped.training_loss_curve_, label="training")
    axes.plot(epochs, stopped.validation_loss_curve_, label="validation")
    axes.axvline(best, color="grey", linestyle=":", label=f"best epoch, {best}")
    axes.set(xlabel="epoch", ylabel="log loss", title="Early stopping on noisy labels")
    axes.legend()
    path = Path(tempfile.gettempdir()) / "scratchnn_quickstart.png"
    figure.savefig(path)
    print(f"the loss curves are in {path}")
