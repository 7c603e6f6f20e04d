"""
Quickstart
==========

`ScratchNNClassifier` takes the place of LogisticRegression or MLPClassifier: in a pipeline, in cross-validation, in a
search, in a file. The data are the 569 tumours of scikit-learn's breast cancer table; all of it runs in under a minute.
"""

import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer
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
# Three classifiers, one line each. The columns are raw; ours scales them itself, the others are given a scaler.

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
# With ``early_stopping`` the fit ends when the validation loss no longer falls, and goes back to its best epoch.

X_fit, X_val, y_fit, y_val = train_test_split(X_train, y_train, random_state=1, stratify=y_train)
stopped = ScratchNNClassifier(early_stopping=True, max_iter=1000, random_state=0)
stopped.fit(X_fit, y_fit, X_val=X_val, y_val=y_val)
best = int(np.argmax(stopped.validation_scores_)) + 1
print(f"stopped after {stopped.n_iter_} epochs, best at {best}: test accuracy {stopped.score(X_test, y_test):.3f}")

# %%
# Cross-validation and search
# ---------------------------

network = ScratchNNClassifier(hidden_layer_sizes=(20,), learning_rate_init=0.01, max_iter=300, random_state=0)
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

try:
    import matplotlib.pyplot as plt
except ImportError:
    print("no plot: install matplotlib to save one")
else:
    figure, axes = plt.subplots()
    axes.plot(stopped.loss_curve_, label="training")
    axes.plot(stopped.validation_loss_curve_, label="validation")
    axes.axvline(best - 1, color="grey", linestyle=":", label="best epoch")
    axes.set(xlabel="epoch", ylabel="log loss", title="ScratchNNClassifier(early_stopping=True)")
    axes.legend()
    path = Path(tempfile.gettempdir()) / "scratchnn_quickstart.png"
    figure.savefig(path)
    print(f"the loss curves are in {path}")
