"""
Loss curves and early stopping
==============================

A network with many neurons can memorize the noise of its training samples. The
validation loss reveals this. The example draws both losses for a network
without limits, with early stopping, with dropout, and with the defaults.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_classification
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from scratchnn import LossCurveDisplay, ScratchNNClassifier

# %%
# Noisy labels
# ------------
# 30 % of the labels are drawn at random. 600 samples are for training, 300 for
# validation, and 2,100 for the test.

X, y = make_classification(
    3000, 20, n_informative=8, flip_y=0.3, random_state=0
)
X_train, X_rest, y_train, y_rest = train_test_split(
    X, y, train_size=600, random_state=0, stratify=y
)
X_val, X_test, y_val, y_test = train_test_split(
    X_rest, y_rest, train_size=300, random_state=0, stratify=y_rest
)

# %%
# Four fits
# ---------
# If ``fit`` gets validation data, it records their loss after each epoch, with
# or without early stopping.

plain = {"alpha": 0, "learning_rate": "constant", "random_state": 0}
long = {"max_iter": 50, "tol": 0, "n_iter_no_change": np.inf}
models = {
    "no limits": ScratchNNClassifier(**plain, **long),
    "early stopping": ScratchNNClassifier(**plain, early_stopping=True),
    "dropout": ScratchNNClassifier(**plain, **long, dropout=0.5),
    "defaults": ScratchNNClassifier(random_state=0),
}
for name, model in models.items():
    model.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    loss = log_loss(y_test, model.predict_proba(X_test))
    print(
        f"{name:15s}{model.n_iter_:3d} epochs, test accuracy "
        f"{model.score(X_test, y_test):.3f}, log loss {loss:.3f}"
    )

# %%
# Both losses of each fit
# -----------------------
# `LossCurveDisplay` draws ``training_loss_curve_`` and
# ``validation_loss_curve_``. They can be compared, because neither contains
# the penalty, unlike ``loss_curve_``. The dots mark the smallest validation
# loss.
#
# Without limits, the training loss falls to zero, and the validation loss
# rises from the fifth epoch on. Early stopping waits ten epochs for an
# improvement, stops, and restores the coefficients of the best epoch. Dropout
# slows the rise. The defaults need no early stopping: ``alpha="auto"``
# estimates the noise of the table, and keeps the weights small.

figure, grid = plt.subplots(
    2, 2, figsize=(7.2, 5.4), layout="constrained", sharex=True, sharey=True
)
for axes, (name, model) in zip(grid.flat, models.items(), strict=True):
    LossCurveDisplay.from_estimator(model, ax=axes)
    axes.set_title(name)
    axes.label_outer()
plt.show()
