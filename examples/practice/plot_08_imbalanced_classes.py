"""
Imbalanced classes and thresholds
=================================

One sample in twenty is a fraud. Missing a fraud costs 20 times as much as a
false alarm. A classifier with a threshold of one half misses most frauds. This
example compares three ways to lower the cost: a threshold computed from the
costs, a threshold that scikit-learn tunes, and ``class_weight``.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_classification
from sklearn.metrics import confusion_matrix, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    TunedThresholdClassifierCV,
    train_test_split,
)

from scratchnn import ScratchNNClassifier, fused_fits

# %%
# The costs
# ---------

X, y = make_classification(
    6000,
    20,
    n_informative=6,
    weights=[0.95],
    flip_y=0.01,
    random_state=0,
)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=2000, random_state=0, stratify=y
)


def calc_cost(y_true, y_pred):
    """Return the mean cost of a sample: 1 for an alarm, 20 for a miss."""
    counts = confusion_matrix(y_true, y_pred)
    return (counts[0, 1] + 20 * counts[1, 0]) / len(y_true)


# %%
# Four classifiers
# ----------------
# An alarm is worth its cost if the probability of a fraud is above 1 in 21.
# This threshold is only right for calibrated probabilities.
# TunedThresholdClassifierCV does not depend on them: it tries thresholds on
# held-out folds. ``class_weight`` trains as if frauds were 20 times as
# frequent.

network = ScratchNNClassifier((50,), random_state=0)
weighted = ScratchNNClassifier(
    (50,), class_weight={0: 1, 1: 20}, random_state=0
)
cost_score = make_scorer(calc_cost, greater_is_better=False)
classifiers = {
    "threshold 0.5": network,
    "threshold 1/21": FixedThresholdClassifier(network, threshold=1 / 21),
    "tuned threshold": TunedThresholdClassifierCV(network, scoring=cost_score),
    "class_weight": weighted,
}
costs = {}
for name, classifier in classifiers.items():
    with fused_fits():
        classifier.fit(X_train, y_train)
    predicted = classifier.predict(X_test)
    costs[name] = calc_cost(y_test, predicted)
    (_, alarms), (missed, found) = confusion_matrix(y_test, predicted)
    print(
        f"{name:16s}found {found} of {found + missed} frauds, "
        f"{alarms:3d} false alarms, cost {costs[name]:.3f}"
    )
tuned = classifiers["tuned threshold"].best_threshold_
print(f"the tuned threshold is {tuned:.3f}")

# %%
# The cost of each threshold
# --------------------------
# The black curve belongs to the network of the first three classifiers. It is
# flat around its lowest point, so both thresholds near it cost about the same,
# and a third less than 0.5. The grey curve belongs to the network that was
# trained with ``class_weight``: its threshold of 0.5 saves a little less here.

thresholds = np.geomspace(0.001, 0.95, 100)
figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
for classifier, colour in [(network, "black"), (weighted, "#999999")]:
    proba = classifier.predict_proba(X_test)[:, 1]
    curve = [calc_cost(y_test, proba > threshold) for threshold in thresholds]
    axes.semilogx(thresholds, curve, color=colour)
marks = [
    ("class_weight", 0.5, "#CC79A7", (4, -16), "left"),
    ("threshold 0.5", 0.5, "#D55E00", (-10, 0), "right"),
    ("threshold 1/21", 1 / 21, "#0072B2", (-6, -20), "right"),
    ("tuned threshold", tuned, "#009E73", (2, -22), "left"),
]
for name, threshold, colour, offset, side in marks:
    axes.plot(threshold, costs[name], "o", markersize=9, color=colour)
    axes.annotate(
        name,
        (threshold, costs[name]),
        xytext=offset,
        textcoords="offset points",
        ha=side,
        color=colour,
    )
axes.set(xlabel="threshold", ylabel="mean cost of a test sample", ylim=0)
axes.xaxis.set_major_formatter("{x:g}")
axes.spines[["top", "right"]].set_visible(False)
plt.show()
