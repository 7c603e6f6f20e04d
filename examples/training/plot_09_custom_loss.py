"""
A custom loss
=============

``loss`` may be a function of logits and targets. Here, it is the generalized
cross entropy (Zhang and Sabuncu, 2018), in which very unlikely samples count
less than in the log loss. It suits data with wrong labels.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from sklearn.datasets import make_moons
from sklearn.inspection import DecisionBoundaryDisplay

from scratchnn import ScratchNNClassifier

# %%
# The function
# ------------
# It gets the logits and the targets (zeros and ones), two tensors of shape
# (n_samples, n_outputs), and returns a value for each output. It uses
# PyTorch's functions, so that autograd computes its gradient. From the logits
# back to the inputs, the hand-derived backward pass computes the gradients.
#
# With the probability ``p`` of the true class, the loss is ``(1 - p**q) / q``.
# For ``q`` near 0, it is the log loss, and for 1, the mean absolute error.


def generalized_cross_entropy(logits, targets, q=0.7):
    """Return a loss for each sample, (n_samples, 1)."""
    signs = 2 * targets - 1
    log_p = torch.nn.functional.logsigmoid(signs * logits)
    return (1 - torch.exp(q * log_p)) / q


# %%
# Wrong labels
# ------------
# The data are two half moons. In training, 40 % of the labels of one of them
# are wrong. The test labels are correct.

rng = np.random.default_rng(0)
X_train, y_right = make_moons(600, noise=0.15, random_state=0)
is_wrong = (y_right == 1) & (rng.random(600) < 0.4)
y_train = np.where(is_wrong, 0, y_right)
X_test, y_test = make_moons(2000, noise=0.15, random_state=1)

models = {
    "log loss": ScratchNNClassifier(random_state=0),
    "custom loss": ScratchNNClassifier(
        loss=generalized_cross_entropy, random_state=0
    ),
}
for name, model in models.items():
    model.fit(X_train, y_train)
    accuracy = model.score(X_test, y_test)
    print(f"{name}: {accuracy:.1%} test accuracy")

# %%
# Both boundaries
# ---------------
# Crosses are samples with a wrong label. With the log loss, they make the
# network uncertain about the whole lower moon, and the boundary cuts off a
# part of it. With the custom loss, they have less influence: the network is
# more certain about the moon, and more often right.

figure, grid = plt.subplots(
    1, 2, figsize=(6, 3.2), layout="constrained", sharex=True, sharey=True
)
dots = ListedColormap(["#D55E00", "#0072B2"])
norm = plt.Normalize(0, 1)
for axes, (name, model) in zip(grid, models.items(), strict=True):
    DecisionBoundaryDisplay.from_estimator(
        model,
        X_train,
        ax=axes,
        response_method="predict_proba",
        class_of_interest=1,
        plot_method="pcolormesh",
        cmap="RdBu",
        vmin=0,
        vmax=1,
        alpha=0.6,
        eps=0.3,
        xlabel="",
        ylabel="",
    )
    for marker, mask in {"o": ~is_wrong, "x": is_wrong}.items():
        axes.scatter(
            *X_train[mask].T,
            c=y_train[mask],
            cmap=dots,
            norm=norm,
            s=9,
            marker=marker,
            linewidths=1,
        )
    accuracy = model.score(X_test, y_test)
    axes.set_title(f"{name}: {accuracy:.0%} right")
    axes.set(xticks=[], yticks=[])
plt.show()
