"""
Calibration of the probabilities
================================

A model is calibrated if 80 % of the samples with a predicted probability of
80 % belong to the class. This example draws the calibration curve of the
defaults, of a network without a penalty, and of the same network after
scikit-learn's CalibratedClassifierCV.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.datasets import make_classification
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.model_selection import train_test_split

from scratchnn import ScratchNNClassifier, fused_fits

# %%
# Noisy labels
# ------------
# A fifth of the labels are drawn at random. 1,000 samples are for training,
# and 5,000 for the test, so that the curves are smooth.

X, y = make_classification(
    6000, 20, n_informative=8, flip_y=0.2, random_state=0
)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=1000, random_state=0, stratify=y
)

# %%
# Three models
# ------------
# ``alpha="auto"``, the default, chooses the penalty by the noise of the table.
# Without a penalty, the network memorizes the noise, and becomes
# overconfident. CalibratedClassifierCV corrects this: it fits the network on
# folds, and learns from the held-out samples how to map its outputs to
# probabilities. Inside `fused_fits`, the networks of the folds train together.

overfitted = ScratchNNClassifier(
    (50,),
    alpha=0,
    learning_rate="constant",
    max_iter=40,
    tol=0,
    n_iter_no_change=np.inf,
    random_state=0,
)
models = {
    "defaults": ScratchNNClassifier(random_state=0),
    "no penalty": overfitted,
    "no penalty,\nrecalibrated": CalibratedClassifierCV(overfitted, cv=3),
}
probabilities = {}
print(f"{'':25s}accuracy  log loss  Brier score")
for name, model in models.items():
    with fused_fits():
        model.fit(X_train, y_train)
    proba = model.predict_proba(X_test)[:, 1]
    probabilities[name] = proba
    print(
        f"{' '.join(name.split()):25s}{model.score(X_test, y_test):8.3f}"
        f"{log_loss(y_test, proba):10.3f}"
        f"{brier_score_loss(y_test, proba):13.3f}"
    )

# %%
# The curves
# ----------
# A model on the black line is perfectly calibrated. Without a penalty, the
# network is overconfident: of the samples with a probability of about 98 %,
# some 85 % belong to the class. The defaults are underconfident: of the
# samples with a probability of about 25 %, some 10 % belong to the class.
# Recalibration gives the network without a penalty a similar curve, but a
# lower accuracy.

figure, axes = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
axes.plot([0, 1], [0, 1], color="black", linewidth=1)
colours = ["#0072B2", "#D55E00", "#009E73"]
for colour, (name, proba) in zip(colours, probabilities.items(), strict=True):
    observed, predicted = calibration_curve(y_test, proba, n_bins=10)
    axes.plot(predicted, observed, "o-", color=colour, label=name)
axes.set(
    xlabel="predicted probability",
    ylabel="share of the class",
    xlim=(0, 1),
    ylim=(0, 1),
)
axes.legend(frameon=False)
plt.show()
